"""Benchmarks; run ``python -m benchmarks.NAME --help`` in the root of a clone."""

from lit_recon.processor import prefer_fast_kernels

prefer_fast_kernels()  # before a benchmark imports torch
