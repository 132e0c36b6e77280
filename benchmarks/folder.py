"""`banet predict FOLDER` beside its network alone: ``python benchmarks/folder.py [--size 256] [--count 40]``.

Scenes of one size are written as PNGs. The network alone has them decoded in memory, and nothing of what it says is
read out. `predict_files` loads the weights, decodes, runs the network, reads out, fuses, and writes id map, JSON and
overlay. Printed are their rates and the ratio of these.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import Report, parser, take_turns
from PIL import Image

from banet.data.scenes.generate import make_scene
from banet.engine.prediction.predict import predict_files
from banet.inference.banet import BANet
from banet.inference.preprocess import preprocess


def main() -> None:
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--weights", default="scenes")
    command_line.add_argument("--count", type=int, default=40, help="pictures")
    command_line.add_argument("--size", type=int, default=256, help="side of a picture, in pixels")
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    model = BANet.from_pretrained(options.weights)
    images = [make_scene(5, index, size=(options.size, options.size)).image for index in range(options.count)]

    @torch.inference_mode()
    def network() -> None:
        for picture in images:
            model([preprocess(np.ascontiguousarray(picture), model.inference)])

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "pictures", Path(folder) / "results"
        source.mkdir()
        for index, picture in enumerate(images):
            Image.fromarray(picture).save(source / f"{index}.png")

        def everything() -> None:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                assert predict_files(options.weights, [str(source)], out, device="cpu") == 0

        turns = take_turns({"folder": everything, "network": network}, options.repeats, warm_up=2)
    with Report(options, __file__) as report:
        report.turns(f"{options.weights}, {options.count} images of {options.size} x {options.size}", turns)
        rates = {name: options.count / turns.median(name) for name in ("network", "folder")}
        report.say(
            f"network alone {rates['network']:.2f} images/s, folder {rates['folder']:.2f}, "
            f"ratio {turns.ratio_text('network', 'folder')} (goal 0.9)"
        )


if __name__ == "__main__":
    main()
