"""The figures of `gpu.py` in the docs: a section of performance.md, and how long COCO takes, from what was measured.

The section stands between two marks. While nothing was measured it is empty: no table without figures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from banet.files.atomic import atomic_path

PAGE, COCO = Path("explanation/performance.md"), Path("how_to/coco.md")
BEGIN, END = "<!-- gpu: python benchmarks/gpu.py --docs docs -->", "<!-- end of gpu -->"
STEPS, IMAGES = 90_000, 16
_TIME = re.compile(r"^\| time \|.*$", re.M)

Figures = dict[str, Any]


def write(out: Path, docs: Path) -> None:
    """Write the figures of a folder into the docs.

    Args:
        out: of `gpu.py`; rehearsals are refused.
        docs: the folder of the docs.

    Raises:
        SystemExit: nothing was measured there on a GPU, or the page has lost its marks.
    """
    speed = _read(out, "speed")
    if speed is None or not speed["machine"].get("gpu_memory_gib"):
        raise SystemExit(f"--out {out}: nothing was measured there on a GPU")
    page = docs / PAGE
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page}: has no line {BEGIN} with {END} after it")
    before, rest = text.split(BEGIN)
    _replace(page, f"{before}{BEGIN}\n{section(speed, _read(out, 'tests'))}{END}{rest.split(END)[1]}")
    if line := time_of_coco(speed):
        coco = docs / COCO
        _replace(coco, _TIME.sub(lambda _: line, coco.read_text(encoding="utf-8"), count=1))


def section(speed: Figures, tests: Figures | None) -> str:
    """Return the section of performance.md."""
    about, items = speed["machine"], speed["items"]
    lines = [
        "",
        "## On a GPU",
        "",
        f"`make gpu` on one {about['gpu']} ({about['gpu_memory_gib']} GiB), {about['cores']} CPU cores,"
        f" torch {about['torch']}, CUDA {about['cuda']}.",
        "ResNet-50, 800 × 1216 pixels, random weights, seed 0; both networks are given the same 50 boxes and masks.",
        "Medians of 7 turns.",
        "",
    ]
    if tests is not None:
        counts = {key: sum(each[key] for each in tests["items"].values()) for key in ("passed", "failed", "skipped")}
        lines += [f"Tests of CUDA: {', '.join(f'{n} {key}' for key, n in counts.items())}.", ""]
    for title, kind in (("Inference", "inference"), ("Training", "training")):
        lines += _table(title, {p: items[f"{kind} {p}"] for p in ("fp32", "tf32", "bf16") if f"{kind} {p}" in items})
    if "host waits" in items:
        waits = items["host waits"]
        lines += [
            f"A training step of two images waits for the GPU {waits['training_waits']} times, inference on one image"
            f" {waits['inference_waits']} times; in the step the GPU computes {100 * waits['gpu_busy']:.0f} % of the"
            f" time, in {waits['kernels']:,} kernels.",
            "",
        ]
    if "roi_inlay" in items:
        lines += _operators(items["roi_inlay"])
    return "\n".join([*lines, ""])


def _table(title: str, by_precision: Figures) -> list[str]:
    """Return images per second and GiB, a row per contestant and batch, two columns per precision."""
    if not by_precision:
        return []
    rows = list(dict.fromkeys(name for each in by_precision.values() for name in each["images_per_second"]))
    head = " | ".join(f"{p}, images per second | GiB" for p in by_precision)
    lines = [f"### {title}", "", f"| contestant, batch | {head} |", "|---|" + "---|---|" * len(by_precision)]
    for name in rows:
        cells = " | ".join(
            f"{each['images_per_second'][name]:.1f} | {each['peak_gib'][name]:.1f}" for each in by_precision.values()
        )
        lines.append(f"| {name} | {cells} |")
    return [*lines, ""]


def _operators(figures: Figures) -> list[str]:
    """Return the table of RoIInlay beside RoIAlign."""
    lines = ["### RoIInlay", "", "| operator, boxes | forward, ms | backward, ms |", "|---|---|---|"]
    for name, forward in figures["forward_ms"].items():
        lines.append(f"| {name} | {forward:.2f} | {figures['backward_ms'][name]:.2f} |")
    return [*lines, ""]


def time_of_coco(speed: Figures) -> str | None:
    """Return the row of coco.md on how long a run takes, None while training was not measured."""
    if "training bf16" not in speed["items"]:
        return None
    rates = speed["items"]["training bf16"]["images_per_second"]
    best = max(rate for name, rate in rates.items() if name.startswith("banet"))
    hours = STEPS * IMAGES / best / 3600
    return (
        f"| time | {hours:.0f} hours on one {speed['machine']['gpu']} (bf16, {best:.1f} images per second), three times"
        " that with the 3x schedule | [measured](../explanation/performance.md#on-a-gpu) without reading images |"
    )


def _read(out: Path, stage: str) -> Figures | None:
    path = out / f"{stage}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _replace(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
