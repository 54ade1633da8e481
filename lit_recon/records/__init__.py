"""What a run writes: its directory, its provenance, its training data, and W&B."""
