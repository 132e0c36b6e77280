"""`banet push`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from banet.commands.base import Argument, Command, Value
from banet.commands.shared import OverwriteOptions, WeightsArgument

__all__ = ["Push"]


@dataclass(frozen=True, kw_only=True)
class Push(WeightsArgument, OverwriteOptions, Command):
    """Upload weights to the Hugging Face hub, with a card of classes, recipe, PQ and license.

    Attributes:
        repository: Where on the hub; created if it does not exist.
        license: License of the weights, such as apache-2.0.
        private: Make a new repository private.
    """

    repository: Annotated[str, Argument("OWNER/NAME")]
    license: Annotated[str, Value("NAME")]
    private: bool = False

    def run(self) -> int:
        """Upload, and print the address."""
        from banet.checkpoint.hub import push_to_hub

        address = push_to_hub(
            self.weights, self.repository, license=self.license, private=self.private, overwrite=self.overwrite
        )
        print(address)
        return 0
