"""Types of options, options that several commands share, and their progress bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from banet.commands.base import Argument, Command, Value
from banet.engine.recipe import SplitConfig, recipe_names
from banet.errors import InputError
from banet.modeling.config import RuleName
from banet.types import BitDepth, Precision, Progress

__all__ = [
    "Area",
    "Count",
    "DepthOptions",
    "DeviceOptions",
    "File",
    "FileOrUrl",
    "Folder",
    "FolderOrUrl",
    "Fraction",
    "FusionOptions",
    "Ids",
    "Inputs",
    "ListOptions",
    "ModelOptions",
    "Name",
    "Names",
    "Overlaps",
    "OverwriteOptions",
    "Pixels",
    "PrecisionOptions",
    "ProcessOptions",
    "RecipeFile",
    "Score",
    "Seed",
    "Seeds",
    "SplitOptions",
    "UntrustedOptions",
    "Weights",
    "WeightsArgument",
    "progress",
    "require_config",
]

File = Annotated[str, Value("FILE", local=True)]
Folder = Annotated[str, Value("DIR", local=True)]
FileOrUrl = Annotated[str, Value("FILE")]
FolderOrUrl = Annotated[str, Value("DIR")]
RecipeFile = Annotated[str, Value("NAME|FILE", local=True)]
Weights = Annotated[str, Value("WEIGHTS", local=True)]
Count = Annotated[int, Value("N", least=1)]
Pixels = Annotated[int, Value("PIXELS", least=1)]
Area = Annotated[int, Value("PIXELS", least=0)]
Seed = Annotated[int, Value("N", least=0)]
Score = Annotated[float, Value("SCORE")]
Fraction = Annotated[float, Value("FRACTION")]
Ids = Annotated[list[int], Value("ID")]
Inputs = Annotated[list[str], Value("INPUT", local=True)]
Name = Annotated[str, Value("NAME")]
Names = Annotated[list[str], Value("NAME")]
Seeds = Annotated[list[int], Value("N", least=0)]
Overlaps = Literal["fail", RuleName]


@dataclass(frozen=True, kw_only=True)
class WeightsArgument(Command):
    """The argument of commands that cannot do without weights.

    Attributes:
        weights: A .safetensors file, a folder that holds one, a name of `banet models`, or a model of another library
            as for `banet predict`.
    """

    weights: Annotated[str, Argument("WEIGHTS", local=True)]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Command):
    """The option of commands that run a network.

    Attributes:
        device: Where to compute; `auto` takes the GPU if there is one.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(Command):
    """The option of commands that predict.

    Attributes:
        precision: What the network computes in; bf16 is twice as fast on CPUs with AVX512-BF16 or AMX.
    """

    precision: Precision = "32"


@dataclass(frozen=True, kw_only=True)
class DepthOptions(Command):
    """The option of commands that read images for a network.

    Attributes:
        bit_depth: Bits that samples of 16-bit images use, 8 to 16; auto finds one number for all images. Default: the
            one saved with the weights or in the recipe, else auto.
    """

    bit_depth: Annotated[BitDepth, Value("auto|BITS")] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Command):
    """Options of commands that take models of other libraries too.

    Attributes:
        class_table: Categories that the classes of other libraries' models are matched with, by name; default: COCO's
            133, which `banet models --write-classes FILE` writes.
        trust: Load files that may run code, such as Ultralytics' .pt files; only from people you trust.
    """

    class_table: FileOrUrl | None = None
    trust: bool = False


@dataclass(frozen=True, kw_only=True)
class FusionOptions(Command):
    """Options of inference, saved with the weights, that are often changed.

    Attributes:
        score: Instances score above this, from 0 to 1; default: the threshold saved with the weights.
        rule: Occlusion rule; default: the one saved with the weights.
        overlap_threshold: Overlap, as a share of either mask, above which the rule decides; default: as saved.
    """

    score: Score | None = None
    rule: RuleName | None = None
    overlap_threshold: Fraction | None = None


@dataclass(frozen=True, kw_only=True)
class OverwriteOptions(Command):
    """The option of commands that write files: all of them have it, and check before anything else what they replace.

    Attributes:
        overwrite: Also replace files that this command did not write, or that were changed since; never an input.
    """

    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class UntrustedOptions(Command):
    """The option of commands that read files which others may have made.

    Attributes:
        untrusted: The files come from strangers: read them in processes of limited memory and time; see the docs on
            reliability. Videos, images of more than 67 million pixels and other libraries' models are refused.
    """

    untrusted: bool = False


@dataclass(frozen=True, kw_only=True)
class ListOptions(Command):
    """The option of commands that read a list of images; a class of its own, as its name is a type in Python.

    Attributes:
        list: A text file with an image per line and, behind a tab, its id.
    """

    list: FileOrUrl | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(Command):
    """Options of commands whose work several processes share out; see `banet.engine.sharing`.

    Attributes:
        devices: Start so many processes, each with a GPU or its share of the cores; torchrun and SLURM work too.
        resume: Go on with a run that was stopped or killed, with as many processes as there are now; videos with
            --track too.
    """

    devices: Count | None = None
    resume: bool = False

    def shared_words(self) -> Sequence[str]:
        """Return options that the processes must be given, as each would choose a value of its own."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Command):
    """What to measure on.

    Attributes:
        config: A recipe that comes with the package, or a YAML file. Its data.val is measured on.
        images: In place of --config: the folder of images, or of tar archives of them, or its URL.
        panoptic: With --images: the same of their id PNGs.
        json: With --images: the COCO panoptic JSON, or its URL.
    """

    config: RecipeFile | None = None
    images: FolderOrUrl | None = None
    panoptic: FolderOrUrl | None = None
    json: FileOrUrl | None = None

    def split(self) -> SplitConfig | None:
        """Return the split that --images, --panoptic and --json name, or None where --config names the data.

        Raises:
            InputError: Neither is given, or both, or a part of the split is missing.
        """
        parts = {"images": self.images or "", "panoptic": self.panoptic or "", "json": self.json or ""}
        if any(parts.values()):
            missing = [f"--{name}" for name, value in parts.items() if not value]
            if missing:
                raise InputError(
                    "missing", where=", ".join(missing), hint="a split is --images, --panoptic and --json together"
                )
            if self.config:
                raise InputError("give either a recipe or --images, --panoptic and --json, not both", where="--config")
            return SplitConfig(**parts)
        if not self.config:
            raise InputError("say what to measure on: --config NAME|FILE, or --images, --panoptic and --json")
        return None


def require_config(config: str | None) -> str:
    """Return `--config`, or raise an InputError that lists the recipes where it is missing."""
    if config is None:
        raise InputError(
            "say what to train", where="--config", hint=f"recipes: {', '.join(recipe_names())}; or give a YAML file"
        )
    return config


@contextmanager
def progress(name: str, unit: str = "image") -> Iterator[Progress]:
    """Show a bar that is moved by calls with how many are done and how many there are."""
    from tqdm import tqdm

    with tqdm(desc=name, unit=unit, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
