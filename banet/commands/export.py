"""`banet export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from banet.commands.base import Command
from banet.commands.shared import File, Inputs, OverwriteOptions, UntrustedOptions, WeightsArgument

__all__ = ["Export"]


@dataclass(frozen=True, kw_only=True)
class Export(WeightsArgument, OverwriteOptions, UntrustedOptions, Command):
    """Write the network as a graph that runs without torch.

    The graph takes an image of any size and returns boxes, scores, labels, masks and semantic logits.
    `banet predict --runtime` runs it, with occlusion handling and fusion after it.

    examples:
      banet export scenes --out model.onnx
      banet export scenes --out small.onnx --precision int8 --calibration '[photos/]'

    Attributes:
        format: onnx: one .onnx file; torch-export: a .pt2 of torch.export; openvino: .xml with .bin beside it.
        out: The file; by default the weights' name, in this folder.
        precision: float16, for openvino, halves the file; int8, for onnx, computes convolutions in 8 bits.
        calibration: With --precision int8: images or folders that show what values occur; some dozens will do.
    """

    usage: ClassVar[str] = (
        "WEIGHTS [--format onnx|torch-export|openvino] [--out FILE]\n"
        "                    [--precision float32|float16|int8] [--calibration INPUT ...] [--overwrite]"
    )

    format: Literal["onnx", "torch-export", "openvino"] = "onnx"
    out: File | None = None
    precision: Literal["float32", "float16", "int8"] = "float32"
    calibration: Inputs = field(default_factory=list)

    def run(self) -> int:
        """Write the graph."""
        from banet.engine.export.export import export_command

        export_command(
            self.weights,
            self.format,
            self.out,
            precision=self.precision,
            calibration=self.calibration,
            overwrite=self.overwrite,
        )
        return 0
