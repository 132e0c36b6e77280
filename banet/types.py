"""Types that several packages share."""

from __future__ import annotations

import os
from typing import TypeAlias

__all__ = ["StrPath"]

StrPath: TypeAlias = str | os.PathLike[str]
"""Path of a file or folder."""
