"""Why did study 1 come out as it did? ``python benchmarks/claim_why.py --study runs/claim --docs docs``.

It takes the trained networks of the study apart, on context scenes that the study has not seen:

- `logits`: in one network, the final logits beside its first ones, with the boxes found, the true ones and none;
- `gradients`: how large the gradients of instance losses and semantic losses are at F_S, and the angle between them;
- `longer`: read-outs on the frozen trunk that learn four times as long.

Each part keeps what it measured in the folder of the study, and is not measured again. The page and its JSON go to
``studies/claim`` of the docs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from claim_arms import Arm, Emptied, arm_recipe, load_network, read_out
from claim_measures import Counter, scores
from claim_plans import LEARNING, PLANS
from claim_read_outs import (
    Features,
    Seen,
    count,
    features_of,
    learn,
    training_features,
    validation_features,
)
from harness import Report, parser, use_threads
from torch import Tensor
from tqdm import tqdm

from banet import BANet
from banet.data.scenes.generate import SCENE_CATEGORIES, Scenes
from banet.engine.options import load_recipe
from banet.engine.recipe import Recipe
from banet.files.atomic import atomic_path, write_json
from banet.inference.postprocess import UnfusedPrediction, postprocess, semantic_argmax
from banet.inference.preprocess import preprocess
from banet.modeling.segmenters import AggregatedLogits

SIZE = (128, 128)
LOGITS_SCENES = (7131, 250)
LONGER_SCENES = (7133, 5000)
READ_OUT_SCENES = (7134, 400)
GRADIENT_SCENES = (7135, 160)
"""Seed and number of the scenes of each part."""
HEAD = """# Study 1: why

`python benchmarks/claim_why.py` writes this page from the networks of [study 1](study_1.md). Context scenes that the
study has not seen, heuristic fusion, stuff from 218 pixels; means over the seeds, no intervals. *loss*: cross entropy
over the last tenth of the learning. The other columns are those of the study.
""".splitlines()
WAY = "heuristic-218"
COLUMNS = ("PQ^Th", "PQ^St", "mIoU^St", "false", "missed", "pairs")
BATCH = 4
STEPS = (LEARNING.iterations, 4 * LEARNING.iterations)
"""Of `longer`."""
READ_OUTS = PLANS[2].read_outs
"""Of `longer`; the true boxes' share in training is 0.6 to 1."""


def scenes(which: tuple[int, int]) -> Scenes:
    """Return the context scenes of a seed and number."""
    return Scenes(*which, SIZE, context=True)


@torch.no_grad()
def logits_part(model: BANet, data: Scenes) -> dict[str, Any]:
    """Measure the first logits of a network; with SIM the final ones, with the boxes found, the true ones and none."""
    aggregated = model.segmenter.segmenter if isinstance(model.segmenter, Emptied) else model.segmenter
    counters: dict[str, Counter] = {}
    for index in tqdm(range(len(data)), desc="logits", unit="scene", mininterval=10):
        image, truth = data.read(index)
        output = model([preprocess(image, model.inference)])
        (raw,) = output.images
        unfused = postprocess(raw, image, SCENE_CATEGORIES, model.inference)
        maps = {"first": aggregated.first(output.semantic)}
        if isinstance(aggregated, AggregatedLogits):
            maps["final"] = output.logits
        if aggregated is model.segmenter and len(maps) > 1:
            true = data[index].target.boxes
            f_ins = features_of(model, output, true).f_ins.float()
            maps["true boxes"] = aggregated(output.semantic, f_ins, [true], [raw.size])
            maps["no box"] = aggregated(output.semantic, f_ins[:0], [true[:0]], [raw.size])
        for name, logits in maps.items():
            best = semantic_argmax(logits[0], raw.size, (image.shape[0], image.shape[1]))
            counter = counters.setdefault(name, Counter(rules=("heuristic",), limits=(218,)))
            counter.add(UnfusedPrediction(image, unfused.instances, best), truth, model.inference)
    return {name: _scores(counter) for name, counter in counters.items()}


