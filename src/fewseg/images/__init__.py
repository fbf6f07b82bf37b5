"""Reading and writing images, masks and videos; prompts; drawing; images to a model's input."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
