"""Where numbers go: the run directory, the provenance of a run, and W&B."""
