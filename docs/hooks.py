"""What Markdown leaves to do when the site is built: indices of metrics set high, no empty headers of tables."""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"(<(pre|code|script|style)\b.*?</\2>)", re.S)
_METRIC = re.compile(r"\b(PQ|SQ|RQ|AP|mIoU)\^(Th|St)\b")
_EMPTY_HEAD = re.compile(r"<thead>(?:\s|</?tr>|<th[^>]*>\s*</th>)*</thead>")


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with PQ^Th typeset outside of code, and tables without a header that says nothing."""
    parts = _CODE.split(_EMPTY_HEAD.sub("", html))
    # Of each match `split` gives the text before it, the match, and the name of its element.
    for place in range(0, len(parts), 3):
        parts[place] = _METRIC.sub(r"\1<sup>\2</sup>", parts[place])
    return "".join(part for place, part in enumerate(parts) if place % 3 != 2)
