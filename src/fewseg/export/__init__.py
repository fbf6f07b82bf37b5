"""Methods as files that run without this package: ONNX, and torch's own `.pt2`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
