"""What `banet predict` is to segment: found one by one, each with its name and id, never as a list in memory."""

from __future__ import annotations

import glob
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, NamedTuple

from banet.data.images import ImageSearch, StoredImage, page_count, read_shard
from banet.data.images.formats import readable_suffixes
from banet.errors import InputError, MissingExtraError, abbreviate
from banet.files.names import DistinctNames, check_file_name, forward, without_suffix
from banet.files.outputs import Record, is_output
from banet.files.reading import open_file
from banet.files.remote import has_pattern, is_remote, list_remote, open_remote, without_query, without_scheme
from banet.files.spooled import SpooledSet
from banet.files.worker import isolated_items
from banet.panoptic.coco.annotations import ImageInfo, read_tables
from banet.types import ImageId

__all__ = ["IMAGE_OUTPUTS", "OVERLAY", "RESERVED", "Item", "Sources"]

OVERLAY = "_overlay.jpg"
IMAGE_OUTPUTS = (".png", ".json", OVERLAY)
"""How the names of an image's outputs end."""
RESERVED = ("segments.csv", "panoptic.json", "gallery.html")
"""Names of outputs of all images."""


class Item(NamedTuple):
    """An image, or a page of a file of several; without `page` it is the first.

    Attributes:
        path: The file, archive or URL.
        name: Of its outputs.
        file_name: What `panoptic.json` calls it.
        page: From 0.
        image_id: In `panoptic.json`; None where nothing says it.
        offset: Where it begins in an archive.
        size: Bytes of it there.
    """

    path: str
    name: str
    file_name: str
    page: int | None = None
    image_id: ImageId | None = None
    offset: int | None = None
    size: int | None = None

    @property
    def file(self) -> str:
        """Return what the image is called in messages."""
        return without_query(self.path) if self.offset is None else f"{self.path}/{self.file_name}"

    @property
    def title(self) -> str:
        """Return what the image is called in tables."""
        return self.file if self.page is None else f"{self.file} (page {self.page + 1})"

    @property
    def identity(self) -> ImageId:
        """Return its id, as `Sources` gives each one."""
        return 1 if self.image_id is None else self.image_id

    @property
    def source(self) -> Path | StoredImage:
        """Return what to read it from."""
        if self.offset is not None or is_remote(self.path):
            return StoredImage(self.path, self.file, self.offset or 0, self.size)
        return Path(self.path)

    @property
    def origin(self) -> Path | None:
        """Return the file on disk that it is in; None of a URL."""
        return None if is_remote(self.path) else Path(self.path)

    def to_line(self) -> dict[str, Any]:
        """Return what a list of work holds of it."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Sources:
    """The images that the inputs of one call name, in order; may be iterated over several times.

    Args:
        inputs: Images, folders and patterns; tar archives; URLs of these.
        listed: A text file of paths; see `_listed`.
        recursive: See `ImageSearch`.
        page: The page of files that have several, from 1, or all.
        ids: COCO JSON whose `images` give ids and names, by file name.
        kind: The command whose own outputs are left out where they lie among the images.
        dotless: Names of outputs have no dot, as the part behind it would count as a suffix.

    Attributes:
        left_out: How many outputs of this command were passed over; complete when the iteration has ended, as are
        unreadable: and
        skipped: as of `ImageSearch`.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        listed: str | None = None,
        recursive: bool = False,
        page: int | Literal["all"] | None = None,
        ids: str | None = None,
        kind: str = "",
        dotless: bool = False,
    ) -> None:
        inputs = [os.fspath(without_scheme(text)) for text in inputs]
        self._shards = [text for text in inputs if without_query(text).lower().endswith(".tar")]
        self._urls = [text for text in inputs if is_remote(text) and text not in self._shards]
        self._files = [text for text in inputs if text not in self._shards and text not in self._urls]
        self._search = ImageSearch(self._files, recursive=recursive)
        listed = None if listed is None else os.fspath(without_scheme(listed))
        self._list, self._recursive, self._page, self._ids = listed, recursive, page, ids
        self._kind, self._dotless = kind, dotless
        self.left_out = 0

    @property
    def unreadable(self) -> list[str]:
        """Return a line for each folder with images that are of no format that is read."""
        return self._search.unreadable

    @property
    def skipped(self) -> list[str]:
        """Return a line for each folder with other files."""
        return self._search.skipped

    def __iter__(self) -> Iterator[Item]:
        named = None if self._ids is None else _by_name(self._ids)
        taken = SpooledSet()
        for number, found in enumerate(self._named(), start=1):
            item = found
            if named is not None:
                item = _identified(item, named, str(self._ids))
            elif item.image_id is None:
                item = item._replace(image_id=number)
            own_ids = named is not None or self._list is not None or self._shards
            if own_ids and not taken.add(json.dumps(item.image_id)):
                raise self._twice(item)
            yield item

    def _twice(self, item: Item) -> InputError:
        if self._ids is not None:
            return InputError(f"names several images like {item.path}", where=self._ids, hint="leave out the image")
        pairs = enumerate(self._named(), start=1)
        first = next(each for n, each in pairs if item.image_id == (n if each.image_id is None else each.image_id))
        problem = f"has the id {abbreviate(item.image_id)}, as {first.file} has"
        return InputError(problem, where=item.file, hint="ids must differ, over all archives and lists too")

    def _named(self) -> Iterator[Item]:
        """Yield the images with the names of their outputs."""
        names = DistinctNames(*IMAGE_OUTPUTS, on_disk=True)
        for item in self._found():
            for each in self._pages(item):
                stem = PurePosixPath(forward(each.name))
                if self._dotless:
                    stem = stem.with_name(stem.stem.replace(".", "_") + stem.suffix)
                named = each._replace(name=names.choose(stem.as_posix()))
                for suffix in IMAGE_OUTPUTS:
                    if f"{named.name}{suffix}".casefold() in RESERVED:
                        problem = f"its result would be {named.name.lower()}{suffix}, as that of all"
                        raise InputError(problem, where=item.file, hint="rename it")
                yield named

    def _pages(self, item: Item) -> Iterator[Item]:
        """Yield what is to be segmented of a file."""
        try:
            count = 1 if self._page is None else page_count(item.source)
        except (InputError, MissingExtraError):  # the reader says why
            count = 1
        if self._page == "all" and count > 1:
            name = PurePosixPath(item.name)
            for n in range(count):
                each = name.with_name(f"{name.stem}_page{n + 1}{name.suffix}").as_posix()
                yield item._replace(name=each, file_name=each, page=n)
        else:
            yield item._replace(page=self._page - 1 if isinstance(self._page, int) and count > 1 else None)

    def _found(self) -> Iterator[Item]:
        if self._files:
            yield from self._in_files()
        for text in self._shards:
            for path in _matches(text):
                for stored in read_shard(path):
                    name = check_file_name(stored.name.removeprefix(f"{path}/"), f"{path}: member")
                    name = posixpath.normpath(name)  # `tar -C dir .` writes ./a.png
                    key = without_suffix(name)
                    yield Item(path, name, name, image_id=key, offset=stored.offset, size=stored.size)
        for text in self._urls:
            for url in _behind(text):
                name = PurePosixPath(without_query(url)).name
                yield Item(url, name, name)
        if self._list is not None:
            yield from _listed(self._list)

    def _in_files(self) -> Iterator[Item]:
        """Yield the images of paths and patterns, without those that this command wrote, unless named one by one."""
        single = {Path(text).expanduser() for text in self._files}
        folders = self._files if self._recursive else ()
        records: dict[Path, Record] = {}
        self.left_out, path, some = 0, Path(), False
        for path in self._search:
            if path not in single and is_output(path, self._kind, records):
                self.left_out += 1
                continue
            some = True
            name = _name_of(path, folders).as_posix()
            yield Item(str(path), name, name)
        if not some and self.left_out:
            problem = f"holds no images but results of `{self._kind}`"
            raise InputError(problem, where=path.parent, hint="give the images")


