"""An annotation project: its labels, masks and history, in files beside the images."""
