"""Every experiment of the DCAMA paper beside its main tables, as data that any dataset can be put through."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
