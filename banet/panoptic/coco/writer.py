"""Results as a COCO panoptic data set: each PNG as it comes, the JSON at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from banet.errors import InputError
from banet.files.names import DistinctNames, forward, name_key, safe_join
from banet.files.on_disk import DiskTable
from banet.files.staging import JsonLists
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.png import write_ids
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import as_image_id
from banet.types import ImageId, StrPath

__all__ = ["CocoPanopticWriter", "png_names"]


def png_names(file_names: Iterable[str]) -> list[str]:
    """Return the names of the PNGs of some images, in order; no two are one file (see `DistinctNames`)."""
    names = DistinctNames(".png")
    return [f"{names.choose(name)}.png" for name in file_names]


class CocoPanopticWriter:
    """Writes results as COCO panoptic: each PNG as it comes, the JSON at the end.

    A context manager. Where the body fails, no JSON is written, and an older one stays as it was.

    Args:
        dir_png: folder for the PNGs, made where missing.
        json_path: the JSON; its folder is made where missing.
        categories: the classes of all results.

    Raises:
        InputError: a folder cannot be made.
    """

    def __init__(
        self,
        dir_png: StrPath,
        json_path: StrPath,
        categories: Categories | Iterable[Category | Mapping[str, Any]],
    ) -> None:
        self._dir = Path(dir_png)
        self._json = Path(json_path)
        self._categories = Categories.of(categories)
        self._lists = JsonLists()
        self._ids, self._names = DiskTable(), DiskTable()
        for folder in (self._dir, self._json.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"cannot be made ({error.strerror})", where=folder, hint="choose another folder"
                ) from error

    def add(
        self,
        image_id: ImageId,
        file_name: str,
        result: PanopticSegmentation,
        width: int | None = None,
        height: int | None = None,
        *,
        png_name: str | None = None,
    ) -> Path:
        """Write the PNG of one image and remember its records.

        Args:
            image_id: id of the image.
            file_name: name of the image; the PNG gets the same one, ending in .png.
            result: what was found in it.
            width: where given, the result must be that wide.
            height: where given, the result must be that high.
            png_name: another name of the PNG; see `png_names`.

        Returns:
            Path of the PNG.

        Raises:
            ValueError: the image or its PNG was written already, size or classes differ, map and records disagree, or
                the file name leads out of the folder.
        """
        image_id = as_image_id(image_id)
        if width not in (None, result.width) or height not in (None, result.height):
            raise ValueError(f"{file_name}: the result is {result.width}x{result.height}, not {width}x{height}")
        if result.categories != self._categories:
            raise ValueError(f"{file_name}: the result's categories are not the writer's")
        name = png_name or (str(PurePosixPath(forward(file_name)).with_suffix(".png")) if file_name else file_name)
        path = safe_join(self._dir, name, f"image {image_id}: file_name")
        if image_id in self._ids:
            raise ValueError(f"{file_name}: image id {image_id!r} was written already; ids must be unique")
        if name_key(name) in self._names:
            raise ValueError(f"{file_name}: {name} was written already for another image; names must be unique")
        result.check(file_name)
        image = {"id": image_id, "file_name": file_name, "width": result.width, "height": result.height}
        annotation = result.to_coco(image_id, name)
        json.dumps([image, annotation], allow_nan=False)  # what JSON does not hold must not leave a PNG without record
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ids(path, result.ids)
        self._ids.add(image_id)
        self._names.add(name_key(name))
        self._lists.add("images", image)
        self._lists.add("annotations", annotation)
        return path

    def close(self) -> None:
        """Write the JSON."""
        fields = {"images": None, "annotations": None, "categories": self._categories.to_coco()}
        self._lists.write(self._json, fields)

    def __enter__(self) -> CocoPanopticWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lists:
            if kind is None:
                self.close()
