"""Time, peak memory and parameter count of one training step and one inference at 800 x 1333, for the paper's models.

    python benchmarks/full_size.py --data DIR        # DIR: images/, panoptic/, panoptic.json in COCO panoptic format

Random weights, batch 1, frozen batch norm as with pretrained weights. Each measurement runs in a process of its own,
whose peak resident memory is read at its end; that of a process that only imports and builds is subtracted nowhere.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from harness import Report, own_process, parser, peak

RECIPES = ("coco_r50_1x", "coco_r50_dfm_1x", "coco_r101_dfm_1x", "coco_dcn101_3x")


def measure(recipe_name: str, what: str, data: Path, threads: int) -> dict[str, float]:
    import torch
    from torchvision.transforms.v2 import functional

    from banet.data.coco_panoptic import CocoPanoptic
    from banet.data.samples import make_target
    from banet.engine.options import load_recipe
    from banet.inference.banet import BANet

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dataset = CocoPanoptic(data / "images", data / "panoptic", data / "panoptic.json")
    image, truth = dataset.read(0)
    size = [800, 1333]
    picture = functional.resize(torch.from_numpy(image).permute(2, 0, 1), size, antialias=True)
    ids = functional.resize(torch.from_numpy(truth.ids)[None], size, functional.InterpolationMode.NEAREST_EXACT)[0]
    recipe = load_recipe(recipe_name)
    model = BANet(dataset.categories, replace(recipe.model, norm="frozen_batch"), recipe.inference, recipe.loss)
    if what == "train":
        target = make_target(ids.numpy(), truth.segments, dataset.categories, 0, dataset.file_name(0))
        start = time.perf_counter()
        torch.stack(list(model.losses([picture], [target]).values())).sum().backward()
        seconds = time.perf_counter() - start
        learnt = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        finite = sum(g is not None and bool(g.isfinite().all()) for g in learnt.values()) / len(learnt)
    else:
        model.eval()
        with torch.inference_mode():
            model([picture])
            start = time.perf_counter()
            model([picture])
        seconds, finite = time.perf_counter() - start, float("nan")
    return {
        "seconds": seconds,
        "peak_gib": peak() / 2**30,
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "finite_gradients": finite,
    }


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--data", type=Path, required=True)
    command_line.add_argument("--one", nargs=2, metavar=("RECIPE", "WHAT"), help=argparse.SUPPRESS)
    options = command_line.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.data, options.threads)))
        return
    with Report(options, __file__) as report:
        head = ("recipe", "parameters", "step", "peak", "inference", "peak", "finite gradients")
        report.say("{:<18}{:>11}{:>9}{:>10}{:>11}{:>10}{:>18}".format(*head))
        for recipe in RECIPES:
            common = ("--data", options.data, "--threads", options.threads, "--one", recipe)
            train, infer = (json.loads(own_process(__file__, *common, what)) for what in ("train", "infer"))
            report.say(
                f"{recipe:<18}{train['parameters_m']:>9.1f} M{train['seconds']:>7.1f} s{train['peak_gib']:>6.1f} GiB"
                f"{infer['seconds']:>9.1f} s{infer['peak_gib']:>6.1f} GiB{100 * train['finite_gradients']:>16.0f} %",
                recipe=recipe,
                train=train,
                infer=infer,
            )


if __name__ == "__main__":
    main()
