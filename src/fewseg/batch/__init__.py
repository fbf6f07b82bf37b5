"""Many files to a folder of masks: threads or Ray, tiles, frames of videos; a run that was stopped resumes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
