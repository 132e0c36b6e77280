"""The structure of files, counted before a decoder follows it: pages, tags, tiles, comments, chunks, steps of pickles.

What a file of a few megabytes says of itself can make a decoder work for minutes, or repeat one value thousands of
times in memory. Each check is linear in the file, with a limit far above what programs write.
"""

from banet.files.structure.check import check_structure
from banet.files.structure.tiff import directory_tag, most_pages

__all__ = ["check_structure", "directory_tag", "most_pages"]
