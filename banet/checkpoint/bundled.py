"""What is known of the bundled weights beside what their files say: the one place for their figures. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BUNDLED", "Bundled"]


@dataclass(frozen=True)
class Bundled:
    """What was measured of some bundled weights, see docs/reference/models.md.

    Attributes:
        domain: What images they were trained on.
        pq: Panoptic quality in per cent.
        measured: Of what.
        seconds: CPU seconds per image.
    """

    domain: str
    pq: float
    measured: str
    seconds: float

    @property
    def figures(self) -> str:
        """Return the quality as the page shows it."""
        return f"PQ {self.pq:.1f} {self.measured}"


BUNDLED: Mapping[str, Bundled] = {
    "nuclei": Bundled("microscope images", 77.7, "of nuclei on 67 validation images", 0.26),
    "scenes": Bundled("drawn scenes only", 61.7, "on 40 unseen scenes", 0.17),
}
"""By name. README.md and docs/reference/models.md say the same, which a test holds."""
