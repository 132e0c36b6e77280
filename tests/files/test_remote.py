"""Files behind URLs: servers that list folders or not, connections that break, systems whose paths lack the host."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from banet.errors import InputError
from banet.files.archives import InputFolder, StoredFile, archive_members
from banet.files.reading import read_json, stream_json
from banet.files.remote import RemoteFolder, has_pattern, list_remote, open_remote, without_query

fsspec = pytest.importorskip("fsspec")


class _Handler(SimpleHTTPRequestHandler):
    lists = True

    def log_message(self, *_: object) -> None:
        pass

    def list_directory(self, path: Any) -> Any:
        return super().list_directory(path) if self.lists else self.send_error(403)

    def do_GET(self) -> None:
        if not self.path.endswith("cut.json"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"images": [1, 2')  # and the connection ends


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of `tmp_path`; its folders are listed unless the parameter says so."""
    pytest.importorskip("aiohttp")
    handler = type("Handler", (_Handler,), {"lists": getattr(request, "param", True)})
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_folders_and_patterns_behind_http(server: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "b c.png", "d.txt"):
        (tmp_path / "in" / name).write_text(name)
    urls = [f"{server}/in/{name}" for name in ("a.png", "b%20c.png", "d.txt")]
    assert sorted(list_remote(f"{server}/in")) == sorted(list_remote(f"{server}/in/")) == urls
    assert sorted(list_remote(f"{server}/in/*.png")) == urls[:2]
    assert sorted(list_remote(f"{server}/in/[ad].*")) == urls[::2]
    assert [open_remote(url).read() for url in urls] == [b"a.png", b"b c.png", b"d.txt"]


class _Machine(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
    """As sftp: the paths in it lack the host; files named `broken` fail once they are read."""

    protocol = "machine"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path

    def _open(self, path: str, *given: Any, **options: Any) -> Any:
        stream = super()._open(path, *given, **options)
        if path.endswith("broken"):
            stream.readinto = _fail
        return stream


def _fail(*_: object) -> None:
    raise ValueError("no ranges\nhere")


@pytest.fixture
def machine() -> Iterator[Any]:
    fsspec.register_implementation("machine", _Machine, clobber=True)
    system = fsspec.filesystem("machine")
    system.store.clear()
    yield system
    system.store.clear()


def test_what_a_folder_holds_keeps_the_host(machine: Any) -> None:
    for path in ("/in/a.png", "/in/b.txt", "/in/sub/c.png"):
        machine.pipe_file(path, path.encode())
    assert sorted(list_remote("machine://one/in")) == ["machine://one/in/a.png", "machine://one/in/b.txt"]
    assert list(list_remote("machine://one/in/?.png")) == ["machine://one/in/a.png"]
    assert list(list_remote("machine://one/in/b.txt")) == ["machine://one/in/b.txt"]


READERS: list[Callable[[str], object]] = [
    read_json,
    lambda url: list(stream_json(url)),
    lambda url: list(archive_members(url, {".png"})),
    lambda url: StoredFile(url, url).open().read(),
]


@pytest.mark.parametrize("read", READERS)
def test_an_error_while_a_file_is_read_names_url_and_cause(machine: Any, read: Callable[[str], object]) -> None:
    machine.pipe_file("/in/broken", b"{}")
    with pytest.raises(InputError) as caught:
        read("machine://one/in/broken")
    told = "machine://one/in/broken: cannot be read (no ranges here); check the URL and its permissions"
    assert str(caught.value) == told


def test_an_error_while_an_output_is_read_is_one_of_the_system(machine: Any) -> None:
    machine.pipe_file("/in/broken", b"{}")
    folder = RemoteFolder("machine://one/in")
    with folder.open("broken") as stream, pytest.raises(OSError, match=r"no ranges here.*machine://one/in/broken"):
        stream.read()
    with pytest.raises(FileNotFoundError):
        folder.open("gone")


def test_a_connection_that_ends_too_early(server: str) -> None:
    with pytest.raises(InputError, match=rf"^{server}/cut\.json: cannot be read \(.*\); check the URL") as caught:
        list(stream_json(f"{server}/cut.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("server", [False], indirect=True)
def test_a_server_that_lists_no_folders(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("a")
    with pytest.raises(InputError, match=r"cannot be read|does not exist"):
        list(list_remote(server))
    folder = InputFolder(server, {".png"})
    found = folder.find("a.png", "file_name")
    assert isinstance(found, StoredFile) and found.open().read() == b"a"
    missing = folder.find("b.png", "file_name")
    assert isinstance(missing, StoredFile)
    with pytest.raises(InputError, match=r"b\.png: does not exist"):
        missing.open()


def test_members_of_archives_are_found_however_the_folder_was_named(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "tars").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "in" / name).write_text(name)
    with tarfile.open(tmp_path / "tars" / "all.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")  # as `tar cf all.tar -C in .`
    folder = InputFolder(tmp_path / "tars", {".png"})
    for asked in ("a.png", "./a.png", "sub/b.png", "sub\\b.png", "sub//./b.png"):
        found = folder.find(asked, "file_name")
        assert isinstance(found, StoredFile), asked
        assert found.open().read() == asked.replace("\\", "/").replace("//./", "/").removeprefix("./").encode()
    with pytest.raises(InputError, match="leads out"):
        folder.find("sub/../../a.png", "file_name")


@pytest.mark.parametrize(
    ("url", "plain", "pattern"),
    [
        ("https://host/a.jpg?X-Amz-Signature=a/b*c[1]", "https://host/a.jpg", False),
        ("https://host/*.jpg?token=1", "https://host/*.jpg", True),
        ("http://[::1]:80/in", "http://[::1]:80/in", False),
        ("s3://bucket/in/a?.jpg", "s3://bucket/in/a?.jpg", True),
        ("s3://bucket/in[1]/a.jpg", "s3://bucket/in[1]/a.jpg", False),
    ],
)
def test_a_signature_is_no_pattern(url: str, plain: str, pattern: bool) -> None:
    assert without_query(url) == plain and has_pattern(url) == pattern
