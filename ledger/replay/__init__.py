"""The record asked again: the same history by today's rules, another policy's history, two tasks side by side."""
