"""How fast it is: tables of medians and ratios of the same run; ``python -m benchmarks --help``."""
