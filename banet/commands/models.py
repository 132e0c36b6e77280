"""`banet models`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from banet.commands.base import Command
from banet.commands.shared import File, OverwriteOptions

__all__ = ["Models"]


@dataclass(frozen=True, kw_only=True)
class Models(OverwriteOptions, Command):
    """List the models that have a name: classes, size, licence, published PQ, and what is installed.

    A model that has no name of its own is given by where it is: hf:OWNER/NAME@REVISION and hf:FOLDER of
    transformers, torchvision:NAME, ultralytics:FILE.pt; a detector goes with a segmenter, as A+B. The families
    that can be given so are listed too.

    Attributes:
        write_classes: Write the table that classes are matched with, COCO's 133 and other names for them, to this
            file, to be edited and given as --class-table.
    """

    write_classes: File | None = None

    def run(self) -> int:
        """Print the list, or write the table."""
        from banet.composed.classes import ClassTable
        from banet.files.atomic import write_json
        from banet.files.outputs import output_file

        if self.write_classes is not None:
            outputs = output_file(self.write_classes, "banet models", "--write-classes", overwrite=self.overwrite)
            with outputs:
                write_json(self.write_classes, ClassTable.default().to_json(), indent=1)
            print(f"written: {self.write_classes}")
            return 0
        print(format_models())
        print(format_families())
        for extra, package in (("hf", "transformers"), ("ultralytics", "ultralytics")):
            found = "installed" if find_spec(package) else f"not installed: pip install 'banet-panoptic[{extra}]'"
            licence = " (AGPL-3.0)" if extra == "ultralytics" else ""
            print(f"{package}{licence}: {found}")
        return 0


def format_models() -> str:
    """Return a table of all named models, a line each, and two for what it stands for."""
    from banet.composed.hub import HubOptions, cached_folder
    from banet.composed.load import models
    from banet.composed.names import parse_names

    lines = []
    for model in models():
        things, stuff = model.classes
        if model.source == model.name:
            there = "comes with the package"
        else:
            (name,) = parse_names(model.source)
            cached = cached_folder(name.name, HubOptions(name.after or None)) is not None
            there = "downloaded" if cached else f"to download: about {model.download / 1e6:,.0f} MB"
        quality = f"PQ {model.pq:.1f}, {model.pq_source}" if model.pq else "PQ not stated"
        lines.append(
            f"{model.name}\n    {things} things, {stuff} stuff; {model.parameters / 1e6:.1f} million parameters; "
            f"{model.licence}; {there}\n    trained on: {model.domain}; {quality}"
            + (f"\n    {model.source}" if model.source != model.name else "")
        )
    return "\n".join(lines)


def format_families() -> str:
    """Return a table of the families whose models are given by where they are, a line each."""
    from banet.composed.names import FAMILIES

    width = max(map(len, FAMILIES))
    lines = [f"    {family:{width}}  {how}" for family, how in FAMILIES.items()]
    return "\n".join(["models without a name, by family", *lines])
