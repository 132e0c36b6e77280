"""The files of a run: which there are, and that none of them replaces a file of the user's."""

from __future__ import annotations

from pathlib import Path

from banet.engine.recipe import Recipe, to_yaml
from banet.errors import InputError
from banet.files.outputs import Outputs, is_output, weight_files
from banet.files.reading import open_file

__all__ = ["CURVES", "KIND", "LAST", "LOG", "RECIPE", "claim_run", "data_files", "is_own_recipe", "is_written"]

KIND = "banet train"
RECIPE = "recipe.yaml"
LOG = Path("log") / "metrics.csv"
CURVES = "curves.png"
LAST = Path("checkpoints") / "last.ckpt"


def claim_run(
    recipe: Recipe,
    out: Path,
    *,
    resume: str | None = None,
    config: Path | None = None,
    overwrite: bool = False,
) -> Outputs:
    """Check that a run may write to a folder: what it writes is not there yet, or an earlier part of it wrote that.

    Args:
        recipe: What to train.
        out: Folder of the run.
        resume: See `train`.
        config: The recipe's file, where it has one.
        overwrite: See `Outputs`.

    Raises:
        InputError: A file would be replaced that may not be.
    """
    files, folders = data_files(recipe)
    files += weight_files(recipe.train.init)
    # What a run resumes from, and its own recipe as the run wrote it, are what it goes on writing.
    if resume not in (None, "auto") and not _is_same(Path(resume), out / LAST):
        files.append(Path(resume))
    if config is not None and not is_own_recipe(config, out, KIND):
        files.append(config)
    names = [LAST.as_posix(), "model.safetensors", "best.safetensors", "README.md"]
    if "csv" in recipe.train.loggers:
        names += [LOG.as_posix(), CURVES]
    if not is_written(out / RECIPE, recipe):
        names.append(RECIPE)
    return Outputs(out, KIND, names, inputs=files, folders=folders, overwrite=overwrite)


def is_written(path: Path, recipe: Recipe) -> bool:
    """Return whether a file holds the recipe already, so that it need not be written."""
    text = to_yaml(recipe).encode()
    try:
        with open_file(path) as stream:
            return stream.read(len(text) + 1) == text
    except InputError:
        return False


def is_own_recipe(config: Path, out: Path, kind: str) -> bool:
    """Return whether a recipe is the one that a run or study wrote to its own folder, unchanged."""
    return _is_same(config, out / RECIPE) and is_output(out / RECIPE, kind, {})


def data_files(recipe: Recipe) -> tuple[list[Path], list[Path]]:
    """Return the files and the folders of a recipe's data set."""
    if recipe.data.kind == "scenes":
        return [], []
    root = Path(recipe.data.root)
    splits = [split for split in (recipe.data.train, recipe.data.val) if split.json]
    files = [root / name for split in splits for name in (split.json, split.instances) if name]
    return files, [root / folder for split in splits for folder in (split.images, split.panoptic)]


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)
