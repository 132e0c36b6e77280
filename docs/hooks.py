"""What Markdown leaves to do when the site is built: metrics of docstrings typeset, the reference last in a search."""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"(<(pre|code|script|style)\b.*?</\2>)", re.S)
_METRIC = re.compile(r"\b(PQ|SQ|RQ|AP|mIoU)\^(Th|St)\b")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Let a guide be found before the names of the reference that hold the same words."""
    if page.file.src_uri.startswith("api/"):
        page.meta.setdefault("search", {"boost": 0.001})  # a title counts 1000 times


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with PQ^Th, as docstrings have it, typeset outside of code."""
    parts = _CODE.split(html)
    # Of each match `split` gives the text before it, the match, and the name of its element.
    for place in range(0, len(parts), 3):
        parts[place] = _METRIC.sub(r"\1<sup>\2</sup>", parts[place])
    return "".join(part for place, part in enumerate(parts) if place % 3 != 2)
