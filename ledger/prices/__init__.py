"""Price books, what a call cost under one, and the most that it can cost."""
