"""The command `banet`. Arguments are read here without torch; the engine is imported when a command runs."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from banet import __version__
from banet.engine.completion import Shell, completion_script
from banet.engine.options import HelpFormatter, SavedDefaults, load_recipe, option_parser, parse_options
from banet.engine.recipe import Recipe, SplitConfig, recipe_names, to_yaml
from banet.errors import InputError, MissingExtraError
from banet.modeling.config import InferenceConfig, RuleName

__all__ = ["main"]

Device = Literal["auto", "cpu", "cuda", "mps"]

WEIGHTS = "A .safetensors file, a folder that holds one, or a name: `scenes` comes with the package."
DEVICE = "Where to compute; `auto` takes the GPU if there is one."
RULE = f"{{{','.join(get_args(RuleName))}}}"
CONFIG = "A recipe that comes with the package, or a YAML file."


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        summary: One line for the list of commands.
        options: Adds its options to a parser.
        run: Does the work, given the parser and the arguments; returns the exit status.
        usage: The usage line, where the one made from the options would be too long.
        notes: Text below the options.
        formatter: Lays out the help.
    """

    summary: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[ArgumentParser, Sequence[str]], int]
    usage: str | None = None
    notes: str = ""
    formatter: type[HelpFormatter] = HelpFormatter

    def parser(self, name: str) -> ArgumentParser:
        """The parser of this command."""
        parser = option_parser(
            f"banet {name}", self.summary, usage=self.usage, epilog=self.notes, formatter=self.formatter
        )
        self.options(parser)
        return parser


# ------------------------------------------------------------------------------------------------------------- train


def _train_options(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=str, metavar="NAME|FILE", help=CONFIG)
    parser.add_argument(
        "--out", type=str, metavar="DIR", help="Folder of the run; by default runs/ and the recipe's name."
    )
    parser.add_argument(
        "--resume",
        type=str,
        metavar="auto|PATH",
        help="Go on from a checkpoint; `auto` takes the last one in the run's folder, if there is one.",
    )
    parser.add_argument("--init", type=str, metavar="NAME|FILE", help="Where weights start; short for --train.init.")
    parser.add_argument(
        "--batch",
        type=PositiveInt,
        metavar="N",
        help="Images a step, over all devices together; short for --train.batch. Takes the schedule along.",
    )
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)
    parser.add_argument("--print-config", action="store_true", help="Print the resolved recipe as YAML and stop.")
    parser.add_class_arguments(Recipe)


