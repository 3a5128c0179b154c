"""One script a peer, each run by the Python of its own environment; they share ``turns`` and nothing else."""
