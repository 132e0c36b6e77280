"""Which requests are let in, and what slow and many senders can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from pages import TwoBoxes, encoded

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, None),
        ("GET", {"origin": "http://localhost:7"}, None),
        ("GET", {"host": "[::1]:7"}, None),
        ("GET", {"sec-fetch-site": "cross-site"}, None),  # a link that leads to the page
        ("POST", {}, None),
        ("POST", {"sec-fetch-site": "same-origin"}, None),
        ("POST", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://localhost:8"}, 403),
        ("GET", {"host": "evil.example:7"}, 403),
        ("GET", {"host": ""}, 403),
        ("GET", {"host": "[bad"}, 400),
    ],
)
def test_hosts_and_origins(app, method, headers, status):
    from starlette.datastructures import Headers

    from banet.app.gate import LOOPBACK, Gate

    refusal = Gate(None, hosts=LOOPBACK).refusal(method, Headers({"host": "localhost:7", **headers}))
    assert (refusal and refusal[0]) == status


def test_only_loopback_asks_for_a_name(app):
    from banet.app.server import Page, web_app

    page = Page(TwoBoxes(), "scenes")
    assert web_app(page, "127.0.0.1").hosts == {"127.0.0.1", "::1", "localhost"}
    assert web_app(page, "0.0.0.0").hosts is None


# --------------------------------------------------------------------------------------------------- bodies in memory


async def post(
    asgi: Any, chunks: Iterable[bytes | float], length: str | None = None, kind: str = "application/octet-stream"
) -> tuple[int, Any]:
    """Status and answer to an upload that comes in chunks; numbers are seconds to wait."""
    parts = list(chunks)
    size = str(sum(len(part) for part in parts if isinstance(part, bytes))) if length is None else length
    headers = [(b"host", b"localhost"), (b"content-type", kind.encode()), (b"content-length", size.encode())]
    scope = {
        "type": "http", "method": "POST", "path": "/api/segment", "query_string": b"name=a.png", "headers": headers,
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        while parts and isinstance(parts[0], float):
            await asyncio.sleep(parts.pop(0))
        if not parts:
            return await asyncio.sleep(3600)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asgi(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
def make_page(app, monkeypatch):
    from banet.app import gate
    from banet.app.server import Page, web_app

    monkeypatch.setattr(gate, "GRACE", 0.05)
    monkeypatch.setattr(gate, "YOUNG", 0.02)

    def make(**limits: Any) -> tuple[Any, Any]:
        page = Page(TwoBoxes(), "scenes", app.Limits(**{"file_bytes": 10_000, **limits}))
        return page, web_app(page, "127.0.0.1")

    return make


PNG = encoded(np.zeros((30, 40), np.uint8))


def run(main: Any) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


def test_an_upload_is_answered(make_page):
    _, asgi = make_page()
    status, answer = run(post(asgi, [PNG[:10], 0.01, PNG[10:]]))
    assert (status, answer["size"]) == (200, [40, 30])


@pytest.mark.parametrize(
    ("chunks", "length", "kind", "status", "detail"),
    [
        ([PNG], None, "text/plain", 415, "Send an image file"),
        ([PNG], None, "multipart/form-data; boundary=x", 415, "Send an image file"),
        ([PNG], "", "image/png", 411, "length"),
        ([b""], "10001", "image/png", 413, "larger than"),
        ([b""], "9" * 5000, "image/png", 411, "length"),
        ([b"text"], None, "image/png", 400, "a.png: is not an image"),
        ([b""], None, "image/png", 400, "a.png: is empty"),
    ],
)
def test_bodies_that_are_refused(make_page, chunks, length, kind, status, detail):
    _, asgi = make_page()
    got, answer = run(post(asgi, chunks, length, kind))
    assert got == status
    assert detail in answer["detail"]


def test_a_body_that_stops_is_given_up(make_page):
    _, asgi = make_page(bytes_per_second=1000)
    status, answer = run(post(asgi, [PNG[:20], 30.0]))
    assert (status, answer["detail"]) == (408, "The file arrived too slowly.")


def test_a_body_that_drips_is_given_up(make_page):
    _, asgi = make_page(bytes_per_second=10_000)
    drops = [part for k in range(100) for part in (b"x", 0.01)]
    status, _ = run(post(asgi, drops, "100"))
    assert status == 408


def test_no_body_takes_longer_than_the_limit(make_page):
    _, asgi = make_page(bytes_per_second=1, seconds=0.2)
    status, _ = run(post(asgi, [b"x" * 5000, 30.0]))
    assert status == 408


def test_half_requests_do_not_keep_others_out(make_page):
    """The slowest one gives its place to whoever comes; nobody waits for its time to end."""
    _, asgi = make_page(receiving=4, bytes_per_second=1, seconds=60)

    async def attack() -> Any:
        stuck = [asyncio.create_task(post(asgi, [PNG[:20], 50.0])) for _ in range(4)]
        await asyncio.sleep(0.1)
        answer = await asyncio.wait_for(post(asgi, [PNG]), 5)
        ended = [task.result()[0] for task in stuck if task.done()]
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        return answer[0], ended

    assert run(attack()) == (200, [408])


def test_those_that_wait_are_counted_and_the_rest_is_told(make_page):
    page, asgi = make_page(waiting=3, receiving=50)

    async def crowd() -> list[int]:
        await page._network.acquire()
        tasks = [asyncio.create_task(post(asgi, [PNG])) for _ in range(10)]
        await asyncio.sleep(0.2)
        page._network.release()
        return [(await task)[0] for task in tasks]

    answered = run(crowd())
    assert sorted(answered) == [200] * 3 + [503] * 7
    assert run(post(asgi, [PNG]))[0] == 200  # nothing is left counted


def test_more_bodies_than_places_are_refused_at_once(make_page):
    _, asgi = make_page(receiving=2)

    async def crowd() -> list[int]:
        return [status for status, _ in await asyncio.gather(*(post(asgi, [PNG[:5], 0.01, PNG[5:]]) for _ in range(5)))]

    assert sorted(run(crowd())) == [200, 200, 503, 503, 503]


def test_who_has_gone_is_not_answered(make_page):
    page, asgi = make_page()
    page.segmenter = lambda data, name: pytest.fail("the network ran for nobody")  # type: ignore[assignment]

    async def leave() -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/api/segment", "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"image/png"), (b"content-length", b"5")],
        }  # fmt: skip
        messages = [{"type": "http.request", "body": b"12345", "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0) if len(messages) > 1 else messages[0]

        async def send(message: Any) -> None:
            pass

        await asgi(scope, receive, send)

    run(leave())
