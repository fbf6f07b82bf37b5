"""Leaf programs: benchmarks, ablations, explanations, the demo; only the command line imports them."""