def _name_of(path: Path, folders: Sequence[str]) -> PurePath:
    """Return the name of an image: with its place in the folder that was given, where it was found in one of some."""
    roots = (root for root in (Path(text).expanduser() for text in folders) if root in path.parents)
    root = next(roots, None)
    return PurePath(path.name) if root is None else path.relative_to(root)


def _matches(text: str) -> Iterator[str]:
    """Yield the archives that a path, URL or pattern stands for."""
    if is_remote(text):
        yield from list_remote(text) if has_pattern(text) else [text]
        return
    if os.path.exists(text) or not glob.has_magic(text):
        yield text
        return
    found = sorted(glob.glob(os.path.expanduser(text)))
    if not found:
        raise InputError("no file matches the pattern", where=text, hint="give archives")
    yield from found


def _behind(url: str) -> Iterator[str]:
    """Yield the images behind a URL, of a folder or pattern in order."""
    known = readable_suffixes()
    if PurePosixPath(without_query(url)).suffix.lower() in known and not has_pattern(url):
        yield url
        return
    found = SpooledSet()
    for each in list_remote(url):
        if PurePosixPath(without_query(each)).suffix.lower() in known:
            found.add(each)
    some = False
    for each in found:
        some = True
        yield each
    if not some:
        raise InputError("holds no image", where=url, hint="give images, a folder or a pattern")


