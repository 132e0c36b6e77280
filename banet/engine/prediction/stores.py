"""Where the files of each image go: the folder of the outputs, or tar archives in it."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from banet.engine.prediction.sources import Item
from banet.engine.sharing.part import RunPart
from banet.files.atomic import atomic_path
from banet.files.outputs import Outputs, RemoteOutputs
from banet.files.scratch import ScratchFolder

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ArchiveStore", "FolderStore", "open_store"]


class FolderStore:
    """Files of images in the folder of the outputs.

    A context manager, as an archive has an end.

    Args:
        outputs: The outputs.
        suffixes: Ends of the names of an image's files.

    Attributes:
        folder: Where the files of an image are to be written.
    """

    def __init__(self, outputs: Outputs, suffixes: Sequence[str]) -> None:
        self.outputs = outputs
        self.suffixes = suffixes
        self.folder = outputs.folder

    def enter(self, part: RunPart, items: Sequence[Item]) -> None:
        """Tell which images of which part come next."""
        names = {f"{item.name}{suffix}": item.origin for item in items for suffix in self.suffixes}
        self.outputs.enter(part.record, names)

    def keep(self, item: Item) -> None:
        """Take what was written of an image."""

    def outputs_of(self, content: dict[str, Any]) -> Sequence[str]:
        """Return the names of an image's outputs, from what a part tells of it."""
        return [f"{content['name']}{suffix}" for suffix in self.suffixes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.outputs.enter(None)


class _TemporaryStore(FolderStore):
    """Files of images in a temporary folder, from which `keep` takes them."""

    def __enter__(self) -> Self:
        self._temporary = ScratchFolder()
        self.folder = self._temporary.path
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.delete()
        super().__exit__(kind, error, trace)


class RemoteStore(_TemporaryStore):
    """Files of images in a folder behind a URL, where those of an image arrive together.

    Args:
        outputs: The outputs.
        suffixes: See `FolderStore`.
    """

    def __init__(self, outputs: RemoteOutputs, suffixes: Sequence[str]) -> None:
        super().__init__(outputs, suffixes)
        self._remote = outputs

    def keep(self, item: Item) -> None:
        """Move what was written of an image."""
        files = {f"{item.name}{suffix}": self.folder / f"{item.name}{suffix}" for suffix in self.suffixes}
        self._remote.put(files)
        for path in files.values():
            path.unlink()


class ArchiveStore(_TemporaryStore):
    """Files of images in tar archives, one per part, as webdataset reads them: NAME.png, .json and .overlay.jpg.

    An archive gets its name when its part is finished; until then none of it counts. Its bytes depend on the files
    alone.
    """

    def __init__(self, outputs: Outputs, suffixes: Sequence[str]) -> None:
        super().__init__(outputs, suffixes)
        self._stack = ExitStack()
        self._part: str | None = None

    def enter(self, part: RunPart, items: Sequence[Item]) -> None:
        """Tell which images of which part come next; a new part begins a new archive."""
        name = archive_name(part.name)
        if name != self._part:
            self._stack.close()
            self.outputs.enter(part.record, {name: None})
            self._part = name
            path = self._stack.enter_context(atomic_path(self.outputs.folder / name))
            archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # closed with the stack
            self._archive = self._stack.enter_context(archive)

    def keep(self, item: Item) -> None:
        """Move what was written of an image into the archive."""
        for suffix in self.suffixes:
            path = self.folder / f"{item.name}{suffix}"
            member = tarfile.TarInfo(f"{item.name}{suffix.replace('_', '.')}")  # what is behind the first dot is a type
            member.size = path.stat().st_size
            with path.open("rb") as file:
                self._archive.addfile(member, file)
            path.unlink()

    def outputs_of(self, content: dict[str, Any]) -> Sequence[str]:
        """Return the name of the archive that an image is in."""
        return [str(content["archive"])]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # after an error no archive gets its name
        super().__exit__(kind, error, trace)


def open_store(outputs: Outputs, suffixes: Sequence[str], *, archives: bool) -> FolderStore:
    """Return where the files of images go, whose names end so: into archives, or each on its own."""
    if archives:
        return ArchiveStore(outputs, suffixes)
    if isinstance(outputs, RemoteOutputs):
        return RemoteStore(outputs, suffixes)
    return FolderStore(outputs, suffixes)


def archive_name(part: str) -> str:
    """Return the name of the archive of a part."""
    return f"panoptic-{part}.tar"
