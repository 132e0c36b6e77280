"""Runs public COCO weights over images, and writes what `banet fuse` reads: results.json and a folder of label maps.

    pip install 'banet-panoptic[adapters]'
    python benchmarks/coco_public_weights.py --images val2017 --json panoptic_val2017.json --out public

Instances come from a Mask R-CNN of torchvision (its labels are COCO's category ids), label maps from a Mask2Former of
transformers (its classes are found by name).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from banet.data.images import read_image
from banet.files.atomic import atomic_path
from banet.files.names import safe_join
from banet.panoptic import Categories
from banet.panoptic.coco.annotations import read_tables
from banet.panoptic.coco.rle import encode_rle


def detect(model: Any, image: Image.Image, image_id: int, device: str, score: float) -> list[dict[str, Any]]:
    """Entries of a COCO results JSON for one image."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(device) / 255
    found = {key: value.cpu().numpy() for key, value in model([pixels])[0].items()}
    entries = []
    for n in np.flatnonzero(found["scores"] > score):
        x1, y1, x2, y2 = (round(float(v), 2) for v in found["boxes"][n])
        entries.append(
            {
                "image_id": image_id,
                "category_id": int(found["labels"][n]),
                "score": float(found["scores"][n]),
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "segmentation": encode_rle(found["masks"][n, 0] >= 0.5),
            }
        )
    return entries


def segment(processor: Any, model: Any, image: Image.Image, device: str) -> NDArray[np.int64]:
    """(H, W) class numbers of the model."""
    inputs = processor(images=image, return_tensors="pt").to(device)
    maps = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(image.height, image.width)])
    return maps[0].cpu().numpy()


def ids_by_name(names: dict[int, str], classes: Categories) -> NDArray[np.uint8]:
    """The category id of each class number of a model."""
    known = {category.name: category.id for category in classes}
    missing = sorted(set(names.values()) - set(known))
    if missing:
        raise SystemExit(f"the model has classes that the JSON has not: {', '.join(missing)}")
    return np.array([known[names[n]] for n in range(len(names))], dtype=np.uint8)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of the pictures")
    parser.add_argument("--json", required=True, help="COCO panoptic JSON with images and categories")
    parser.add_argument("--out", required=True, help="gets results.json and labels/")
    parser.add_argument("--detector", default="maskrcnn_resnet50_fpn_v2", help="a Mask R-CNN of torchvision")
    parser.add_argument("--segmenter", default="facebook/mask2former-swin-tiny-coco-panoptic")
    parser.add_argument("--score", type=float, default=0.05, help="instances score above this")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    from torchvision.models import get_model
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    images, listed = read_tables(options.json)
    classes = Categories.from_coco(listed, options.json)
    pictures = list(images.values())[: options.limit]
    detector = get_model(options.detector, weights="DEFAULT").eval().to(options.device)
    processor = AutoImageProcessor.from_pretrained(options.segmenter)
    segmenter = Mask2FormerForUniversalSegmentation.from_pretrained(options.segmenter).eval().to(options.device)
    ids = ids_by_name(segmenter.config.id2label, classes)
    labels = Path(options.out) / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for info in tqdm(pictures, unit="image"):
        image = read_image(safe_join(options.images, info.file_name))
        results += detect(detector, image, info.id, options.device, options.score)
        Image.fromarray(ids[segment(processor, segmenter, image, options.device)]).save(
            labels / Path(info.file_name).with_suffix(".png").name
        )
    with atomic_path(Path(options.out) / "results.json") as temporary:
        temporary.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