def _listed(file: str) -> Iterator[Item]:
    """Yield the images of a list: per line a path or URL and, behind a tab, an id if they have some.

    Relative paths are relative to the list. Empty lines and those that begin with # are passed over.
    """
    remote = is_remote(file)
    seen = SpooledSet()
    some = False
    for number, line in _lines(file):
        some = True
        path, _, text = line.partition("\t")
        path = os.fspath(without_scheme(path))
        where = f"{file}: line {number}"
        if not path or "\0" in path:
            raise InputError(f"must begin with a path, not {abbreviate(path)}", where=where)
        if not seen.add(path):
            raise InputError(f"{path} is listed twice", where=where, hint="leave one out")
        if not is_remote(path):
            base = without_query(file).rpartition("/")[0]
            path = f"{base}/{path}" if remote else os.path.join(os.path.dirname(file), path)
        name = PurePath(without_query(path)).name
        yield Item(path, name, name, image_id=int(text) if text.isdecimal() else text or None)
    if not some:
        raise InputError("lists no image", where=file, hint="give a path per line")


@isolated_items
def _lines(file: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a list that say something, each with its number."""
    with open_remote(file) if is_remote(file) else open_file(file) as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf" if number == 1 else b"")
            if line.strip() and not line.startswith(b"#"):
                yield number, os.fsdecode(line)


def _by_name(file: str) -> dict[str, list[ImageInfo]]:
    """Return the images of a COCO JSON by the last part of their names."""
    named: dict[str, list[ImageInfo]] = {}
    for info in read_tables(file, optional=True)[0].values():
        named.setdefault(PurePosixPath(forward(info.file_name)).name, []).append(info)
    return named


def _identified(item: Item, named: dict[str, list[ImageInfo]], file: str) -> Item:
    """Return an image with the id and name that a COCO JSON gives it.

    Raises:
        InputError: The JSON does not name it, or names it several times.
    """
    path = item.file if isinstance(item.source, StoredImage) else Path(item.path).absolute().as_posix()
    name = PurePosixPath(forward(path)).name
    found = [info for info in named.get(name, ()) if path.endswith(f"/{PurePosixPath(forward(info.file_name))}")]
    if len(found) != 1:
        what = "names several images like" if found else "does not name"
        raise InputError(f"{what} {item.file}", where=file, hint="leave out the image, or --json")
    return item._replace(image_id=found[0].id, file_name=found[0].file_name)
