"""Which boxes the losses see: a fixed number per image, drawn at random, some of them positive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from banet.ops.boxes import BELOW
from banet.ops.host import true_rows

__all__ = ["BalancedSampler"]


class BalancedSampler:
    """Draw boxes without replacement; the host waits once for all images.

    The draws are those of torchvision's `BalancedPositiveNegativeSampler`, which waits four times for each image.

    Args:
        samples: Boxes per image, if there are as many.
        positive_share: Most of them that are positive, as a fraction.
    """

    def __init__(self, samples: int, positive_share: float) -> None:
        self.samples = samples
        self.positives = int(samples * positive_share)

    def __call__(self, matches: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Draw from the boxes of each image.

        Args:
            matches: One (L_i,) per image: the row of a true box for positive boxes, `BELOW` for negative ones.

        Returns:
            Per image the rows drawn, (S,), and those of them that are positive, (P,); both ascending.
        """
        rows = true_rows([mask for match in matches for mask in (match >= 0, match == BELOW)])
        return [self._draw(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]

    def _draw(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        wanted = min(len(positive), self.positives)
        positive, negative = (
            rows[torch.randperm(len(rows), device=rows.device)[:count]]
            for rows, count in ((positive, wanted), (negative, self.samples - wanted))
        )
        return torch.cat([positive, negative]).sort().values, positive.sort().values
