"""The page of a running agent, as a browser, Prometheus and people with bad intentions ask for it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from syncagent.core.page.assets import NO_PICTURE, POLICY
from tests import pictures
from tests.agent import Agent, sent
from tests.servers import VerifyingS3, free_port, wait_until
from tests.statuses import HOSTILE
from tests.unit.test_metrics import read
from tests.unit.test_page import Reader

Got = tuple[int, dict[str, str], bytes]


class Paged(Agent):
    """An agent with a page on a port of its own."""

    port = 0

    def page_on(self, store: VerifyingS3, host: str = "127.0.0.1", **system: Any) -> None:
        self.port = self.port or free_port()
        web = {"listen": f"{host}:{self.port}", **system.pop("web", {})}
        self.configure(store.endpoint_url, system={"web": web, **system})

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Got:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def is_served(self) -> bool:
        try:
            return self.get("/healthz")[0] in (200, 503)
        except OSError:
            return False

    def start_page(self) -> None:
        self.start()
        wait_until(self.is_served, what="the page")


@pytest.fixture
def agent(tmp_path: Path, verifying: VerifyingS3) -> Iterator[Paged]:
    with Paged(str(tmp_path)) as made:
        made.page_on(verifying)
        yield made


def numbers(agent: Paged) -> list[str]:
    """Of the pictures on the page, the newest first."""
    page = Reader(agent.get("/")[2].decode())
    return [str(link["href"]).split("?")[0].rpartition("/")[2] for link in page.all("a") if "/picture/" in str(link)]


def confirmed(agent: Paged, count: int) -> None:
    wait_until(lambda: agent.count("confirmed") == count, what=f"{count} files arrive")


def test_the_page_the_metrics_and_the_status_say_the_same(agent: Paged, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", pictures.jpeg())
    agent.start_page()
    confirmed(agent, 1)
    wait_until(lambda: json.loads(agent.get("/status.json")[2])["queue"]["confirmed"]["files"] == 1, what="a new look")
    status, headers, body = agent.get("/status.json")
    said = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert said.keys() == agent.status().keys()
    assert {name: fact["state"] for name, fact in said["facts"].items()} == {
        name: fact["state"] for name, fact in agent.status()["facts"].items()
    }
    assert (said["state"], agent.get("/healthz")[0], agent.get("/healthz")[2]) == ("ok", 200, b"ok\n")

    status, headers, body = agent.get("/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = read(body.decode())
    assert samples["syncagent_queue_files", (("state", "confirmed"),)] == 1
    assert samples["syncagent_sent_files_total", ()] == 1
    assert samples["syncagent_wire_sent_bytes_total", ()] > len(pictures.jpeg())

    status, headers, body = agent.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"] == POLICY
    page = Reader(body.decode())
    for words in ("field-7", "ok", "Files get through.", "a.jpg", "confirmed", "watcher"):
        assert words in page.text, words
    assert len(page.all("figure")) == 2
    assert Reader(agent.get("/?span=day")[2].decode()).text.count("The last day") == 1
    assert agent.get("/", method="HEAD")[::2] == (200, b"")
    assert agent.stop() == 0


def test_an_agent_that_is_not_healthy_says_so_with_503_and_why(agent: Paged, verifying: VerifyingS3) -> None:
    agent.configure(
        f"http://127.0.0.1:{free_port()}",
        system={"web": {"listen": f"127.0.0.1:{agent.port}"}, "health": {"max_unsent_s": 1}},
    )
    agent.write("a.jpg", b"a")
    agent.start_page()
    wait_until(lambda: agent.get("/healthz")[0] == 503, what="it is not healthy")
    assert agent.get("/healthz")[2].strip() != b""
    wait_until(lambda: b"link: " in agent.get("/healthz")[2], what="the reason", deadline_s=40)


def test_a_taken_port_is_a_warning_and_is_taken_when_it_is_free(
    agent: Paged, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", agent.port)):
        agent.write("a.jpg", b"a")
        agent.start()
        confirmed(agent, 1)
        wait_until(lambda: agent.status()["state"] == "degraded", what="a warning")
        status = agent.status()
        assert status["healthy"]
        assert f"page: cannot listen on 127.0.0.1:{agent.port}: Address already in use" in status["reason"]
    wait_until(agent.is_served, what="the page", deadline_s=60)
    wait_until(lambda: agent.status()["state"] == "ok", what="no warning is left")
    assert agent.log().count("no page") == 1


def test_without_listen_there_is_no_page_nor_in_a_single_run(tmp_path: Path, verifying: VerifyingS3) -> None:
    with Paged(str(tmp_path)) as agent:
        agent.page_on(verifying, web={"listen": ""})
        agent.start()
        agent.write("a.jpg", b"a")
        confirmed(agent, 1)
        assert "page listen" not in agent.log()
        assert agent.stop() == 0
        agent.page_on(verifying)
        agent.write("b.jpg", b"b")
        assert "page listen" not in agent.run_once().stderr


def test_a_page_for_others_needs_a_password_which_is_never_shown(agent: Paged, verifying: VerifyingS3) -> None:
    agent.page_on(verifying, "0.0.0.0")
    refused = agent.cli("check-config")
    assert refused.returncode == 78
    assert "web.listen" in refused.stderr
    assert agent.cli("run", timeout_s=60).returncode == 78

    password = "pass-word-of-the-page"
    agent.page_on(verifying, "0.0.0.0", web={"password": password})
    agent.start()
    authorization = {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}
    wait_until(lambda: "page listen" in agent.log(), what="the page")
    for path in ("/", "/status.json", "/metrics", "/healthz", "/picture/1", "/icon.svg", "/nothing"):
        status, headers, _ = agent.get(path)
        assert status == 401, path
        assert headers["WWW-Authenticate"].startswith("Basic ")
    for path in ("/", "/status.json", "/metrics", "/healthz"):
        status, _, body = agent.get(path, Host="pi.local:8384", **authorization)
        assert status == 200, path
        assert password.encode() not in body
    shown = agent.cli("check-config")
    assert password not in shown.stdout + shown.stderr + agent.log() + json.dumps(agent.status())
    assert agent.stop() == 0


def test_a_web_site_cannot_reach_the_page_under_its_own_name(agent: Paged) -> None:
    agent.start_page()
    assert agent.get("/status.json", Host="evil.example")[0] == 421
    assert agent.get("/status.json", Host=f"evil.example:{agent.port}")[0] == 421
    for host in (f"127.0.0.1:{agent.port}", f"localhost:{agent.port}", "localhost:9999"):
        assert agent.get("/status.json", Host=host)[0] == 200
    assert agent.get("/", method="POST")[0] == 405


def open_files(agent: Paged) -> list[str]:
    """What the agent has open at the moment."""
    assert agent.process is not None
    fds, found = f"/proc/{agent.process.pid}/fd", []
    for fd in os.listdir(fds):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"{fds}/{fd}"))
    return found


def test_the_newest_pictures_are_shown_small_and_whole(agent: Paged) -> None:
    plain, own = pictures.jpeg(), pictures.drawing((40, 30))
    file = io.BytesIO()
    own.save(file, "PNG")
    agent.start_page()
    for count, (name, content) in enumerate((("a.jpg", plain), ("b.PNG", file.getvalue()), ("c.txt", b"text")), 1):
        agent.write(name, content)
        confirmed(agent, count)
    wait_until(lambda: len(numbers(agent)) == 2, what="two pictures")
    png, jpeg = numbers(agent)

    status, headers, body = agent.get(f"/picture/{jpeg}")
    assert (status, headers["Content-Type"], body) == (200, "image/jpeg", plain)
    assert headers["Content-Security-Policy"] == "default-src 'none'; style-src 'none'; sandbox"
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, headers, body = agent.get(f"/thumbnail/{jpeg}")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert len(body) < len(plain) / 10, "the camera's own"
    assert body.endswith(pictures.THUMBNAIL[2:])
    assert agent.get(f"/thumbnail/{png}?v=1")[2] == file.getvalue(), "a small picture is its own thumbnail"
    assert agent.get(f"/picture/{png}", method="HEAD")[1]["Content-Length"] == str(len(file.getvalue()))
    wait_until(lambda: not any("b.PNG" in path for path in open_files(agent)), what="the picture is closed again")


def test_what_is_no_picture_is_gone_or_is_changed_is_not_shown(agent: Paged) -> None:
    agent.start_page()
    names = ("page.jpg", "gone.jpg", "link.jpg", "large.jpg", "rewritten.jpg")
    contents = [b"<html><script>alert(1)</script>", *[pictures.jpeg()] * 4]
    contents[3] += bytes(33 * 2**20)
    for name, content in zip(names, contents, strict=True):
        agent.write(name, content)
    wait_until(lambda: agent.count("confirmed") == 5, what="all arrive", deadline_s=60)
    wait_until(lambda: len(numbers(agent)) == 5, what="all are on the page")
    rows = {path.rpartition("/")[2]: number for number, (path, _, _) in enumerate(agent.rows(), 1)}
    os.unlink(agent.path("gone.jpg"))
    os.unlink(agent.path("link.jpg"))
    os.symlink("/etc/passwd", agent.path("link.jpg"))
    for name in ("page.jpg", "gone.jpg", "link.jpg", "large.jpg"):
        status, headers, body = agent.get(f"/picture/{rows[name]}")
        assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8"), name
        status, headers, body = agent.get(f"/thumbnail/{rows[name]}")
        if name == "large.jpg":
            assert status == 200, "of a large picture there is its thumbnail"
        else:
            assert (status, headers["Content-Type"], body) == (404, "image/svg+xml", NO_PICTURE.encode()), name
    assert agent.get(f"/picture/{rows['rewritten.jpg']}")[0] == 200


def test_no_path_leads_out_of_the_watched_directories(agent: Paged) -> None:
    agent.write("a.jpg", pictures.jpeg())
    os.makedirs(os.path.join(agent.base_dir, "state"), exist_ok=True)
    agent.start_page()
    confirmed(agent, 1)
    for path in (
        "/picture/../../../etc/passwd",
        "/picture/%2e%2e/%2e%2e/etc/passwd",
        "/picture/1/../../../etc/passwd",
        "/picture/",
        "/picture/-1",
        "/picture/0",
        "/picture/2",
        "/picture/1%00",
        "/picture/1.jpg",
        "/picture/٣",
        "/picture/999999999999999999",
        "/picture/9999999999999999999999",
        "/thumbnail//etc/passwd",
        "/generated_data/camera/a.jpg",
        "//etc/passwd",
        "/..",
        "/status.json/",
    ):
        try:
            status, _, body = agent.get(path)
        except (UnicodeEncodeError, http.client.InvalidURL):
            continue  # this client refuses to say it
        assert status in (400, 404), path
        assert b"root:" not in body
    assert agent.get("/picture/1")[0] == 200


def test_pictures_from_elsewhere_and_the_agents_own_files_are_not_shown(tmp_path: Path, verifying: VerifyingS3) -> None:
    with Paged(str(tmp_path)) as agent:
        agent.port = free_port()
        outside = tmp_path / "elsewhere"
        outside.mkdir()
        (outside / "private.jpg").write_bytes(pictures.jpeg())
        agent.configure(
            verifying.endpoint_url,
            upload={"allowed_roots": [str(outside)]},
            system={"web": {"listen": f"127.0.0.1:{agent.port}"}},
        )
        agent.start_page()
        assert agent.cli("send", str(outside / "private.jpg")).returncode == 0
        confirmed(agent, 1)
        assert numbers(agent) == []
        assert agent.get("/picture/1")[0] == 404


def test_names_of_any_kind_are_text_on_the_page(agent: Paged, verifying: VerifyingS3) -> None:
    name = HOSTILE.replace("/", "|").replace("\x00", "") + ".jpg"
    agent.write(name, pictures.jpeg())
    agent.start_page()
    wait_until(lambda: len(sent(verifying)) == 1, what="it arrives")
    wait_until(lambda: len(numbers(agent)) == 1, what="it is on the page")
    body = agent.get("/")[2]
    page = Reader(body.decode())
    assert len(page.all("script")) == 1
    assert "<script>alert(1)<|script>" in page.text
    assert agent.get(f"/picture/{numbers(agent)[0]}")[2] == pictures.jpeg()
    read(agent.get("/metrics")[2].decode())


def test_visitors_that_say_nothing_neither_hold_up_others_nor_the_end(agent: Paged) -> None:
    agent.start_page()
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), timeout=30))
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET / HT")
        assert agent.get("/healthz")[0] == 200
        assert agent.stop(within_s=10) == 0


def test_a_page_that_is_looked_at_writes_nothing_to_the_card(agent: Paged) -> None:
    agent.write("a.jpg", pictures.jpeg())
    agent.start_page()
    confirmed(agent, 1)

    def written() -> dict[str, tuple[int, int]]:
        found = {entry.name: entry.stat() for entry in os.scandir(agent.state_dir)}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}

    atime = os.stat(agent.path("a.jpg")).st_atime_ns
    wait_until(lambda: numbers(agent) == ["1"], what="the picture")
    before = written()
    for path in ("/", "/status.json", "/metrics", "/picture/1", "/thumbnail/1") * 3:
        assert agent.get(path)[0] == 200
    assert written() == before
    assert os.stat(agent.path("a.jpg")).st_atime_ns == atime


def test_the_pictures_thumbnail_is_what_a_browser_can_show(agent: Paged) -> None:
    small = io.BytesIO()
    pictures.drawing((32, 24)).save(small, "JPEG")
    file = io.BytesIO()
    tags = pictures.with_thumbnail(pictures.exif(location=False), "<", small.getvalue())
    pictures.drawing().save(file, "JPEG", exif=tags)
    agent.write("a.jpg", file.getvalue())
    agent.start_page()
    confirmed(agent, 1)
    with Image.open(io.BytesIO(agent.get("/thumbnail/1")[2])) as picture:
        assert picture.format == "JPEG"
        picture.load()
