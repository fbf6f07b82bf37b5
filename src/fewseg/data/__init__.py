"""Datasets (images by class) and the episodes sampled from them."""
