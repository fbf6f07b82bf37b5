from .decode import MAX_PIXELS as MAX_PIXELS
from .decode import SUFFIXES as SUFFIXES
from .decode import ImageLike as ImageLike
from .masks import read_mask as read_mask
from .read import Picture as Picture
from .read import open_picture as open_picture
from .read import picture_header as picture_header
from .read import picture_size as picture_size
from .read import read_image as read_image

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageLike",
    "Picture",
    "open_picture",
    "picture_header",
    "picture_size",
    "read_image",
    "read_mask",
]
