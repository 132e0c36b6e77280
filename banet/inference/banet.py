"""`banet.BANet`: the network with what its users call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from banet._renamed import accept_old_names
from banet.checkpoint.checkpoint import read_checkpoint, save_checkpoint
from banet.checkpoint.fit import WithoutRandomWeights, check_fit
from banet.checkpoint.hub import push_to_hub
from banet.inference.device import pick_device
from banet.inference.postprocess import Instances, UnfusedPrediction, paste_instances, postprocess
from banet.inference.predictor import Predictor
from banet.inference.preprocess import preprocess
from banet.modeling.network import Network
from banet.modeling.outputs import Output
from banet.types import Precision

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BANet"]


class BANet(Network, Predictor):
    """Bidirectional aggregation network for panoptic segmentation, with random weights; see `from_pretrained`.

    Its arguments are those of `Network`.
    """

    precisions: ClassVar[Sequence[Precision]] = ("32", "bf16")

    @torch.inference_mode()
    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        """Run images (H, W, 3) through the network as one batch; return what fusion needs of each."""
        return self._postprocess(self._run(images), images)

    @torch.inference_mode()
    def predict_for_evaluation(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[UnfusedPrediction, Instances]]:
        """Run images like `predict_unfused`; return with each the instances above `ap_score` that AP is measured on."""
        output = self._run(images)
        with self._arithmetic():
            detections = self.ap_detections(output)
        candidates = replace(output, detections=detections).images
        unfused = self._postprocess(output, images)
        return [
            (one, paste_instances(more, (one.image.shape[0], one.image.shape[1])))
            for one, more in zip(unfused, candidates, strict=True)
        ]

    def _run(self, images: Sequence[NDArray[np.uint8]]) -> Output:
        with self._arithmetic():
            output: Output = self([preprocess(image, self.inference) for image in images])
        return output

    def _arithmetic(self) -> AbstractContextManager[object]:
        # Not an autocast that is off: it would end one of the caller's, such as that of a training in bfloat16.
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _postprocess(self, output: Output, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        return [
            postprocess(one, image, self.categories, self.inference)
            for one, image in zip(output.images, images, strict=True)
        ]

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile backbone and semantic head, which most of the time goes to, with `torch.compile`; in place.

        What comes after them works on as many boxes as it finds, and is left as it is. Images of all sizes but the
        smallest share a graph, and the names of parameters stay. On CPUs torch needs a C++ compiler for it.

        Args:
            *arguments: As of `torch.compile`.
            **options: As of `torch.compile`; `dynamic` is True unless given.
        """
        for part in (self.backbone, self.semantic_head):
            part.compile(*arguments, **{"dynamic": True, **options})

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load a model, ready for inference.

        Args:
            source: A `.safetensors` file that `save_pretrained` wrote, a folder that holds one as
                `model.safetensors`, the name of bundled weights (`scenes`, `nuclei`), or the name of a repository on
                the Hugging Face hub.
            device: Where to put it: `cpu`, `cuda`, `mps`, or `auto` for the fastest there is.

        Raises:
            InputError: No such weights, the file is damaged or was not written by BANet, or the device is not there.
        """
        target = pick_device(device, "device")
        checkpoint = read_checkpoint(source)
        check_fit(checkpoint)
        with WithoutRandomWeights():
            model = cls(checkpoint.categories, checkpoint.config, checkpoint.inference)
        model.load_state_dict(checkpoint.state())
        model.domain = checkpoint.domain
        return model.to(target).eval()

    def save_pretrained(self, path: str | Path, *, half: bool = False, **metadata: str) -> Path:
        """Write weights, composition, inference options and categories to one safetensors file.

        Args:
            path: The file, or a folder that gets `model.safetensors`.
            half: Store floats in half precision.
            **metadata: Further text that is stored beside.

        Returns:
            The file written.
        """
        return save_checkpoint(path, self, half=half, metadata=self._with_domain(metadata))

    def _with_domain(self, metadata: Mapping[str, str]) -> Mapping[str, str]:
        return {"domain": self.domain, **metadata} if self.domain else metadata

    @accept_old_names
    def push_to_hub(self, repository: str, *, license: str, private: bool = False, **metadata: str) -> str:
        """Upload to the Hugging Face hub, with a card of classes, recipe, measured PQ and license.

        Args:
            repository: `owner/name`; made if it is not there.
            license: Identifier of the license of the weights, such as `apache-2.0`.
            private: Whether a new repository is private.
            **metadata: What the card tells: `recipe`, `recipe_yaml`, `iterations`, `pq`. `banet push` takes them from
                the file that a training run wrote.

        Returns:
            The address of the commit.

        Raises:
            InputError: The hub refused.
        """
        with TemporaryDirectory() as folder:
            weights = save_checkpoint(folder, self, metadata=self._with_domain(metadata))
            return push_to_hub(weights, repository, license=license, private=private)
