"""Images that are not files of their own: members of tar archives, and what lies behind a URL."""

from __future__ import annotations

from collections.abc import Iterator

from banet.data.images.formats import readable_suffixes
from banet.errors import InputError
from banet.files.archives import StoredFile as StoredImage
from banet.files.archives import archive_members

__all__ = ["StoredImage", "read_shard"]


def read_shard(path: str) -> Iterator[StoredImage]:
    """Yield the images in a tar archive, such as webdataset's shards, in its order; only headers are read.

    Args:
        path: The archive or its URL.

    Raises:
        InputError: It cannot be read, is compressed, cut off, or holds no image.
    """
    some = False
    for name, offset, size in archive_members(path, readable_suffixes()):
        some = True
        yield StoredImage(path, f"{path}/{name}", offset, size)
    if not some:
        raise InputError("the archive holds no image", where=path, hint="leave it out")
