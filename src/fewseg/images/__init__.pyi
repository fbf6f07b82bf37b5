from .decode import MAX_PIXELS as MAX_PIXELS
from .decode import ImageLike as ImageLike
from .depth import get_range as get_range
from .depth import set_range as set_range
from .kinds import SUFFIXES as SUFFIXES
from .masks import read_mask as read_mask
from .read import OpenedImage as OpenedImage
from .read import open_image as open_image
from .read import read_image as read_image
from .read import read_image_header as read_image_header
from .read import read_image_size as read_image_size

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageLike",
    "OpenedImage",
    "get_range",
    "open_image",
    "read_image",
    "read_image_header",
    "read_image_size",
    "read_mask",
    "set_range",
]
