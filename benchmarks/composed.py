"""What models of transformers cost here beside their own library: time of predict, and memory above the forward pass.

Random weights of full size; class scores and masks are set so that 10, 30 and 100 queries survive in both: blobs that
overlap, with noisy borders. The library's side is its image processor, the network and its panoptic post-processing;
ours is `predict`. What comes after the network is measured alone too, as the network takes most of the time. Times are
CPU seconds of the process, which other programs on the machine disturb least; `--clock wall` takes the clock on the
wall. Memory is measured in processes of their own: the peak of the library's forward pass, and that of `predict`, with
100 queries.

    python benchmarks/composed.py [--family detr mask2former eomt] [--queries 10 30 100] [--parts whole after]
                                  [--size 1024] [--repeats 5] [--clock cpu]
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness import Report, own_process, parser, rise, take_turns, use_threads

QUERIES = (10, 30, 100)
FAMILIES = ("detr", "mask2former", "eomt")
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
CLASSES, THINGS = 133, 80


def build(family: str) -> tuple[Any, Any]:
    """Return a network of full size with random weights, and its image processor."""
    import transformers as t

    names = {n: f"class {n}" for n in range(CLASSES)}
    if family == "detr":
        config = t.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=t.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
            num_queries=100,
            id2label=names,
        )
        return t.DetrForSegmentation(config), t.DetrImageProcessor()
    if family == "mask2former":
        swin = t.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])  # Swin-T
        config = t.Mask2FormerConfig(backbone_config=swin, num_queries=100, id2label=names)
        return t.Mask2FormerForUniversalSegmentation(config), t.Mask2FormerImageProcessor(size=(384, 384))
    config = t.EomtConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=640, num_queries=200, id2label=names
    )
    return t.EomtForUniversalSegmentation(config), t.EomtImageProcessor(do_pad=True)


@dataclass
class Sides:
    """Our predictor and the library, with the same network.

    Attributes:
        family: Whose network it is.
        surviving: How many queries survive.
        predictor: Ours.
    """

    family: str
    surviving: int
    predictor: Any

    def __post_init__(self) -> None:
        """Let the network return crafted queries."""
        self.model = self.predictor.model
        forward = self.model.model.forward
        self.model.model.forward = lambda *given, **options: self._craft(forward(*given, **options))

    def _craft(self, outputs: Any) -> Any:
        """Set class scores and masks of the network's outputs in place."""
        import torch

        detr = self.family == "detr"
        logits = outputs.logits if detr else outputs.class_queries_logits
        masks = outputs.pred_masks if detr else outputs.masks_queries_logits
        generator = torch.Generator().manual_seed(1)
        count, (height, width) = self.surviving, masks.shape[-2:]
        logits[...] = 0
        logits[..., -1] = 20
        classes = torch.randint(CLASSES, (count,), generator=generator)
        logits[:, torch.arange(count), classes] = 22 + 4 * torch.rand(count, generator=generator)
        y, x, radius = torch.rand(3, count, 1, 1, generator=generator)
        down, across = torch.arange(height)[:, None] / height - y, torch.arange(width) / width - x
        inside = (0.4 + 0.5 * radius) / count**0.5 - torch.hypot(down, across)
        noise = torch.randn(inside.shape, generator=generator) / 2
        masks[...] = -8
        masks[:, :count] = (60 * inside).clamp(-8, 8) + noise
        return outputs

    def run(self, image: Any) -> Any:
        """Return the library's inputs and the network's outputs for them."""
        inputs = self.model.image_processor(images=[image], return_tensors="pt")
        wanted = ("pixel_values",) if self.family == "eomt" else ("pixel_values", "pixel_mask")
        return self.model.model(**{key: inputs[key] for key in wanted if key in inputs})

    def after(self, outputs: Any, image: Any) -> Any:
        """Return the library's panoptic result of the network's outputs."""
        stuff = range(THINGS, CLASSES)
        fused = {"stuff_classes": list(stuff)} if self.family == "eomt" else {"label_ids_to_fuse": set(stuff)}
        step = self.model.image_processor.post_process_panoptic_segmentation
        return step(outputs, target_sizes=[image.shape[:2]], **fused)[0]

    def library(self, image: Any) -> Any:
        """Return the library's panoptic result of an image."""
        return self.after(self.run(image), image)


