"""Segment images with Ray Data: ``python examples/ray_predict.py IMAGES WEIGHTS OUT WORKERS``.

IMAGES is a folder or a URL, WEIGHTS a name of `banet models` or a file, OUT a folder for Parquet files with `path`, the
id map `png` and the records `segments` of each image, or the `error` of one that cannot be read.

Prefer this where the images come out of a pipeline of Ray, machines come and go, or GPUs wait for decoding, which Ray
moves to other machines. Prefer `torchrun -m banet predict` for files in and files out: it needs no cluster, writes what
`banet pq` reads, and goes on where it was killed.
"""

import json
import sys

import ray
import torch

import banet
from banet.data.images import decode_image
from banet.panoptic.coco.png import encode_ids


class Segment:
    """One worker: loads the model once, and segments batches of images."""

    def __init__(self, weights: str) -> None:
        self.model = banet.load(weights, device="auto")

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Return the columns of a batch."""
        columns = zip(*map(self._segment, batch["path"], batch["bytes"]), strict=True)
        return dict(zip(("path", "png", "segments", "error"), map(list, columns), strict=True))

    def _segment(self, path: str, data: bytes) -> tuple[str, bytes, str, str]:
        try:
            result = self.model.predict(decode_image(data, path))
        except banet.InputError as error:
            return path, b"", "", str(error)
        return path, encode_ids(result.ids), json.dumps(result.to_records()), ""


images, weights, out, workers = sys.argv[1:]
options = {"fn_constructor_args": [weights], "num_cpus": 0.5, "num_gpus": int(torch.cuda.is_available())}
options |= {"batch_size": 8, "compute": ray.data.ActorPoolStrategy(size=int(workers))}  # num_cpus: reading needs one
ray.data.read_binary_files(images, include_paths=True).map_batches(Segment, **options).write_parquet(out)
