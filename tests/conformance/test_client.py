"""The conformance client against a plain HTTP server: what outside suites ask of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.firmware_publisher import FirmwarePublisher

CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "client")
#: Names of tests in a suite look like this, percent-encoded once; boto3 would encode them again.
PREFIX = "/test%5Ba%20b%25%5D"
IMAGE = b"image" * 20_000
TARGET = "stable/cam/image"


@dataclass
class Site:
    """A server of exactly these paths."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            data = site.files.get(self.path)
            if data is None:
                self.send_error(404, "not here")
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}{PREFIX}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def publisher(site: Site) -> FirmwarePublisher:
    def put(key: str, data: bytes) -> None:
        site.files[f"{PREFIX}/{key}"] = data

    return FirmwarePublisher(put, path="", now=datetime.now(UTC).replace(microsecond=0))


class Client:
    """Runs the executable as a suite does."""

    def __init__(self, top: Path, site: Site) -> None:
        self.metadata_dir = top / "metadata"
        self.target_dir = top / "targets"
        self.metadata_dir.mkdir()
        self.target_dir.mkdir()
        self._top = top
        self._site = site

    def run(self, *arguments: str) -> int:
        command = [CLIENT, "--metadata-dir", str(self.metadata_dir), *arguments]
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    def init(self, root: bytes) -> int:
        path = self._top / "initial root.json"
        path.write_bytes(root)
        return self.run("init", str(path))

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self._site.url}/metadata/", "refresh")

    def download(self, *names: str) -> int:
        targets = [word for name in names for word in ("--target-name", name)]
        places = ["--target-dir", str(self.target_dir), "--target-base-url", f"{self._site.url}/targets/"]
        return self.run("--metadata-url", f"{self._site.url}/metadata/", *targets, *places, "download")

    @property
    def roles(self) -> list[str]:
        return sorted(name for name in os.listdir(self.metadata_dir) if name.endswith(".json"))

    @property
    def targets(self) -> list[bytes]:
        return [path.read_bytes() for path in self.target_dir.iterdir()]


@pytest.fixture
def client(tmp_path: Path, site: Site) -> Client:
    return Client(tmp_path, site)


def test_init_asks_nobody_and_leaves_the_root_under_its_plain_name(
    client: Client, site: Site, publisher: FirmwarePublisher
) -> None:
    assert client.init(publisher.trusted_root) == 0
    assert client.roles == ["root.json"] and site.asked == []
    assert (client.metadata_dir / "root.json").read_bytes() == publisher.trusted_root


def test_refresh_asks_for_exactly_these_urls(client: Client, site: Site, publisher: FirmwarePublisher) -> None:
    client.init(publisher.trusted_root)
    assert client.refresh() == 0
    names = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert site.asked == [f"{PREFIX}/metadata/{name}" for name in names]
    assert client.roles == ["root.json", "snapshot.json", "targets.json", "timestamp.json"]


def test_a_valid_target_is_downloaded_once(client: Client, site: Site, publisher: FirmwarePublisher) -> None:
    publisher.publish(IMAGE)
    publisher.publish(b"other", component="pump")
    client.init(publisher.trusted_root)
    assert client.download(TARGET, "stable/pump/image") == 0
    assert sorted(client.targets) == sorted([IMAGE, b"other"])
    before = len(site.asked)
    assert client.download(TARGET) == 0
    assert not [path for path in site.asked[before:] if "/targets/" in path]
    assert client.download("stable/nobody/image") == 1


def test_a_changed_target_is_not_kept(client: Client, site: Site, publisher: FirmwarePublisher) -> None:
    publisher.publish(IMAGE)
    client.init(publisher.trusted_root)
    publisher.put(publisher.image_key(IMAGE), b"malicious" * 11_112)
    assert client.download(TARGET) == 1 and client.targets == []


def test_what_does_not_verify_exits_1(client: Client, site: Site, publisher: FirmwarePublisher) -> None:
    client.init(publisher.trusted_root)
    assert client.refresh() == 0
    old = publisher.state()
    publisher.publish(IMAGE)
    assert client.refresh() == 0
    publisher.replay(old)
    assert client.refresh() == 1
    shutil.rmtree(client.metadata_dir / "staging", ignore_errors=True)
    for name in client.roles:
        if name != "root.json":
            (client.metadata_dir / name).write_bytes(b"")
    assert client.refresh() == 1  # the marks remember
    publisher.timestamp.version = publisher.snapshot.version = 50
    publisher.timestamp.expires = publisher.now - timedelta(days=1)
    publisher.bump()
    assert client.refresh() == 1
    assert client.init(b"{}") == 1


def test_rotated_roots_are_followed_to_the_newest(client: Client, site: Site, publisher: FirmwarePublisher) -> None:
    client.init(publisher.trusted_root)
    publisher.rotate("root", "timestamp")
    publisher.rotate("snapshot")
    assert client.refresh() == 0
    assert (client.metadata_dir / "root.json").read_bytes() == publisher.files["metadata/3.root.json"]
