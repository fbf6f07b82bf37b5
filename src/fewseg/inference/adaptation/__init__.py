"""Adaptation of labels to their own examples; nothing is imported here, so that parts stay light."""
