"""Images, networks and servers of the tests of the page."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.modeling.config import InferenceConfig
from banet.panoptic import Categories, MaskCrops

ROOT = Path(__file__).parents[2]


class TwoBoxes(Predictor):
    """Finds a cup over a book in the middle of any image, on a floor."""

    categories = Categories.of(
        [
            {"id": 5, "name": "cup", "isthing": 1},
            {"id": 9, "name": "book", "isthing": 1},
            {"id": 2, "name": "<i>floor", "isthing": 0},
        ]
    )
    inference = InferenceConfig(stuff_area=0)

    def __init__(self) -> None:
        self.runs = 0

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        self.runs += 1
        return [self._one(image) for image in images]

    def _one(self, image: NDArray[np.uint8]) -> UnfusedPrediction:
        height, width = image.shape[:2]
        masks = np.zeros((2, height, width), dtype=bool)
        masks[0, : height // 2 + 1, : width // 2 + 1] = True
        masks[1, height // 3 :, : width // 2 + 1] = True
        found = Instances(
            MaskCrops.from_masks(masks), np.array([0.9, 0.7]), np.array([0, 1]), np.zeros((2, 4), dtype=np.float32)
        )
        return UnfusedPrediction(image, found, np.full((height, width), 2))


def empty_png(width: int, height: int) -> bytes:
    """A PNG that claims any size and holds no pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": b"", b"IEND": b""}
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class Server:
    """`banet app` in another process, and what it may not leave behind."""

    port: int
    process: subprocess.Popen[str]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> float:
        """Resident megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    @property
    def workers(self) -> list[int]:
        """The processes in which it reads images."""
        lists = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(each) for threads in lists for each in threads.read_text().split()]

    def files(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def get(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """A request whose path is sent as it is: status, body and headers of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read(), {key.lower(): value for key, value in response.headers.items()}

    def upload(self, data: bytes, name: str = "a.png") -> Any:
        """What the page would get, or the text of a refusal."""
        kind = {"Content_Type": "application/octet-stream"}
        status, answer, _ = self.get(f"/api/segment?name={name}", "POST", data, **kind)
        return json.loads(answer) if status == 200 else f"{status} {json.loads(answer)['detail']}"
