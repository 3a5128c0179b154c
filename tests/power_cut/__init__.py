"""Power cuts: what a disk may hold when it loses whatever was not synced, and the programs that lose it."""
