"""Which requests are let in, what answers forbid the browser, and how bodies are received."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from banet.app.answers import Limits

__all__ = ["LOOPBACK", "Busy", "Connection", "Gate", "Receiver"]

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Connection": "close",  # so that a connection carries one request, and `Connection` can limit its time
}
GRACE = 5.0  # seconds in which no rate is asked of a body
YOUNG = 1.0  # seconds in which a body is not displaced


class Gate:
    """ASGI middleware that refuses requests under another host's name and those that other sites' pages make.

    Every answer gets `HEADERS`, which forbid the browser to load anything from elsewhere and to run inline scripts.

    Args:
        app: What answers the rest.
        hosts: Names under which the page may be addressed; None for any.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(scope["method"], Headers(scope=scope))
        answer = self.app if refusal is None else JSONResponse({"detail": refusal[1]}, refusal[0])
        await answer(scope, receive, guarded)

    def refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Return status and reason for which a request is refused, if it is."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        try:
            if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
                return 403, "This page goes by another name."
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, "Another site may not use this page."
        except ValueError:
            return 400, "The request names no host."
        if method == "POST" and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Another site may not use this page."
        return None


@dataclass(eq=False)
class _Arrival:
    """A body that is being received.

    Attributes:
        started: When, on the clock of the event loop.
        displaced: Done once another body takes its place.
        received: Bytes so far.
    """

    started: float
    displaced: asyncio.Future[None]
    received: int = 0


class Busy(HTTPException):
    """So many images wait already that a further one is refused."""

    def __init__(self) -> None:
        super().__init__(503, "Too many images are waiting; try again in a few seconds.", {"Retry-After": "5"})


class Receiver:
    """Receives bodies, a few at the same time, and gives up those that come too slowly.

    Args:
        limits: Of these `file_bytes`, `receiving`, `seconds` and `bytes_per_second`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._arrivals: set[_Arrival] = set()

    async def receive(self, request: Request, *, busy: bool) -> bytes:
        """Return the body of a request.

        Args:
            request: Not yet read.
            busy: Whether it is refused anyway. Its body is then read all the same, as a browser shows an answer only
                after it has sent the request, but takes no memory.

        Raises:
            Busy: It is, or all places are taken by bodies that come fast enough.
            HTTPException: 411 without a length, 413 above the limit, 408 where it comes too slowly.
            ClientDisconnect: Nobody waits for an answer.
        """
        length = request.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            raise HTTPException(411, "The length of the request is missing.")
        if int(length) > self.limits.file_bytes:
            limit = f"{self.limits.file_bytes / 2**20:.0f} MB"
            raise HTTPException(413, f"The file is larger than {limit}; make it smaller.")
        loop = asyncio.get_running_loop()
        arrival = _Arrival(loop.time(), loop.create_future())
        keep = not busy and self._admit(arrival)
        body = bytearray()
        try:
            more = True
            while more:
                message = await self._next(request, arrival)
                chunk = message.get("body", b"")
                arrival.received += len(chunk)
                body += chunk if keep else b""
                more = message.get("more_body", False)
        finally:
            self._arrivals.discard(arrival)
        if not keep:
            raise Busy
        return bytes(body)

    def _admit(self, arrival: _Arrival) -> bool:
        """Give a body a place, if need be that of the slowest one; return whether there was one."""
        if len(self._arrivals) >= self.limits.receiving:
            old = [one for one in self._arrivals if arrival.started - one.started > YOUNG]
            if not old:
                return False
            slowest = min(old, key=lambda one: one.received / (arrival.started - one.started))
            slowest.displaced.set_result(None)
            self._arrivals.discard(slowest)
        self._arrivals.add(arrival)
        return True

    async def _next(self, request: Request, arrival: _Arrival) -> Message:
        allowed = min(self.limits.seconds, GRACE + arrival.received / self.limits.bytes_per_second)
        left = arrival.started + allowed - asyncio.get_running_loop().time()
        receiving: asyncio.Future[Message] = asyncio.ensure_future(request.receive())
        awaited: set[asyncio.Future[Any]] = {receiving, arrival.displaced}
        try:
            await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                raise HTTPException(408, "The file arrived too slowly.")
        finally:
            receiving.cancel()
        message = receiving.result()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message


class Connection(H11Protocol):
    """A connection that has to send its request soon, and that ends in any case.

    Attributes:
        HEAD_SECONDS: In which the head of the request must have arrived.
        SECONDS: After which the connection ends, whatever it does.
    """

    HEAD_SECONDS, SECONDS = 10, 300

    def connection_made(self, transport: Any) -> None:
        """Start the two clocks."""
        super().connection_made(transport)
        self._clocks = (
            self.loop.call_later(self.HEAD_SECONDS, self._end_without_head),
            self.loop.call_later(self.SECONDS, transport.abort),
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop them."""
        for clock in self._clocks:
            clock.cancel()
        super().connection_lost(exc)

    def _end_without_head(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()
