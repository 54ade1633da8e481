"""The parts of the command `fit`: configuration, trainer, run directory and last lines."""
