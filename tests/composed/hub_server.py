"""A server on this machine that speaks the hub's protocol: enough of it to list and download repositories."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "a" * 40


@dataclass
class Hub:
    """What the server has, and how it behaves.

    Attributes:
        repositories: Folder of each repository.
        gated: Repositories that only the token may read.
        token: Who holds it may read these.
        breaks: Bytes of a file after which the connection breaks, by name.
        licence: That the cards say.
        requests: Method and path of each request.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    breaks: dict[str, int] = field(default_factory=dict)
    licence: str = "apache-2.0"
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path))
        api = re.match(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/?]+))?", self.path)
        file = re.match(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path)
        name = (api or file)[1] if (api or file) else ""
        if name not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound", "Repository not found")
        if name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(401, "GatedRepo", "Access to this model is restricted")
        revision = (api[3] if api else file[2]) or "main"  # type: ignore[index]
        if revision not in ("main", "v1", COMMIT):
            return self._refuse(404, "RevisionNotFound", "Revision not found")
        folder = self.hub.repositories[name]
        if api:
            return self._send_json(self._listing(folder, name, api[2]))
        return self._send_file(folder / file[3])  # type: ignore[index]

    def _listing(self, folder: Path, name: str, kind: str | None) -> object:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if kind == "tree":
            return [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)} for p in files]
        siblings = [{"rfilename": p.name, "size": p.stat().st_size, "blobId": _etag(p)} for p in files]
        return {
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "tags": [],
            "downloads": 0,
            "cardData": {"license": self.hub.licence},
        }

    def _send_json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data = path.read_bytes()
        start = 0
        ranged = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if ranged:
            start = int(ranged[1])
        self.send_response(206 if ranged else 200)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        most = self.hub.breaks.get(path.name)
        if most is not None and start + len(data[start:]) > most:
            self.wfile.write(data[start:most])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _refuse(self, status: int, code: str, message: str) -> None:
        data = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
