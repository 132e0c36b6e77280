"""The server of `banet app`: routes, one image at a time through the network, and where it listens."""

from __future__ import annotations

import asyncio
import ctypes
import io
import logging
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import PurePath
from typing import TypeVar

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ImportError:
    from banet.errors import MissingExtraError

    raise MissingExtraError("starlette and uvicorn", "app") from None

from PIL import Image

from banet.app.answers import Limits, Segmenter
from banet.app.clips import TrackedClip
from banet.app.gate import LOOPBACK, Busy, Connection, Gate, Receiver
from banet.app.weights import Samples, describe
from banet.engine.models import open_model
from banet.errors import InputError, MissingExtraError
from banet.inference.predictor import Predictor

__all__ = ["Page", "serve", "web_app"]

T = TypeVar("T")

STATIC = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
THUMBNAIL = (256, 256)


class Page:
    """Answers the requests of the page. Nothing of a visitor is kept.

    Args:
        model: Any network with `predict_unfused`.
        weights: What it was loaded from.
        limits: What visitors may ask for.
    """

    def __init__(self, model: Predictor, weights: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.segmenter = Segmenter(model, self.limits)
        self.samples = Samples(model.categories)
        self.facts = describe(weights, model, self.samples, self.limits)
        self._receiver = Receiver(self.limits)
        self._network = asyncio.Lock()
        self._waiting = 0
        self._tracking = False
        self._sample_answers: dict[int, bytes] = {}

    def routes(self) -> list[Route]:
        """Return the routes; ARCHITECTURE and docs/how_to/app.md list them."""
        return [
            Route("/api/page", self.page),
            Route("/api/samples/{number}.jpg", self.thumbnail),
            Route("/api/samples/{number}", self.sample),
            Route("/api/segment", self.segment, methods=["POST"]),
            Route("/api/track", self.track, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """Answer what the page knows before any image is segmented."""
        return JSONResponse(self.facts)

    async def segment(self, request: Request) -> Response:
        """Segment the image file that the body of the request is; `?name=` is what to call it."""
        data, name = await self._file(request, "image")
        try:
            return _json(await self._in_turn(request, lambda: self.segmenter(data, name)))
        except (InputError, MissingExtraError) as error:
            raise HTTPException(400, str(error)) from None

    async def track(self, request: Request) -> Response:
        """Track the objects of the video file that the body is, and answer with it drawn; one video at a time."""
        data, name = await self._file(request, "video")
        if self._tracking:
            raise Busy
        self._tracking = True
        try:
            clip = await self._in_turn(request, lambda: self.segmenter.decode_video(data, name))
            tracked = TrackedClip(self.segmenter.model, clip)
            while await self._in_turn(request, tracked.step):
                pass
            return _json(await run_in_threadpool(tracked.finish))
        except (InputError, MissingExtraError) as error:
            raise HTTPException(400, str(error)) from None
        finally:
            self._tracking = False

    async def _file(self, request: Request, what: str) -> tuple[bytes, str]:
        """Return the body of a request, an image or a video, and what to call it."""
        kind = request.headers.get("content-type", "")
        if kind != "application/octet-stream" and not kind.startswith(f"{what}/"):
            article = "an" if what == "image" else "a"
            message = f"Send {article} {what} file as the body, with the type application/octet-stream."
            raise HTTPException(415, message)
        name = PurePath(request.query_params.get("name", what)).name[:100] or what
        return await self._receiver.receive(request, busy=self._waiting >= self.limits.waiting), name

    async def sample(self, request: Request) -> Response:
        """Segment a sample, or answer with what was found the last time."""
        number = self._number(request)
        if number not in self._sample_answers:
            self._sample_answers[number] = await self._in_turn(request, lambda: self._segment_sample(number))
        return _json(self._sample_answers[number])

    async def thumbnail(self, request: Request) -> Response:
        """Answer with a small image of a sample."""
        number = self._number(request)
        return Response(await run_in_threadpool(self._draw_thumbnail, number), media_type="image/jpeg")

    def _number(self, request: Request) -> int:
        text = str(request.path_params["number"])
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= len(self.samples):
            raise HTTPException(404, "There is no such sample.")
        return int(text)

    def _segment_sample(self, number: int) -> bytes:
        sample = self.samples[number]
        return self.segmenter.answer(Image.fromarray(sample.image), ground_truth=sample.ground_truth)

    def _draw_thumbnail(self, number: int) -> bytes:
        image = Image.fromarray(self.samples[number].image)
        image.thumbnail(THUMBNAIL)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    async def _in_turn(self, request: Request, work: Callable[[], T]) -> T:
        """Return what `work` returns once the network is free for it.

        Raises:
            Busy: So many are waiting already.
            ClientDisconnect: Nobody waits for the answer any more.
        """
        if self._waiting >= self.limits.waiting:
            raise Busy
        self._waiting += 1
        try:
            await self._network.acquire()
        finally:
            self._waiting -= 1
        try:
            if await request.is_disconnected():
                raise ClientDisconnect
            return await run_in_threadpool(work)
        finally:
            self._network.release()


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _static_routes() -> list[Route]:
    """Return a route per file of the page; all are read once, so no request names a file."""

    def answer(content: bytes, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response(content, media_type=kind)

    routes = []
    shared = resources.files("banet.engine.report") / "segments.js"
    for file in (shared, *(resources.files("banet.app") / "static").iterdir()):
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        routes.append(Route(path, answer(file.read_bytes(), STATIC[PurePath(file.name).suffix])))
    return routes


async def _refuse(request: Request, error: Exception) -> Response:
    """Return an error as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "This image could not be segmented."
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse({"detail": detail}, status, headers)


async def _say_nothing(request: Request, error: Exception) -> Response:
    """Answer a request that was given up; nobody reads it."""
    return Response(status_code=499)


def web_app(page: Page, host: str) -> ASGIApp:
    """Return the page as an ASGI application.

    Args:
        page: What answers.
        host: Address that the server listens on. On a loopback address only its names are served, since another
            site's name can be made to point here.
    """
    app = Starlette(
        routes=[*_static_routes(), *page.routes()],
        exception_handlers={HTTPException: _refuse, ClientDisconnect: _say_nothing, Exception: _refuse},
    )
    return Gate(app, hosts=LOOPBACK if host in LOOPBACK else None)


def serve(
    weights: str = "scenes",
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    class_table: str | None = None,
    trust: bool = False,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        weights: See `banet.load`.
        host: Address to listen on; any but a loopback address lets other machines in.
        port: Where; 0 takes a free one.
        device: `auto`, `cpu`, `cuda` or `mps`.
        class_table: See `banet.load`.
        trust: See `banet.load`.

    Raises:
        InputError: The weights cannot be read, or nothing can listen there.
    """
    _share_one_arena()
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error}); choose others") from None
    with listener:
        model, _ = open_model(weights, device=device, class_table=class_table, trust=trust)
        page = Page(model, weights)
        app = web_app(page, host)
        logging.getLogger("uvicorn.error").addFilter(lambda record: "graceful shutdown" not in record.getMessage())
        config = uvicorn.Config(app, http=Connection, ws="none", log_level="warning", timeout_graceful_shutdown=1)
        if host not in LOOPBACK:
            print("everyone who reaches this machine can use the page")
        shown = f"[{host}]" if ":" in host else host
        print(f"{weights} on http://{shown}:{listener.getsockname()[1]} (Ctrl+C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
        page.segmenter.workers.close()


def _share_one_arena() -> None:
    """Let all threads allocate from one heap, where glibc is there to be told.

    By default each thread has its own, and what images leave free in one serves no other: memory doubles in time.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX
