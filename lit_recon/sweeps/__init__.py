"""Many runs of one command: a grid over its flags, run here or on a cluster, and their results."""
