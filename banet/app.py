"""`banet app`: a page that segments pictures and shows what the occlusion rules make of them.

A picture comes inside a request and its results go back inside the answer, so no file is written, served or named by
either. Gradio has many routes that do these things; `Gate` lets a visitor reach only those that the page needs.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ctypes
import html
import io
import itertools
import json
import logging
import re
import socket
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:
    from banet.errors import MissingExtraError

    raise MissingExtraError("gradio", "app") from None

import numpy as np
from PIL import Image

from banet.data.images import decode_image
from banet.data.scenes.generate import SCENE_CATEGORIES, make_scene
from banet.engine.device import pick_device
from banet.errors import InputError, InputWarning
from banet.inference.banet import BANet
from banet.inference.postprocess import UnfusedPrediction
from banet.modeling.config import RuleName
from banet.panoptic import PanopticSegmentation
from banet.panoptic.drawing.diff import differing_pixels, draw_diff
from banet.panoptic.id_maps import ids_to_rgb, runs
from banet.panoptic.sample_depth import SampleDepth

__all__ = ["Gate", "Limits", "Page", "serve", "web_app"]

RULE, RULE_INFO = "Occlusion rule", "Who owns a pixel that several masks claim; `appearance` is the paper's."
OTHER, OTHER_INFO = "Compared with", "`heuristic` is fusion without occlusion handling: the higher score is in front."
EXAMPLES = (0, 2, 4, 7)
EXAMPLES_SEED, EXAMPLES_SIZE = 3, (480, 640)  # the demo's scenes, wider: no training has seen them

HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

T = TypeVar("T")
Answer: TypeAlias = "tuple[Visit, dict[str, Any], str, str]"
"""The visit after a question, what the page shows, and its two rules, since those on the page may be of a lost visit or
an older answer."""


@dataclass(frozen=True)
class Limits:
    """What visitors may ask for.

    Attributes:
        file_bytes: largest file.
        pixels: most pixels of a picture, read in its header before it is decoded.
        side: longest side that a picture is worked on at; a larger one is reduced to it.
        waiting: requests that wait their turn; further ones are refused.
        visitors: those whose last picture is held, so that other rules can be tried on it.
        seconds: how long it is held after it was last used.
    """

    file_bytes: int = 16 * 2**20
    pixels: int = 40_000_000
    side: int = 1280
    waiting: int = 8
    visitors: int = 8
    seconds: int = 1800


@dataclass(frozen=True)
class Visit:
    """What the server knows of a visitor: two rules and, once there is one, the unfused results of an image.

    Attributes:
        rule: the rule chosen.
        other: the one that it is compared with.
        name: the picture's file name.
        size: its width and height as it came.
        note: what was guessed or left out as it was read.
        unfused: all that fusion needs of it.
    """

    rule: str
    other: str = "heuristic"
    name: str = ""
    size: tuple[int, int] = (0, 0)
    note: str = ""
    unfused: UnfusedPrediction | None = None


class Page:
    """Answers what the page asks.

    Args:
        model: Any weights; examples are offered where these know the classes of procedural scenes.
        limits: What visitors may ask for.
    """

    def __init__(self, model: BANet, limits: Limits | None = None) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.numbers = itertools.count()  # of answers: the page overlooks one that is equal to the last
        knows_scenes = model.categories.to_coco() == SCENE_CATEGORIES.to_coco()
        self.examples = [
            Image.fromarray(make_scene(EXAMPLES_SEED, index, EXAMPLES_SIZE).image)
            for index in (EXAMPLES if knows_scenes else ())
        ]

    # Answers take what they need from the event, never from a component: Gradio would look for paths and addresses of
    # files in a component's value, and read them.

    def upload(self, visit: Visit, event: gr.EventData) -> Answer:
        """Segment a picture that was dropped."""
        name = PurePath(_field(event, "name", str)).name[:100].encode(errors="replace").decode() or "picture"
        content = _field(event, "content", str)
        try:
            if len(content) > self.limits.file_bytes * 4 // 3 + 4:
                raise InputError(f"{name}: is larger than {_megabytes(self.limits.file_bytes)}; make it smaller")
            try:
                data = base64.b64decode(content, validate=True)
            except binascii.Error:
                raise InputError(f"{name}: did not arrive whole; drop it again") from None
            depth = replace(SampleDepth.of(self.model.inference.bit_depth), warns=True)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", InputWarning)
                picture = decode_image(data, name, max_pixels=self.limits.pixels, bit_depth=depth)
        except InputError as error:
            return self._answer(visit, {"fault": str(error)})
        note = "; ".join(str(one.message) for one in told if issubclass(one.category, InputWarning))
        return self._segment(replace(visit, note=note), name, picture)

    def example(self, visit: Visit, event: gr.EventData) -> Answer:
        """Segment one of the examples."""
        index = _field(event, "index", int)
        if not 0 <= index < len(self.examples):
            raise _foreign()
        return self._segment(replace(visit, note=""), f"scene_{index + 1}.png", self.examples[index].copy())

    def choose_rule(self, visit: Visit, event: gr.EventData) -> Answer:
        """Fuse again by another rule; the network does not run."""
        return self._fuse(replace(visit, rule=_rule(event)))

    def choose_other(self, visit: Visit, event: gr.EventData) -> Answer:
        """Compare with another rule; the network does not run."""
        return self._fuse(replace(visit, other=_rule(event)))

    def _segment(self, visit: Visit, name: str, picture: Image.Image) -> Answer:
        size = picture.size
        picture.thumbnail((self.limits.side, self.limits.side))
        (unfused,) = self.model.predict_unfused([np.array(picture)])
        return self._fuse(replace(visit, name=name, size=size, unfused=unfused))

    def _fuse(self, visit: Visit) -> Answer:
        return self._answer(visit, {"fault": ""} if visit.unfused is None else self.compare(visit, visit.unfused))

    def _answer(self, visit: Visit, shown: dict[str, Any]) -> Answer:
        return visit, {**shown, "number": next(self.numbers)}, visit.rule, visit.other

    def compare(self, visit: Visit, unfused: UnfusedPrediction) -> dict[str, Any]:
        """Return what the page shows of a picture.

        Returns:
            `name`; `note`, see `Visit`; `size`, width and height; `original`, the same before the picture was reduced;
            `picture`, a JPEG; `results` of the two rules, see `_describe`; and `changes` between them: `image`, a JPEG,
            and `pixels`.
        """
        rules = (visit.rule, visit.other)
        results = [unfused.fuse(self.model.categories, self.model.inference, rule=rule) for rule in rules]
        differ = differing_pixels(*results)
        height, width = differ.shape
        return {
            "name": visit.name,
            "note": visit.note,
            "size": [width, height],
            "original": list(visit.size),
            "picture": _jpeg(Image.fromarray(unfused.image)),
            "results": [_describe(*pair, visit.name) for pair in zip(results, rules, strict=True)],
            "changes": {"image": _jpeg(draw_diff(differ, unfused.image)), "pixels": int(differ.sum())},
        }

    def build(self) -> gr.Blocks:
        """Return the page itself."""
        here, limits = Path(__file__), self.limits
        script = here.with_suffix(".js").read_text(encoding="utf-8")
        first = Visit(self.model.inference.rule)
        rules = list(get_args(RuleName))
        # One answer at a time, in the order of the questions: a rule that is chosen meanwhile is for the new picture.
        # Not trigger_mode="always_last", which may ask the first question again in place of the last.
        listening: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "multiple", "concurrency_id": "page"}
        blocks = gr.Blocks(title="BANet", analytics_enabled=False, fill_width=True)
        with blocks:
            visit = gr.State(first, time_to_live=limits.seconds)
            with gr.Row(elem_classes="banet-head"):
                with gr.Column():
                    drop = gr.HTML(
                        self._drop_zone(),
                        js_on_load=f"{script}\naskInOrder();\ntakePictures(element, trigger);",
                        apply_default_css=False,
                    )
                with gr.Column():
                    rule = gr.Radio(rules, value=first.rule, label=RULE, info=RULE_INFO, interactive=True)
                    other = gr.Radio(rules, value=first.other, label=OTHER, info=OTHER_INFO, interactive=True)
            view = gr.HTML(
                html_template='<div class="banet-view"></div>',
                js_on_load=f"{script}\nshowResults(element, props, watch);",
                apply_default_css=False,
            )
            answer = [visit, view, rule, other]
            drop.picture(self.upload, visit, answer, show_progress_on=drop, **listening)
            drop.example(self.example, visit, answer, show_progress_on=drop, **listening)
            rule.select(self.choose_rule, visit, answer, show_progress="minimal", **listening)
            other.select(self.choose_other, visit, answer, show_progress="minimal", **listening)
        blocks.queue(max_size=limits.waiting, default_concurrency_limit=1)
        blocks.state_session_capacity = limits.visitors
        with suppress(AttributeError):  # a part that Gradio may rename
            # Answers that nobody fetches; Gradio would keep those of 2000 visitors.
            blocks._queue.pending_messages_per_session.max_size = 8 * limits.visitors
        return blocks

    def _drop_zone(self) -> str:
        limits = self.limits
        classes = "".join(
            f"<p><b>{kind}</b> {html.escape(', '.join(c.name for c in self.model.categories if c.isthing == isthing))}"
            for kind, isthing in (("Things", True), ("Stuff", False))
        )
        examples = "".join(
            f'<button type="button" data-example="{index}" title="A procedural scene">'
            f'<img src="{_jpeg(_thumbnail(picture))}" alt="Scene {index + 1}"></button>'
            for index, picture in enumerate(self.examples)
        )
        most = f"{_megabytes(limits.file_bytes)} and {limits.pixels // 1_000_000} million pixels"
        return f"""
