"""The executor: reads a task's events, folds, decides, appends, acts; it keeps no retry state of its own."""
