"""What models of transformers cost here beside their own library: time of predict, and memory above the forward pass.

Random weights of full size; the class scores are set so that 10, 30 and 100 queries survive in both. The library's side
is its image processor, the network and its panoptic post-processing; ours is `predict`. Memory is measured in processes
of their own: the peak of the library's forward pass, and that of `predict`, with 100 queries.

    python benchmarks/composed.py [--family detr mask2former eomt] [--size 1024] [--repeats 5]
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import Report, own_process, parser, rise, take_turns, use_threads

QUERIES = (10, 30, 100)
FAMILIES = ("detr", "mask2former", "eomt")


def build(family: str) -> tuple[Any, Any]:
    """Return a network of full size with random weights, and its image processor."""
    import transformers as t

    names = {n: f"class {n}" for n in range(133)}
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


def load(family: str, surviving: int) -> tuple[Any, Callable[[Any], Any]]:
    """Return our predictor of a family, and the library's function of an image; both with the same network."""
    import torch

    from banet.composed.classes import ClassTable
    from banet.composed.load import load as load_predictor
    from banet.panoptic import Categories, Category

    torch.manual_seed(0)
    table = ClassTable.of(Categories(Category(n + 1, f"class {n}", n < 80) for n in range(133)), "these classes")
    with tempfile.TemporaryDirectory() as folder:
        network, processor = build(family)
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
        del network
        predictor: Any = load_predictor(f"hf:{folder}", class_table=table)
    network, processor = predictor.model.model, predictor.model.image_processor
    forward = network.forward

    def with_scores(*arguments: Any, **options: Any) -> Any:
        outputs = forward(*arguments, **options)
        logits = outputs.logits if family == "detr" else outputs.class_queries_logits
        logits[...] = 0
        logits[..., -1] = 20
        classes = torch.randint(133, (surviving,), generator=torch.Generator().manual_seed(1))
        logits[:, torch.arange(surviving), classes] = 26
        return outputs

    network.forward = with_scores
    stuff = set(range(80, 133))
    fused = {"stuff_classes": list(stuff)} if family == "eomt" else {"label_ids_to_fuse": stuff}

    @torch.inference_mode()
    def library(image: Any) -> Any:
        inputs = processor(images=[image], return_tensors="pt")
        inputs = {key: value for key, value in inputs.items() if key in ("pixel_values", "pixel_mask")}
        if family == "eomt":
            inputs.pop("pixel_mask", None)
        outputs = network(**inputs)
        if library.forward_only:  # type: ignore[attr-defined]
            return outputs
        return processor.post_process_panoptic_segmentation(outputs, target_sizes=[image.shape[:2]], **fused)

    library.forward_only = False  # type: ignore[attr-defined]
    return predictor, library


def make_image(size: int) -> Any:
    """Return a scene, (size, size, 3)."""
    from banet.data.scenes import make_scene

    return make_scene(seed=3, index=0, size=(size, size)).image


def memory(family: str, side: str, size: int) -> int:
    """Return by how many bytes one call raises the memory of this process at most."""
    predictor, library = load(family, 100)
    library.forward_only = True
    image = make_image(size)
    call = (lambda: predictor.predict(image)) if side == "ours" else (lambda: library(image))
    library(make_image(64))  # what is allocated once
    return rise(call)


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    arguments.add_argument("--size", type=int, default=1024)
    arguments.add_argument("--memory-of", nargs=2, metavar=("FAMILY", "SIDE"))
    options = arguments.parse_args()
    use_threads(options.threads)
    if options.memory_of:
        print(json.dumps(memory(*options.memory_of, options.size)))
        return
    with Report(options, __file__) as report:
        for family in options.family:
            image = make_image(options.size)
            for surviving in QUERIES:
                predictor, library = load(family, surviving)
                turns = take_turns(
                    {"ours": partial(predictor.predict, image), "library": partial(library, image)},
                    options.repeats,
                )
                report.turns(f"{family}, {surviving} queries", turns)
                report.say(
                    f"{family:12} {surviving:4} queries: ours {turns.median('ours'):.2f} s, library "
                    f"{turns.median('library'):.2f} s, ratio {turns.ratio_text('ours', 'library')}",
                    ours=turns.median("ours"),
                    library=turns.median("library"),
                )
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
