"""Measurements of the attack; from a clone's root, ``python -m benchmarks.NAME --help``."""

from lit_recon.processor import prefer_fast_kernels

prefer_fast_kernels()  # before a benchmark imports torch