<h1>BANet</h1>
<p>Panoptic segmentation: each pixel gets a class, each countable thing a mask of its own.</p>
<label class="banet-drop" data-limit="{limits.file_bytes}">
  <input type="file" accept="image/*">
  <b>Drop a picture here, paste one, or click to choose</b>
  <small>Up to {most}. It is kept in memory only, for {limits.seconds // 60} minutes at most.</small>
</label>
<p class="banet-fault" role="alert"></p>
<div class="banet-examples">{examples}</div>
<details><summary>What these weights know</summary>{classes}</details>
"""


def _field(event: gr.EventData, name: str, kind: type[T]) -> T:
    data = event._data
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise _foreign()
    return value


def _rule(event: gr.EventData) -> str:
    rule = _field(event, "value", str)
    if rule not in get_args(RuleName):
        raise _foreign()
    return rule


def _foreign() -> gr.Error:
    return gr.Error("This page never asks for that; reload it.", print_exception=False)


def _describe(result: PanopticSegmentation, rule: str, name: str) -> dict[str, Any]:
    """Return what the page shows of one result.

    Returns:
        `title`; `image`, a JPEG; `names`, a text for each segment id; `lengths` and `ids` of the runs of the id map in
        reading order; `stem`, a name for files; `png` and `json`, these files.
    """
    stem = re.sub(r"[^\w.-]+", "_", f"{PurePath(name).stem}_{rule}")
    starts, lengths = runs(result.ids)
    names = ["void"] * (len(result.segments) + 1)
    for segment in result.segments:
        score = "" if segment.score is None else f" {100 * segment.score:.0f} %"
        names[segment.id] = f"{result.categories.by_id(segment.category_id).name}{score}, {segment.area} pixels"
    buffer = io.BytesIO()
    Image.fromarray(ids_to_rgb(result.ids)).save(buffer, "PNG")
    content = {
        "images": [{"id": 1, "file_name": name, "width": result.width, "height": result.height}],
        "annotations": [result.to_coco(1, f"{stem}.png")],
        "categories": result.categories.to_coco(),
    }
    return {
        "title": rule,
        "image": _jpeg(result.draw()),
        "names": names,
        "lengths": lengths.tolist(),
        "ids": result.ids.reshape(-1)[starts].tolist(),
        "stem": stem,
        "png": _data_url("image/png", buffer.getvalue()),
        "json": _data_url("application/json", json.dumps(content).encode()),
    }


def _thumbnail(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((240, 240))
    return small


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return _data_url("image/jpeg", buffer.getvalue())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


class Gate:
    """Lets the requests of the page through to Gradio and no others.

    Refused are: other routes than the page uses (those that store, serve and fetch files among them), bodies above the
    limit or of unknown length, other hosts' names in the address, and requests that another site's page makes. Answers
    forbid the browser to load anything from elsewhere.

    Args:
        app: Gradio.
        hosts: Names under which the page may be addressed; None for any.
        body_bytes: Largest body of a request.
        bodies: Bodies that are read at the same time; further ones wait on the wire, and take no memory.
        seconds: How long reading one may take.
    """

    GET = re.compile(
        r"/|/(theme\.css|manifest\.json|favicon\.ico)|/gradio_api/(queue/data|heartbeat/\w+)|/(assets|static)(/[\w.-]+)+"
    )
    POST = re.compile(r"/gradio_api/queue/join")

    def __init__(
        self, app: ASGIApp, *, hosts: frozenset[str] | None, body_bytes: int, bodies: int = 2, seconds: float = 60
    ) -> None:
        self.app, self.hosts, self.body_bytes, self.seconds = app, hosts, body_bytes, seconds
        self.bodies = asyncio.Semaphore(bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(scope["method"], scope["path"], Headers(scope=scope))
        if refusal is not None:
            status, reason = refusal
            await JSONResponse({"detail": reason}, status)(scope, receive, guarded)
        elif scope["method"] == "POST":
            async with self.bodies:
                try:
                    await asyncio.wait_for(self.app(scope, receive, guarded), self.seconds)
                except asyncio.TimeoutError:
                    await JSONResponse({"detail": "The request came too slowly."}, 408)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason for which a request is refused, if it is."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        try:
            if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
                return 403, "This page goes by another name."
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, "Another site may not use this page."
        except ValueError:
            return 400, "The request names no host."
        routes = {"GET": self.GET, "HEAD": self.GET, "POST": self.POST}.get(method)
        if routes is None or not routes.fullmatch(path) or ".." in path:
            return 404, "There is no such page."
        if method == "POST":
            length = headers.get("content-length", "")
            if not re.fullmatch("[0-9]{1,15}", length):
                return 411, "The length of the request is missing."
            if int(length) > self.body_bytes:
                return 413, f"The request is larger than {_megabytes(self.body_bytes)}."
        return None


def web_app(page: Page, host: str) -> ASGIApp:
    """Return the page as an ASGI application.

    Args:
        page: What answers.
        host: Address that the server listens on. On a loopback address only its names are served, since another
            site's name can be made to point here.
    """
    gradio = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page.build(),
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=Path(__file__).with_suffix(".css"),
    )
    body_bytes = page.limits.file_bytes * 4 // 3 + 2**16
    return Gate(gradio, hosts=LOOPBACK if host in LOOPBACK else None, body_bytes=body_bytes)


def serve(weights: str = "scenes", *, host: str = "127.0.0.1", port: int = 7860, device: str = "auto") -> None:
    """Serve the page until it is interrupted.

    Args:
        weights: See `BANet.from_pretrained`.
        host: Address to listen on; any but a loopback address lets other machines in.
        port: Where; 0 takes a free one.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        InputError: The weights cannot be read, or nothing can listen there.
    """
    _share_one_arena()
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error}); choose others") from None
    with listener:
        app = web_app(Page(BANet.from_pretrained(weights, device=pick_device(device))), host)
        # A page that is open somewhere never hangs up by itself, and need not be spoken of.
        logging.getLogger("uvicorn.error").addFilter(lambda record: "graceful shutdown" not in record.getMessage())
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        if host not in LOOPBACK:
            print("everyone who reaches this machine can use the page")
        shown = f"[{host}]" if ":" in host else host
        print(f"{weights} on http://{shown}:{listener.getsockname()[1]} (Ctrl+C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _share_one_arena() -> None:
    """Let all threads allocate from one heap, where glibc is there to be told.

    By default each thread has its own, and what pictures leave free in one serves no other: memory doubles in time.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX
