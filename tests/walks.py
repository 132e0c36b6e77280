"""Three walks through the code: the functions of the project that one real call runs, in order.

    python tests/walks.py       traces the calls and writes the lists into ARCHITECTURE.md

A step is the first call of a function or method of `banet` that comes from another file. Of a class only the first
method is listed. Not listed, as parts of the step that calls them: names with a leading underscore (private helpers,
`__init__` and other special methods but `__getitem__`), properties, nested functions, lambdas, comprehensions; and
kernels: functions of a module that imports nothing else of the project than `BASICS`. A reader of the step that calls
a kernel needs its name and its docstring only, as with a function of numpy.
"""

from __future__ import annotations

import ast
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, ModuleType

import numpy as np
from PIL import Image

import banet
from banet.data.scenes.generate import Scenes
from banet.engine.recipe import DataConfig, SplitConfig
from banet.engine.training.datasets import InfiniteDataset, sample_depth, training_set
from banet.panoptic import resolve_occlusions
from banet.panoptic.coco.writer import CocoPanopticWriter

PACKAGE = Path(banet.__file__).parent
PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"
BASICS = {"banet.errors", "banet.types", "banet._renamed", "banet.panoptic.defaults"}
BASICS |= {"banet.files.worker", "banet.files.structure"}  # decorators and checks, which change no result
BASICS |= {f"banet.files.structure.{name}" for name in ("check", "jpeg", "jpeg2000", "tiff")}
PASSED = str(PACKAGE / "files" / "worker.py")
"""Its decorator `isolated` stands between a call and a function as if it were not there."""
BEGIN, END = "<!-- walks: python tests/walks.py -->\n", "<!-- end of walks -->\n"


def image_to_png(folder: Path) -> Callable[[], object]:
    """Segment an image file and write the result."""
    model = banet.BANet.from_pretrained("scenes")
    scene, _ = Scenes(3, 1, (128, 128)).read(0)
    Image.fromarray(scene).save(folder / "image.png")
    return lambda: model.predict(folder / "image.png").save(folder / "result.png")


def sample_to_loss(folder: Path) -> Callable[[], object]:
    """Read a sample of a COCO panoptic data set and compute its losses."""
    scenes = Scenes(3, 1, (128, 128))
    image, ground_truth = scenes.read(0)
    (folder / "images").mkdir()
    Image.fromarray(image).save(folder / "images" / "image.png")
    with CocoPanopticWriter(folder / "panoptic", folder / "panoptic.json", scenes.categories) as writer:
        writer.add(1, "image.png", ground_truth)
    split = SplitConfig(images="images", panoptic="panoptic", json="panoptic.json")
    data = DataConfig(kind="coco", root=str(folder), train=split, shorter=(128,), longer=128)
    dataset = training_set(data)
    sample_depth(dataset)  # once per data set, as a training does
    draws = InfiniteDataset(dataset, seed=0)
    model = banet.BANet.from_pretrained("scenes").train()

    def step() -> object:
        sample = draws[0]
        return model.losses([sample.image], [sample.target])

    return step


def pair_to_owners(folder: Path) -> Callable[[], object]:
    """Decide which of two overlapping masks owns each pixel."""
    masks = np.zeros((2, 60, 60), dtype=bool)
    masks[0, 10:40, 10:40] = masks[1, 20:50, 20:50] = True
    image = np.full((60, 60, 3), 200, dtype=np.uint8)
    image[10:40, 10:40] = (90, 20, 10)
    return lambda: resolve_occlusions(masks, [0.9, 0.8], image)


WALKS = {
    "An image, from `predict` to the PNG": image_to_png,
    "A training sample, from its files to the losses": sample_to_loss,
    "An occlusion pair, from masks to owners": pair_to_owners,
}


def trace(call: Callable[[], object]) -> list[tuple[str, str]]:
    """Return the steps of a call: name, and file relative to the package."""
    entered: dict[CodeType, None] = {}
    inside = str(PACKAGE)

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or code in entered or not code.co_filename.startswith(inside):
            return
        caller = frame.f_back
        while caller is not None and (
            not caller.f_code.co_filename.startswith(inside) or caller.f_code.co_filename == PASSED
        ):
            caller = caller.f_back
        if caller is None or caller.f_code.co_filename != code.co_filename:
            entered[code] = None

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)

    names = named_functions()  # afterwards, as the call may have imported modules
    steps: list[tuple[str, str]] = []
    classes: set[tuple[str, str]] = set()
    for code in entered:
        name, file = names.get(code, ""), Path(code.co_filename).relative_to(PACKAGE).as_posix()
        owner = name.rpartition(".")[0]
        if name and (owner, file) not in classes and not is_kernel(PACKAGE / file):
            steps.append((name, file))
        if owner:
            classes.add((owner, file))
    return steps


@cache
def is_kernel(file: Path) -> bool:
    """Return whether a module imports nothing of the project but `BASICS`, inside its functions either."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("banet." if node.level else str(node.module))
    return not {name for name in imported if name.split(".")[0] == "banet"} - BASICS


def named_functions() -> dict[CodeType, str]:
    """Return the code and the name of each listed function and method of the modules that are loaded."""
    found: dict[CodeType, str] = {}
    for module in [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "banet"]:
        for name, value in definitions(module):
            if inspect.isclass(value):
                found |= {code: f"{name}.{method}" for method, code in codes(value)}
        found |= {code: name for name, code in codes(module)}
    return found


def definitions(owner: ModuleType | type) -> Iterator[tuple[str, object]]:
    """Yield the listed names that a module or class defines itself, and their values."""
    module = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    for name, value in vars(owner).items():
        listed = not name.startswith("_") or name == "__getitem__"
        if listed and getattr(value, "__module__", None) == module:
            yield name, value


def codes(owner: ModuleType | type) -> Iterator[tuple[str, CodeType]]:
    """Yield name and code of the functions among the definitions, those under decorators too."""
    for name, value in definitions(owner):
        function = getattr(value, "__func__", value)  # of a class method or static method
        if callable(function) and inspect.isfunction(function := inspect.unwrap(function)):
            yield name, function.__code__


def text() -> str:
    """Return the lists as they stand in ARCHITECTURE.md."""
    parts = []
    for title, prepare in WALKS.items():
        with tempfile.TemporaryDirectory() as folder:
            steps = trace(prepare(Path(folder)))
        width = max(len(name) for name, _ in steps)
        lines = [f"{number:2} {name:{width}}  {file}" for number, (name, file) in enumerate(steps, start=1)]
        parts.append("\n".join([f"{title} ({len(steps)} steps):", "", "```", *lines, "```", ""]))
    return "\n".join(parts)


def on_page() -> str:
    """Return the lists that ARCHITECTURE.md has."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


def write() -> None:
    """Put the lists into ARCHITECTURE.md."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + text() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    write()
