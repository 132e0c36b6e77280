"""`banet app`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from banet.commands.base import Command, Value
from banet.commands.shared import DeviceOptions, ModelOptions, Weights

__all__ = ["App"]


@dataclass(frozen=True, kw_only=True)
class App(ModelOptions, DeviceOptions, Command):
    """Serve a page in the browser: drop an image, compare occlusion rules.

    Only this machine reaches the page, unless --host is another address, such as 0.0.0.0. It asks for no
    password.

    Attributes:
        weights: coco or another name of `banet models`, hf:OWNER/NAME, a .safetensors file, or a folder that holds one.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
    """

    weights: Weights = "scenes"
    host: Annotated[str, Value("ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Value("N", least=0)] = 7860

    def run(self) -> int:
        """Serve until interrupted."""
        from banet.app import serve

        serve(
            self.weights,
            host=self.host,
            port=self.port,
            device=self.device,
            class_table=self.class_table,
            trust=self.trust,
        )
        return 0
