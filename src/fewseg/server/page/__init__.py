"""The routes that the annotation page uses."""
