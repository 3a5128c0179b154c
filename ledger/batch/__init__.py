"""Many tasks from one file: its lines checked before anything is submitted, then run side by side."""
