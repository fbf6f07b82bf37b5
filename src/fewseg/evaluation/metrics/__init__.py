"""Overlap of predicted and true masks, by pixels and by regions."""
