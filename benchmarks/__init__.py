"""Measurements of the attack; from a clone's root, ``python -m benchmarks.NAME --help``."""
