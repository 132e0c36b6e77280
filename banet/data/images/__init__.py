"""Image files: which are found, how they are read as RGB, and cut from where they are huge. Needs no torch."""

from banet._moved import renamed
from banet.data.images.formats import SUFFIXES
from banet.data.images.listing import ImageList, ImageSearch, find_images, list_images
from banet.data.images.reading import (
    decode_image,
    find_depth,
    image_size,
    page_count,
    read_image,
    to_rgb_array,
)
from banet.data.images.resizing import resized_size
from banet.data.images.stored import StoredImage, read_shard
from banet.files.reading import MAX_PIXELS

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageList",
    "ImageSearch",
    "StoredImage",
    "decode_image",
    "find_depth",
    "find_images",
    "image_size",
    "list_images",
    "page_count",
    "read_image",
    "read_shard",
    "resized_size",
    "to_rgb_array",
]

__getattr__ = renamed(__name__, {"picture_size": "image_size"})
