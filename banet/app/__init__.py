"""`banet app`: a page in the browser that segments images and compares occlusion rules.

    server.py      routes, and the server itself
    gate.py        which requests are let in, and how their bodies are received
    answers.py     bytes of an image in, what the page shows of it out
    weights.py     what the page says about the weights, and samples that fit them
    static/        the page: HTML, style and scripts, without a build step

No request is parsed but for its headers: its body is an image file, and nothing else is sent. The server keeps nothing
of it. An answer holds the results of all rules, so the page changes rules, thresholds and views by itself.
"""

from banet.app.answers import Limits
from banet.app.server import serve

__all__ = ["Limits", "serve"]