def gradients_part(model: BANet, data: Scenes) -> dict[str, float]:
    """Measure the gradients at F_S of instance and of semantic losses: norms and cosine, means over the batches.

    Args:
        model: a network with the losses that it was trained with.
        data: scenes.
    """
    levels: list[list[Tensor]] = []
    model.semantic_head.register_forward_hook(lambda module, given, made: levels.append(made))
    torch.manual_seed(0)
    rows = []
    for start in tqdm(range(0, len(data), BATCH), desc="gradients", unit="batch", mininterval=10):
        samples = [data[index] for index in range(start, start + BATCH)]
        losses = model.losses([s.image for s in samples], [s.target for s in samples])
        made = levels.pop()
        instance = _gradient(losses, ("loss_cls", "loss_box", "loss_mask"), made)
        semantic = _gradient(losses, ("loss_seg", "loss_i2s"), made)
        cosine = torch.nn.functional.cosine_similarity(instance, semantic, dim=0)
        rows.append([float(instance.norm()), float(semantic.norm()), float(cosine)])
    mean = torch.tensor(rows).mean(0).tolist()
    return dict(zip(("instance", "semantic", "cosine"), mean, strict=True))


def _gradient(losses: Mapping[str, Tensor], names: Sequence[str], levels: Sequence[Tensor]) -> Tensor:
    total = sum(losses[name] for name in names if name in losses)
    found = torch.autograd.grad(total, levels, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
    pairs = zip(found, levels, strict=True)
    return torch.cat([(torch.zeros_like(level) if part is None else part).flatten() for part, level in pairs])


def read_out_part(
    arm: Arm,
    steps: int,
    seed: int,
    recipe: Recipe,
    cache: Sequence[tuple[Features, Tensor]],
    validation: Sequence[Seen],
) -> dict[str, float]:
    """Train one read-out on frozen features and measure it, with the boxes that the network finds."""
    torch.manual_seed(seed)
    module = read_out(arm, recipe, SCENE_CATEGORIES)
    loss = learn(module, cache, seed, replace(LEARNING, iterations=steps))
    return {"loss": loss, **_scores(count(module, validation, recipe.inference, true_boxes=False))}


def _scores(counter: Counter) -> dict[str, float]:
    return {name: float(value[0]) for name, value in scores(counter.counts(), WAY).items()}


class Kept:
    """What has been measured, one JSON each, in a folder.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._path(name).read_text(encoding="utf-8"))

    def __setitem__(self, name: str, value: Any) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    def rows(self, part: str) -> Iterator[tuple[str, Any]]:
        """Yield name and content of all of a part, by name."""
        for path in sorted((self.folder / part).glob("*.json")):
            yield path.stem, self[f"{part}/{path.stem}"]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def measure(study: Path, kept: Kept, seeds: Sequence[int]) -> None:
    """Measure all that has not been measured yet; the recipe is the one that the study began with.

    Args:
        study: folder of the study, step B included.
        kept: what has been measured.
        seeds: of networks and read-outs.
    """
    recipe = load_recipe(str(study / "recipe.yaml"))
    for arm, seed, weights in networks(study, seeds):
        if (name := f"logits/{arm.name}-{seed}") not in kept:
            kept[name] = logits_part(load_network(arm, weights), scenes(LOGITS_SCENES))
        if not arm.emptied and (name := f"gradients/{arm.name}-{seed}") not in kept:
            trained = arm_recipe(recipe, arm, context=True, seed=seed)
            model = BANet(SCENE_CATEGORIES, trained.model, trained.inference, trained.loss)
            model.load_state_dict(BANet.from_pretrained(weights).state_dict())
            kept[name] = gradients_part(model, scenes(GRADIENT_SCENES))
    wanted = [(each, steps, seed) for seed in seeds for steps in STEPS for each in READ_OUTS]
    if all(f"longer/{each.name}-{steps}-{seed}" in kept for each, steps, seed in wanted):
        return
    model = BANet.from_pretrained(study / "trunk" / "context" / "part0" / "model.safetensors")
    cache = training_features(model, scenes(LONGER_SCENES))
    validation = validation_features(model, scenes(READ_OUT_SCENES))
    for each, steps, seed in tqdm(wanted, desc="longer", unit="read-out"):
        if (name := f"longer/{each.name}-{steps}-{seed}") not in kept:
            kept[name] = read_out_part(each, steps, seed, recipe, cache, validation)


def networks(study: Path, seeds: Sequence[int]) -> Iterator[tuple[Arm, int, Path]]:
    """Yield the trained networks on context data: arm, seed, weights."""
    for arm in PLANS[1].networks:
        for seed in seeds:
            weights = study / "b" / "context" / arm.name / f"seed{seed}" / "model.safetensors"
            if weights.with_name("figures.json").is_file():
                yield arm, seed, weights


def report(kept: Kept) -> tuple[dict[str, Any], list[str]]:
    """Return all figures, and the tables: means over the seeds that there are."""
    titles = {arm.name: arm.title for arm in PLANS[1].networks}
    content: dict[str, Any] = {part: dict(kept.rows(part)) for part in ("logits", "gradients", "longer")}
    lines = ["", "## First and final logits of one network", "", *_head("network", "logits", *COLUMNS)]
    for arm, found in _by_arm(content["logits"]).items():
        for logits in found[0]:
            lines.append(_row([titles[arm], logits], [each[logits] for each in found], COLUMNS))
    columns = ("instance", "semantic", "cosine")
    lines += ["", "## Gradients at F_S", "", *_head("network", *columns)]
    for arm, found in _by_arm(content["gradients"]).items():
        lines.append(_row([titles[arm]], found, columns))
    lines += ["", "## Read-outs on the frozen trunk", "", *_head("read-out", "steps", "loss", *COLUMNS)]
    for read in READ_OUTS:
        for steps in STEPS:
            found = [row for name, row in content["longer"].items() if name.startswith(f"{read.name}-{steps}-")]
            if found:
                lines.append(_row([read.title, f"{steps:,}"], found, ("loss", *COLUMNS)))
    return content, lines


def _by_arm(rows: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Group rows named `arm-seed` by arm, in the order of the study."""
    order = [arm.name for arm in PLANS[1].networks]
    names = sorted({name.rpartition("-")[0] for name in rows}, key=order.index)
    return {arm: [row for name, row in rows.items() if name.rpartition("-")[0] == arm] for arm in names}


def _head(*columns: str) -> list[str]:
    return ["| " + " | ".join((*columns, "seeds")) + " |", "|---" * (len(columns) + 1) + "|"]


def _row(titles: Sequence[str], found: Sequence[Mapping[str, float]], columns: Sequence[str]) -> str:
    form = {"loss": ".3f", "instance": ".4f", "semantic": ".4f", "cosine": ".2f"}
    means = [sum(each[column] for each in found) / len(found) for column in columns]
    cells = [format(mean, form.get(column, ".1f")) for column, mean in zip(columns, means, strict=True)]
    return "| " + " | ".join((*titles, *cells, str(len(found)))) + " |"


def main() -> None:
    command_line = parser(__doc__, threads=1)
    command_line.add_argument("--study", type=Path, required=True, help="folder of the study")
    command_line.add_argument("--docs", type=Path, default=Path("docs"), help="where the docs are")
    command_line.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of networks and read-outs")
    options = command_line.parse_args()
    use_threads(options.threads)
    torch.set_num_threads(options.threads)
    kept = Kept(options.study.resolve() / "why")
    with Report(options, __file__):
        measure(options.study.resolve(), kept, options.seeds)
    content, lines = report(kept)
    folder = options.docs / "studies" / "claim"
    write_json(folder / "why_1.json", content)
    text = re.sub(r"\^(Th|St)", r"<sup>\1</sup>", "\n".join([*HEAD, *lines])) + "\n"
    with atomic_path(folder / "why_1.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"written: {folder}/why_1.json, why_1.md")


if __name__ == "__main__":
    main()
