"""`banet predict FOLDER` beside its network alone: ``python benchmarks/folder.py [--size 256] [--count 40]``.

Scenes of one size are written as PNGs. The network alone has them decoded in memory, and nothing of what it says is
read out. `predict_files` loads the weights, decodes, runs the network, reads out, fuses, and writes id map, JSON and
overlay. The two take turns; medians, and the ratio of their rates, are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from roi_inlay import take_turns

from banet.data.scenes.generate import make_scene
from banet.engine.prediction.predict import predict_files
from banet.modeling.banet import BANet
from banet.modeling.readout import network_input


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="scenes")
    parser.add_argument("--count", type=int, default=40, help="pictures")
    parser.add_argument("--size", type=int, default=256, help="side of a picture, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = BANet.from_pretrained(options.weights)
    pictures = [make_scene(5, index, size=(options.size, options.size)).image for index in range(options.count)]

    @torch.inference_mode()
    def network() -> None:
        for picture in pictures:
            model([network_input(model, np.ascontiguousarray(picture))])

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "pictures", Path(folder) / "results"
        source.mkdir()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(source / f"{index}.png")

        def everything() -> None:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                assert predict_files(options.weights, [str(source)], out, device="cpu") == 0

        spent = take_turns({"network": network, "folder": everything}, options.repeats, "cpu")
    rates = {name: 1e3 * options.count / milliseconds for name, milliseconds in spent.items()}
    print(f"network alone {rates['network']:.2f} pictures/s, folder {rates['folder']:.2f}, ", end="")
    print(f"ratio {rates['folder'] / rates['network']:.2f} (goal 0.9)")


if __name__ == "__main__":
    main()
