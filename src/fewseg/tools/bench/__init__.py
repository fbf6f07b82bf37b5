"""Measuring: the straightforward way and ours side by side, what this machine could do at best, and what it costs."""