def _train(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    own = {"config", "out", "resume", "init", "batch", "device", "print_config"}
    given = parse_options(parser, arguments, defaults=False)
    overrides = {key: value for key, value in given.items() if key not in own}
    for name in ("init", "batch"):
        if options[name] is not None:
            overrides[f"train.{name}"] = options[name]
    recipe = load_recipe(_config(options), overrides)
    if options.print_config:
        print(to_yaml(recipe.resolved()), end="")
        return 0
    from banet.engine.training.train import train

    out = Path(options.out or Path("runs") / recipe.name)
    train(recipe, out, resume=options.resume, device=options.device)
    return 0


def _config(options: Namespace) -> str:
    if options.config is None:
        raise InputError(f"--config: say what to train; recipes: {', '.join(recipe_names())}; or give a YAML file")
    return str(options.config)


# -------------------------------------------------------------------------------------------------------------- push


def _push_options(parser: ArgumentParser) -> None:
    parser.add_argument("weights", type=str, metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument("repository", type=str, metavar="OWNER/NAME", help="Where on the hub; made if it is not there.")
    parser.add_argument(
        "--license", type=str, metavar="NAME", required=True, help="Licence of the weights, such as apache-2.0."
    )
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")


def _push(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from banet.modeling.hub import push_to_hub

    print(push_to_hub(options.weights, options.repository, licence=options.license, private=options.private))
    return 0


# ---------------------------------------------------------------------------------------------------------- evaluate


def _data_options(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=str, metavar="NAME|FILE", help=f"{CONFIG} Its data.val is measured on.")
    parser.add_argument("--images", type=str, metavar="DIR", help="In place of --config: the folder of pictures.")
    parser.add_argument("--panoptic", type=str, metavar="DIR", help="With --images: the folder of their id PNGs.")
    parser.add_argument("--json", type=str, metavar="FILE", help="With --images: the COCO panoptic JSON.")


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument("weights", type=str, metavar="WEIGHTS", help=WEIGHTS)
    _data_options(parser)
    parser.add_argument("--out", type=str, metavar="DIR", help="Write the results as COCO panoptic, and the figures.")
    parser.add_argument(
        "--gallery", action="store_true", help="With --out: also write DIR/gallery.html, the worst pictures first."
    )
    parser.add_argument(
        "--rule", type=RuleName | None, metavar=RULE, help="Occlusion rule; default: the one saved with the weights."
    )
    parser.add_argument(
        "--batch", type=PositiveInt, default=1, metavar="N", help="Images that go through the network together."
    )
    parser.add_argument(
        "--limit", type=PositiveInt | None, metavar="N", help="Measure on the first so many images only."
    )
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)
    parser.add_class_arguments(InferenceConfig, "inference")


def _split(options: Namespace) -> SplitConfig | None:
    """The split that --images, --panoptic and --json name; None where --config names the data."""
    parts = {name: options[name] for name in ("images", "panoptic", "json")}
    if any(parts.values()):
        missing = [f"--{name}" for name, value in parts.items() if not value]
        if missing:
            raise InputError(f"{', '.join(missing)}: missing; a split is --images, --panoptic and --json together")
        if options.config:
            raise InputError("--config: give either a recipe or --images, --panoptic and --json, not both")
        return SplitConfig(**parts)
    if not options.config:
        raise InputError("say what to measure on: --config NAME|FILE, or --images, --panoptic and --json")
    return None


def _evaluate(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    given = parse_options(parser, arguments, defaults=False)
    split = _split(options)
    if options.gallery and not options.out:
        raise InputError("--gallery: goes with --out DIR; add it")
    overrides = {key.removeprefix("inference."): v for key, v in given.items() if key.startswith("inference.")}
    recipe = load_recipe(options.config) if options.config else None
    from banet.engine.evaluation.evaluate import evaluate_command

    evaluate_command(
        options.weights,
        recipe=recipe,
        split=split,
        out=Path(options.out) if options.out else None,
        rule=options.rule,
        inference_overrides=overrides,
        batch=options.batch,
        limit=options.limit,
        device=options.device,
        gallery=options.gallery,
    )
    return 0


# ----------------------------------------------------------------------------------------------------------- analyze


def _analyze_options(parser: ArgumentParser) -> None:
    parser.add_argument("weights", type=str, metavar="WEIGHTS", help=WEIGHTS)
    _data_options(parser)
    parser.add_argument("--out", type=str, metavar="DIR", help="Write the figures to analysis.json there.")
    parser.add_argument(
        "--limit", type=PositiveInt | None, metavar="N", help="Measure on the first so many images only."
    )
    parser.add_argument(
        "--figure", type=str, metavar="PNG", help="Draw image, baseline, + S2I and I2S, + OH and truth (Fig. 6)."
    )
    parser.add_argument(
        "--baseline",
        type=str,
        metavar="WEIGHTS",
        help="With --figure: weights of the baseline; in a study of `banet ablate` those of the same seed.",
    )
    parser.add_argument("--pictures", type=PositiveInt, metavar="N", default=4, help="With --figure: how many.")
    parser.add_argument(
        "--picture-ids", nargs="+", type=int, metavar="ID", default=[], help="With --figure: these pictures instead."
    )
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)


def _analyze(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    split = _split(options)
    recipe = load_recipe(options.config) if options.config else None
    if not options.figure and (options.baseline or options.picture_ids):
        raise InputError("--baseline and --picture-ids go with --figure PNG; add it")
    from banet.engine.studies.analyze import analyze_command

    analyze_command(
        options.weights,
        recipe=recipe,
        split=split,
        out=Path(options.out) if options.out else None,
        limit=options.limit,
        device=options.device,
        figure=Path(options.figure) if options.figure else None,
        baseline=options.baseline,
        shown=options.pictures,
        picture_ids=options.picture_ids,
    )
    return 0


# ------------------------------------------------------------------------------------------------------------ ablate


def _ablate_options(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=str, metavar="NAME|FILE", help=f"{CONFIG} Its composition is changed by row.")
    parser.add_argument(
        "--out", type=str, metavar="DIR", help="Folder of the study; by default runs/ablate_ and the recipe's name."
    )
    parser.add_argument(
        "--table", type=Literal["2", "3", "all"], default="2", help="Which table of the paper; networks are shared."
    )
    parser.add_argument("--seeds", type=list[NonNegativeInt], default=[0, 1, 2], help="Seeds of the training.")
    parser.add_argument("--dry-run", action="store_true", help="Print what would be trained and how long it may take.")
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)
    parser.add_class_arguments(Recipe)


def _ablate(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    given = parse_options(parser, arguments, defaults=False)
    own = {"config", "out", "table", "seeds", "dry_run", "device"}
    recipe = load_recipe(_config(options), {key: value for key, value in given.items() if key not in own})
    from banet.engine.studies.ablate import ablate

    out = Path(options.out or Path("runs") / f"ablate_{recipe.name}")
    seeds = [int(seed) for seed in options.seeds]  # plain numbers, for YAML
    ablate(recipe, out, table=options.table, seeds=seeds, device=options.device, dry_run=options.dry_run)
    return 0


# ----------------------------------------------------------------------------------------------------------- predict


def _predict_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        type=str,
        metavar="INPUT",
        help="Pictures, folders of pictures, globs, videos, or camera:0 for the first camera.",
    )
    parser.add_argument("--weights", type=str, help=WEIGHTS)
    parser.add_argument(
        "--runtime",
        type=Literal["torch", "onnx", "openvino"],
        default="torch",
        help="What runs the network. All but torch run a file of `banet export`, on the CPU, without torch.",
    )
    parser.add_argument("--out", type=str, metavar="DIR", default="predictions", help="Where the results go.")
    parser.add_argument("--gallery", action="store_true", help="Also write DIR/gallery.html, one page of all pictures.")
    parser.add_argument(
        "--tile",
        type=PositiveInt | None,
        metavar="PIXELS",
        help="Cut larger pictures and frames into tiles of this side; objects are joined over the seams.",
    )
    parser.add_argument(
        "--overlap",
        type=PositiveInt | None,
        metavar="PIXELS",
        help="With --tile: what neighbours share at least; default: a quarter of the tile.",
    )
    parser.add_argument(
        "--frames", action="store_true", help="With videos: also write id PNG and JSON of each frame to NAME_frames."
    )
    parser.add_argument(
        "--rule", type=RuleName | None, metavar=RULE, help="Occlusion rule; default: the one saved with the weights."
    )
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)


def _predict(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    weights, inputs = options.weights, list(options.inputs)
    if weights is None and options.runtime != "torch" and len(inputs) > 1:
        weights, *inputs = inputs
    if weights is None:
        raise InputError("missing: --weights")
    from banet.engine.prediction.predict import predict_files

    failed = predict_files(
        weights,
        inputs,
        Path(options.out),
        rule=options.rule,
        device=options.device,
        runtime=options.runtime,
        gallery=options.gallery,
        tile=options.tile,
        overlap=options.overlap,
        frames=options.frames,
    )
    return 1 if failed else 0


# ------------------------------------------------------------------------------------------------------------ export


def _export_options(parser: ArgumentParser) -> None:
    parser.add_argument("weights", type=str, metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument(
        "--format",
        type=Literal["onnx", "torch-export", "openvino"],
        default="onnx",
        help="onnx: one .onnx file; torch-export: a .pt2 of torch.export; openvino: .xml with .bin beside it.",
    )
    parser.add_argument(
        "--out", type=str, metavar="FILE", help="The file; by default the weights' name, in this folder."
    )
    parser.add_argument(
        "--precision",
        type=Literal["float32", "float16", "int8"],
        default="float32",
        help="float16, for openvino, halves the file; int8, for onnx, computes convolutions in 8 bits.",
    )
    parser.add_argument(
        "--calibration",
        type=list[str],
        metavar="'[INPUT, ...]'",
        default=[],
        help="With --precision int8: pictures or folders that show what values occur; some dozens will do.",
    )


def _export(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from banet.engine.export.export import export_command

    export_command(
        options.weights,
        options.format,
        options.out,
        precision=options.precision,
        calibration=list(options.calibration),
    )
    return 0


# ---------------------------------------------------------------------------------------------------------------- pq


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over images, moved by a call with how many are done and how many there are."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="image", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _pq_options(parser: ArgumentParser) -> None:
    parser.add_argument("--gt-json", type=str, metavar="FILE", required=True, help="COCO panoptic JSON of the truth.")
    parser.add_argument("--gt-dir", type=str, metavar="DIR", required=True, help="Folder of its id PNGs.")
    parser.add_argument("--pred-json", type=str, metavar="FILE", required=True, help="The same of the predictions.")
    parser.add_argument("--pred-dir", type=str, metavar="DIR", required=True, help="Folder of their id PNGs.")
    parser.add_argument("--json", type=str, metavar="OUT", help="Write the figures, each class included, to this file.")
    parser.add_argument(
        "--workers", type=PositiveInt, metavar="N", default=1, help="Images that are compared at the same time."
    )
    parser.add_argument(
        "--details", action="store_true", help="Also each class, confusions, sizes, and how hidden things fare."
    )
    parser.add_argument(
        "--amodal", type=str, metavar="FILE", help="Whole masks of the truth's things, for --details, which it implies."
    )


def _pq(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from banet.files.atomic import atomic_path
    from banet.panoptic.metrics.quality import format_table, score_folders, to_json

    folders = (options.gt_json, options.gt_dir, options.pred_json, options.pred_dir)
    with _progress("pq") as show:
        if options.details or options.amodal:
            from banet.panoptic.metrics.breakdown import format_breakdown, score_folders_in_detail

            quality, breakdown = score_folders_in_detail(*folders, options.workers, show, amodal=options.amodal)
            result = {**quality.compute(), **breakdown.compute()}
            table = format_table(result, quality.categories, per_class=True)
            table += f"\n\n{format_breakdown(result, quality.categories)}"
        else:
            result = score_folders(*folders, options.workers, show)
            table = format_table(result)
    print(table)
    if options.json:
        with atomic_path(Path(options.json)) as temporary:
            Path(temporary).write_text(json.dumps(to_json(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


# -------------------------------------------------------------------------------------------------------------- fuse


def _fuse_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--instances", type=str, metavar="FILE", required=True, help="Instances of a detector: a COCO results JSON.")
    add("--semantic", type=str, metavar="DIR", required=True, help="Folder of label maps: PNGs of category ids.")
    add("--images", type=str, metavar="DIR", required=True, help="Folder of the pictures.")
    add("--out", type=str, metavar="DIR", required=True, help="Gets panoptic.json and, in panoptic/, its PNGs.")
    add("--json", type=str, metavar="FILE", help="COCO JSON whose `images` to fuse, with the classes in `categories`.")
    add("--categories", type=str, metavar="FILE", help="The classes, if not of --json. COCO's 133 by default.")
    add("--rule", type=RuleName, metavar=RULE, default="appearance", help="Occlusion rule.")
    add("--score", type=float, default=0.6, help="Instances score above this.")
    add("--nms", type=float | None, metavar="IOU", help="Suppress boxes, whatever their class; by default none.")
    add("--top", type=PositiveInt, metavar="N", default=100, help="Most instances of a picture.")
    add("--overlap-threshold", type=float, metavar="SHARE", default=0.2, help="Overlap above which a pair is occluded.")
    add("--removal-threshold", type=float, metavar="SHARE", default=0.5, help="Lost share above which one is removed.")
    add("--stuff-area", type=NonNegativeInt, metavar="PIXELS", default=4096, help="Smaller stuff becomes void.")


def _fuse(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from banet.engine.prediction.fuse import fuse_files

    with _progress("fuse") as show:
        done = fuse_files(**vars(options), progress=show)
    if done.elsewhere:
        print(f"left out, as they are of other pictures: {done.elsewhere} instances", file=sys.stderr)
    print(f"{done.json}: {done.images} pictures, {done.instances} instances")
    return 0


# -------------------------------------------------------------------------------------------------------------- demo


def _demo_options(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=str, metavar="DIR", default="demo", help="Where the page of pictures goes.")
    parser.add_argument("--scenes", type=PositiveInt, metavar="N", default=50, help="How many scenes.")
    parser.add_argument("--weights", type=str | None, help=f"{WEIGHTS} These by default.")
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)


def _demo(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from banet.engine.report.demo import run_demo

    run_demo(Path(options.out), weights=options.weights, scenes=options.scenes, device=options.device)
    return 0


# --------------------------------------------------------------------------------------------------------------- app


def _app_options(parser: ArgumentParser) -> None:
    parser.add_argument("--weights", type=str, default="scenes", help=WEIGHTS)
    parser.add_argument("--host", type=str, metavar="ADDRESS", default="127.0.0.1", help="Address to listen on.")
    parser.add_argument("--port", type=NonNegativeInt, metavar="N", default=7860, help="Where; 0 takes a free one.")
    parser.add_argument("--device", type=Device, default="auto", help=DEVICE)


def _app(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from banet.app import serve

    serve(options.weights, host=options.host, port=options.port, device=options.device)
    return 0


# ------------------------------------------------------------------------------------------------------- data scenes


def _scenes_options(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=str, metavar="DIR", required=True, help="Where pictures, PNGs and JSON go.")
    parser.add_argument("--count", type=PositiveInt, metavar="N", default=20, help="How many scenes.")
    parser.add_argument("--seed", type=NonNegativeInt, metavar="N", default=0, help="Another seed draws other scenes.")
    parser.add_argument("--size", type=PositiveInt, metavar="PIXELS", default=256, help="Side of a scene in pixels.")


def _scenes(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from tqdm import tqdm

    from banet.data.scenes.generate import write_coco

    with tqdm(desc="scenes", total=options.count, unit="scene", disable=None, leave=False) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        side = options.size
        path = write_coco(options.out, options.seed, options.count, (side, side), progress=show)
    print(path)
    return 0


# ------------------------------------------------------------------------------------------------------ data collage


def _collage_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--instances", type=str, metavar="FILE", required=True, help="What to cut out: a COCO instances JSON."
    )
    parser.add_argument("--images", type=str, metavar="DIR", required=True, help="Folder of its pictures.")
    parser.add_argument("--backgrounds", type=str, metavar="DIR", required=True, help="Pictures to paste on.")
    parser.add_argument("--out", type=str, metavar="DIR", required=True, help="Where pictures, PNGs and JSON go.")
    parser.add_argument("--count", type=PositiveInt, metavar="N", default=20, help="How many collages.")
    parser.add_argument("--seed", type=NonNegativeInt, metavar="N", default=0, help="Another seed gives others.")


def _collage(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    from tqdm import tqdm

    from banet.data.scenes.collage import InstanceSet, write_collages

    instances = InstanceSet(options.instances, options.images)
    with tqdm(desc="collages", total=options.count, unit="collage", disable=None, leave=False) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        path = write_collages(options.out, instances, options.backgrounds, options.seed, options.count, progress=show)
    print(path)
    return 0


# -------------------------------------------------------------------------------------------------------- data check


def _check_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", nargs="*", type=str, metavar="DIR", help="Folders of splits, or of folders of splits.")
    add("--config", type=str, metavar="NAME|FILE", help=f"{CONFIG} Its data.train and data.val are checked.")
    add("--images", type=str, metavar="DIR", help="Folder of the pictures, if not DIR/images.")
    add("--panoptic", type=str, metavar="DIR", help="With --images and --json, and without DIR: folder of id PNGs.")
    add("--json", type=str, metavar="FILE", help="With --images and --panoptic: the COCO panoptic JSON.")
    add("--report", type=str, metavar="FILE", help="Write all findings to this JSON.")


def _check(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    parts = [options.images, options.panoptic, options.json]
    ways = [bool(options.folders), bool(options.config), bool(options.json or options.panoptic)]
    if sum(ways) != 1 or ((options.json or options.panoptic) and not all(parts)):
        raise InputError("say what to check: DIR ..., or --config NAME|FILE, or --images, --panoptic and --json")
    from banet.data.check import Split, check_splits, find_splits
    from banet.files.atomic import write_json

    if options.config:
        data = load_recipe(options.config).data
        root = Path(data.root)
        splits = [
            Split(name, root / part.images, root / part.panoptic, root / part.json)
            for name, part in (("train", data.train), ("val", data.val))
        ]
    elif options.json:
        splits = [Split(Path(options.json).stem, *map(Path, parts))]
    else:
        splits = [split for folder in options.folders for split in find_splits(folder, options.images)]
        if len({split.name for split in splits}) < len(splits):
            splits = [replace(split, name=str(split.json.parent)) for split in splits]
    with _progress("check") as show:
        report = check_splits(splits, show)
    if options.report:
        write_json(options.report, report.to_json())
    print(report)
    return 1 if report.findings else 0


# ------------------------------------------------------------------------------------------------------ data convert

Overlaps = Literal["fail", RuleName]
OVERLAPS = "What to do where objects overlap: refuse, or the occlusion rule that says who is in front."
CLASSES = "JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON."


def _out(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=str, metavar="DIR", required=True, help="A new folder; gets panoptic.json and panoptic/."
    )


def _convert_coco_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", type=str, metavar="DIR", required=True, help="Folder of the pictures.")
    add("--instances", type=str, metavar="FILE", required=True, help="COCO instances JSON.")
    add("--stuff", type=str, metavar="DIR", help="Label maps of category ids: PNGs, named as the pictures.")
    add("--categories", type=str, metavar="FILE", help=f"{CLASSES} By default the instances' own, as things.")
    add("--overlaps", type=Overlaps, metavar=f"{{fail,{RULE[1:]}", default="fail", help=OVERLAPS)
    add("--void", type=list[int], metavar="'[ID, ...]'", default=[], help="Labels of --stuff that are void, beside 0.")
    _out(parser)


def _convert_split_options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=str, metavar="DIR", required=True, help="The data set as it is unpacked.")
    parser.add_argument("--split", type=str, metavar="NAME", required=True, help="Which of its splits.")
    _out(parser)


def _convert_maps_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", type=str, metavar="DIR", required=True, help="Folder of the pictures.")
    add("--labels", type=str, metavar="DIR", required=True, help="PNGs of category ids, named as the pictures.")
    add("--instances", type=str, metavar="DIR", help="PNGs of instance numbers. Things where they are 0 are crowd.")
    add("--categories", type=str, metavar="FILE", required=True, help=CLASSES)
    add("--void", type=list[int], metavar="'[ID, ...]'", default=[], help="Labels that are void, beside 0.")
    _out(parser)


def _convert_shapes_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--annotations", type=str, metavar="PATH", required=True, help="Labelme: folder of JSONs. CVAT: the XML.")
    add("--images", type=str, metavar="DIR", help="Folder of the pictures. Labelme's by default: that of the JSONs.")
    add(
        "--stuff", type=list[str], metavar="'[NAME, ...]'", default=[], help="Labels that are stuff; others are things."
    )
    add("--categories", type=str, metavar="FILE", help=f"{CLASSES} In place of --stuff.")
    add("--ignore", type=list[str], metavar="'[NAME, ...]'", default=[], help="Labels that are left out.")
    add("--overlaps", type=Overlaps, metavar=f"{{fail,{RULE[1:]}", default="fail", help=OVERLAPS)
    _out(parser)


def _convert(format_name: str) -> Callable[[ArgumentParser, Sequence[str]], int]:
    """What runs `banet data convert FORMAT`: convert_FORMAT of the module that has it."""
    module = "maps" if format_name == "ade20k" else format_name

    def run(parser: ArgumentParser, arguments: Sequence[str]) -> int:
        options = vars(parse_options(parser, arguments))
        if options.get("categories") and options.get("annotations") and options.get("stuff"):
            raise InputError("--stuff: give either it or --categories, which says what is stuff")
        if format_name == "cvat" and not options["images"]:
            raise InputError("missing: --images")
        from importlib import import_module

        convert = getattr(import_module(f"banet.data.convert.{module}"), f"convert_{format_name}")
        with _progress("convert") as show:
            print(convert(**options, progress=show))
        return 0

    return run


# -------------------------------------------------------------------------------------------------------- completion


def _completion_options(parser: ArgumentParser) -> None:
    parser.add_argument("shell", type=Shell, metavar="SHELL", help="bash, zsh, fish, tcsh or powershell.")


def _completion(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    options = parse_options(parser, arguments)
    parsers = {name: (command.summary, command.parser(name)) for name, command in COMMANDS.items()}
    print(completion_script(parsers, options.shell))
    return 0


# -------------------------------------------------------------------------------------------------------------- main

COMMANDS = {
    "train": Command(
        "Train a network from a recipe.",
        _train_options,
        _train,
        "--config NAME|FILE [--any.option VALUE ...] [--out DIR] [--resume auto|PATH]\n"
        "                   [--init NAME|FILE] [--batch N] [--device DEVICE]",
        "Every option of the recipe can be given here and goes before the file's value. Lists are written\n"
        'as --data.shorter "[640, 800]".\n\n'
        "examples:\n"
        "  banet train --config coco_r50_1x --data.root datasets/coco\n"
        "  banet train --config scenes_r18 --train.iterations 500 --device cpu\n"
        "  torchrun --nproc-per-node 8 -m banet train --config coco_r50_1x --batch 32\n"
        "  banet train --config coco_r50_1x --print-config > mine.yaml",
    ),
    "push": Command(
        "Upload weights to the Hugging Face hub, with a card of classes, recipe, PQ and licence.",
        _push_options,
        _push,
    ),
    "evaluate": Command(
        "Measure PQ, AP of masks and mIoU of stuff.",
        _evaluate_options,
        _evaluate,
        "WEIGHTS (--config NAME|FILE | --images DIR --panoptic DIR --json FILE) [--out DIR [--gallery]]\n"
        "                      [--rule RULE] [--batch N] [--limit N] [--device DEVICE] [--inference.OPTION VALUE ...]",
        "Options of inference that are not given are those that were saved with the weights.",
        SavedDefaults,
    ),
    "analyze": Command(
        "Tell what perfect boxes, classes, order or stuff would be worth (Table 4).",
        _analyze_options,
        _analyze,
        "WEIGHTS (--config NAME|FILE | --images DIR --panoptic DIR --json FILE) [--out DIR] [--limit N]\n"
        "                     [--figure PNG [--baseline WEIGHTS] [--pictures N | --picture-ids ID ...]]\n"
        "                     [--device DEVICE]",
        "Every row fuses by the paper's rule. The figure shows the pictures whose PQ changes most, up or down, both\n"
        "from the baseline to the third column and from there to + OH.\n\n"
        "example, after `banet ablate --config scenes_r18 --out study`:\n"
        "  banet analyze study/sim_ocm_s2i/seed0 --config study/recipe.yaml --figure figure.png",
    ),
    "ablate": Command(
        "Train and measure the rows of the paper's Tables 2 and 3; goes on where it was stopped.",
        _ablate_options,
        _ablate,
        "--config NAME|FILE [--any.option VALUE ...] [--table 2|3|all] [--seeds '[0, 1, 2]'] [--out DIR]\n"
        "                    [--dry-run] [--device DEVICE]",
        "Every option of the recipe can be given here too, as for `banet train`.",
    ),
    "predict": Command(
        "Segment pictures and videos; writes id PNG, JSON and an overlay for each picture, an overlay for each video.",
        _predict_options,
        _predict,
        "INPUT [INPUT ...] --weights WEIGHTS [--out DIR] [--gallery] [--tile PIXELS [--overlap PIXELS]]\n"
        "                     [--frames] [--rule RULE] [--device DEVICE] [--runtime torch|onnx|openvino]",
        "With --runtime onnx or openvino the exported file is given as --weights or before the pictures. Ctrl-C ends\n"
        "a video or a camera's recording after the frame at work.\n\n"
        "examples:\n"
        "  banet predict --runtime onnx model.onnx photos/\n"
        "  banet predict --weights scenes --tile 1024 aerial.tif\n"
        "  banet predict --weights scenes street.mp4 camera:0",
    ),
    "export": Command(
        "Write the network as a graph that runs without torch.",
        _export_options,
        _export,
        "WEIGHTS [--format onnx|torch-export|openvino] [--out FILE]\n"
        "                    [--precision float32|float16|int8] [--calibration '[INPUT, ...]']",
        "The graph takes an image of any size and gives boxes, scores, labels, masks and semantic logits.\n"
        "`banet predict --runtime` runs it, with occlusion handling and fusion after it.\n\n"
        "example:\n"
        "  banet export scenes --out model.onnx\n"
        "  banet export scenes --out small.onnx --precision int8 --calibration '[photos/]'",
    ),
    "pq": Command("Score one COCO panoptic folder against another; needs no model.", _pq_options, _pq),
    "fuse": Command(
        "Make panoptic results of anybody's instances and label maps; needs no model.",
        _fuse_options,
        _fuse,
        "--instances FILE --semantic DIR --images DIR --out DIR [--json FILE] [--categories FILE] [--rule RULE]\n"
        "                  [--score SCORE] [--nms IOU] [--top N] [--stuff-area PIXELS]\n"
        "                  [--overlap-threshold SHARE] [--removal-threshold SHARE]",
        "Masks are run lengths, compressed or not, or polygons. Label maps bear the pictures' names and end in .png:\n"
        "grey (8 or 16 bits) or palette; 0, and 255 or 65535, are void unless a category has that id. Without --json\n"
        "the number in a picture's name is its id. The paper suppresses boxes too: --nms 0.5.\n\n"
        "example:\n"
        "  banet fuse --instances results.json --semantic labels --images val2017 --json panoptic_val2017.json \\\n"
        "             --out fused",
    ),
    "demo": Command("Compare the heuristic with occlusion handling on fresh scenes.", _demo_options, _demo),
    "app": Command(
        "Serve a page in the browser: drop a picture, compare occlusion rules.",
        _app_options,
        _app,
        notes="Only this machine reaches the page, unless --host is another address, such as 0.0.0.0. It asks for no\n"
        "password.",
    ),
    "data scenes": Command("Write procedural scenes as a COCO panoptic data set.", _scenes_options, _scenes),
    "data collage": Command(
        "Paste cut-outs on pictures in a known order; writes COCO panoptic and overlapping masks.",
        _collage_options,
        _collage,
        notes="Backgrounds count as stuff `background` as a whole. instances_amodal.json holds full masks and their\n"
        "`depth`: 0 is the front.",
    ),
    "data check": Command(
        "Tell what is wrong with a COCO panoptic data set, and how to mend it.",
        _check_options,
        _check,
        "DIR ... [--images DIR] | --config NAME|FILE | --images DIR --panoptic DIR --json FILE\n"
        "                        [--report FILE]",
        "DIR has panoptic.json, panoptic/ and images/, or folders that have, or COCO's own layout. Several splits are\n"
        "also searched for pictures that they share. Ends with 0 if nothing was found, with 1 if something was.",
    ),
    "data convert coco": Command(
        "Make COCO panoptic of COCO instances and label maps of stuff.",
        _convert_coco_options,
        _convert("coco"),
        "--images DIR --instances FILE --out DIR [--stuff DIR --categories FILE [--void '[ID, ...]']]\n"
        "                               [--overlaps fail|RULE]",
        "Things are in front of crowds, crowds in front of stuff. Thing ids in --stuff are void.\n"
        "example:\n"
        "  banet data convert coco --images photos --instances instances.json --overlaps area --out mine",
    ),
    "data convert cityscapes": Command(
        "Make COCO panoptic of Cityscapes (gtFine, leftImg8bit).",
        _convert_split_options,
        _convert("cityscapes"),
        notes="example, as recipe cityscapes_r50 has it:\n  banet data convert cityscapes --root datasets/cityscapes "
        "--split train --out datasets/cityscapes/panoptic_train",
    ),
    "data convert ade20k": Command(
        "Make COCO panoptic of ADE20K (ADEChallengeData2016 with annotations_instance).",
        _convert_split_options,
        _convert("ade20k"),
        notes="example, as recipe ade20k_r50 has it:\n  banet data convert ade20k --root datasets/ADEChallengeData2016 "
        "--split training \\\n      --out datasets/ADEChallengeData2016/panoptic_training",
    ),
    "data convert maps": Command(
        "Make COCO panoptic of label maps and instance maps.", _convert_maps_options, _convert("maps")
    ),
    "data convert labelme": Command(
        "Make COCO panoptic of Labelme's polygons.",
        _convert_shapes_options,
        _convert("labelme"),
        "--annotations DIR --out DIR [--images DIR] [--stuff '[NAME, ...]' | --categories FILE]\n"
        "                                  [--ignore '[NAME, ...]'] [--overlaps fail|RULE]",
        "Shapes of one label and one group_id are one object. Things are in front of stuff. Give the second split\n"
        "the classes of the first: --categories FIRST/panoptic.json.",
    ),
    "data convert cvat": Command(
        "Make COCO panoptic of CVAT's XML (CVAT for images 1.1).",
        _convert_shapes_options,
        _convert("cvat"),
        "--annotations FILE --images DIR --out DIR [--stuff '[NAME, ...]' | --categories FILE]\n"
        "                               [--ignore '[NAME, ...]'] [--overlaps fail|RULE]",
        "Shapes of one label and one group_id are one object. The higher z_order is in front; in one layer things are\n"
        "in front of stuff. Give the second split the classes of the first: --categories FIRST/panoptic.json.",
    ),
    "completion": Command(
        "Print a script that completes commands, options and values in a shell.",
        _completion_options,
        _completion,
        notes="examples:\n"
        "  banet completion bash > ~/.local/share/bash-completion/completions/banet\n"
        "  banet completion fish > ~/.config/fish/completions/banet.fish\n"
        "  banet completion zsh > ~/.zfunc/_banet      # with fpath+=(~/.zfunc) before compinit in ~/.zshrc",
    ),
}
GROUPS = {"data": "Make and check data sets.", "data convert": "Make COCO panoptic of other formats."}


def _overview(group: str = "") -> str:
    """The help of `banet`, or of a group of commands."""
    rows = {name: command.summary for name, command in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, rows)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in rows.items()]
    return "\n".join(
        [
            f"usage: banet {group or 'COMMAND'} ...",
            "",
            GROUPS[group] if group else "Panoptic segmentation with bidirectional aggregation and occlusion handling.",
            "",
            "commands:",
            *lines,
            "",
            "`banet COMMAND --help` tells more of one; `banet --version` prints the version.",
        ]
    )


def _dispatch(arguments: Sequence[str]) -> int:
    for words in (3, 2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return COMMANDS[name].run(COMMANDS[name].parser(name), arguments[words:])
    group = next((name for words in (2, 1) if (name := " ".join(arguments[:words])) in GROUPS), "")
    rest = arguments[len(group.split()) :]
    if not rest or rest[0] in ("-h", "--help"):
        print(_overview(group))
    elif rest[0] == "--version":
        print(f"banet {__version__}")
    else:
        name = " ".join([group, rest[0]] if group else rest[:1])
        close = difflib.get_close_matches(name, COMMANDS, 1)
        known = ", ".join(known for known in COMMANDS if known.startswith(group))
        raise InputError(
            f"{name}: no such command; " + (f"did you mean {close[0]}?" if close else f"there are {known}")
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `banet`.

    Args:
        argv: Arguments without the program's name; by default those of this process.

    Returns:
        The exit status: 0, 1 where some input failed, 2 for bad input, 130 when interrupted.
    """
    try:
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # lest the flush at the end fails too
        return 0
    except (InputError, MissingExtraError, OSError) as error:
        print(f"banet: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # where only what exported networks need is installed
        if error.name not in ("torch", "torchvision"):
            raise
        print("banet: error: this command needs PyTorch: pip install torch torchvision", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from banet.engine.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split(". ")[0].split()) or "out of memory"
        print(f"banet: error: {reason}; give smaller pictures or batches, or --device cpu", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"banet: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