def load(family: str, surviving: int) -> Sides:
    """Return both sides of a family."""
    import torch

    from banet.composed.classes import ClassTable
    from banet.composed.load import load as load_predictor
    from banet.panoptic import Categories, Category

    torch.manual_seed(0)
    categories = Categories(Category(n + 1, f"class {n}", n < THINGS) for n in range(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        network, processor = build(family)
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
        del network
        predictor = load_predictor(f"hf:{folder}", class_table=ClassTable.of(categories, "these classes"))
    return Sides(family, surviving, predictor)


def make_image(size: int) -> Any:
    """Return a scene, (size, size, 3)."""
    from banet.data.scenes import make_scene

    return make_scene(seed=3, index=0, size=(size, size)).image


def memory(family: str, side: str, size: int) -> int:
    """Return by how many bytes one call raises the memory of this process at most."""
    import torch

    sides, image = load(family, 100), make_image(size)
    call = partial(sides.predictor.predict if side == "ours" else sides.run, image)
    with torch.inference_mode():
        sides.run(make_image(64))  # what is allocated once
        return rise(call)


def compare(
    report: Report, sides: Sides, image: Any, repeats: int, clock: Callable[[], float], parts: Sequence[str]
) -> None:
    """Measure `predict` beside the library, whole and after the network, or one of these `parts`."""
    ours: Any = sides.predictor
    outputs = sides.run(image)
    given = sides.model._outputs(outputs, 0, sides.model._preprocess(image, "panoptic"))
    result, theirs = ours.fuse(ours._resolve(given, image)), sides.after(outputs, image)
    both = {
        "whole": {"ours": partial(ours.predict, image), "library": partial(sides.library, image)},
        "after": {
            "ours": lambda: ours.fuse(ours._resolve(given, image)),
            "library": partial(sides.after, outputs, image),
        },
    }
    for part in parts:
        what = {"whole": "whole", "after": "after the network"}[part]
        turns = take_turns(both[part], repeats, clock=clock)
        report.turns(f"{sides.family}, {sides.surviving} queries, {what}", turns)
        report.say(
            f"{sides.family:12} {sides.surviving:4} queries, {what}: ours {turns.median('ours'):.3f} s "
            f"({len(result.segments)} segments), library {turns.median('library'):.3f} s "
            f"({len(theirs['segments_info'])} segments), ratio {turns.ratio_text('ours', 'library')}",
            ours=turns.median("ours"),
            library=turns.median("library"),
        )


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    arguments.add_argument("--queries", nargs="+", type=int, default=QUERIES)
    arguments.add_argument("--size", type=int, default=1024)
    arguments.add_argument("--parts", nargs="+", choices=("whole", "after"), default=("whole", "after"))
    arguments.add_argument("--clock", choices=CLOCKS, default="cpu")
    arguments.add_argument("--memory-of", nargs=2, metavar=("FAMILY", "SIDE"))
    options = arguments.parse_args()
    use_threads(options.threads)
    if options.memory_of:
        print(json.dumps(memory(*options.memory_of, options.size)))
        return
    import torch

    with Report(options, __file__) as report, torch.inference_mode():
        for family in options.family:
            image = make_image(options.size)
            for surviving in options.queries:
                compare(report, load(family, surviving), image, options.repeats, CLOCKS[options.clock], options.parts)
            if "whole" not in options.parts:
                continue
            sides = {
                side: int(own_process(__file__, "--memory-of", family, side, "--size", options.size))
                for side in ("library", "ours")
            }
            above = (sides["ours"] - sides["library"]) / 1e6
            report.say(
                f"{family:12} 100 queries: predict {sides['ours'] / 1e6:.0f} MB, the library's forward pass "
                f"{sides['library'] / 1e6:.0f} MB, {above:+.0f} MB",
                above=above,
            )


if __name__ == "__main__":
    main()
