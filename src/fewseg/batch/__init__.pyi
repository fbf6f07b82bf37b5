from .files import BatchReport as BatchReport
from .files import segment_files as segment_files
from .find_images import find_images as find_images
from .options import BatchOptions as BatchOptions
from .options import Engine as Engine

__all__ = ["BatchOptions", "BatchReport", "Engine", "find_images", "segment_files"]
