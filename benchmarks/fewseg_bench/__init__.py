"""Benchmarks: fewseg beside a baseline implementation and beside the machine's roofline."""
