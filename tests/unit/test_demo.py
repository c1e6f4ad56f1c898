"""The demo's pieces that need no store: camera, record, view, configuration, and the word about what is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
from dataclasses import replace
from typing import Any

import PIL
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from syncagent.cli.main import cli
from syncagent.core.model import State
from syncagent.demo.camera import Camera, Record, Version
from syncagent.demo.camp import configuration
from syncagent.demo.scenes import Card, Scene, cards, shortened
from syncagent.demo.view import Lines, choose, draw_svg, page
from syncagent.edges.clock import Clock, Stop

CONFIGS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "configs", "demo")
CAPTURE_TIME, EXIF_IFD = 0x9003, 0x8769


@pytest.fixture
def hurried_camera(tmp_path: os.PathLike[str]) -> Camera:
    """A camera that was told to stop: what it still takes, it writes without a pause."""
    stop = Stop()
    stop.set()
    return Camera(str(tmp_path), os.path.join(tmp_path, "record"), stop, Clock())


def read(*path: str | os.PathLike[str]) -> bytes:
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def test_the_configuration_in_the_repository_is_the_one_the_demo_uses() -> None:
    def written(name: str) -> Any:
        document = json.loads(read(CONFIGS, name))
        return {**document, "endpoint_url": "here"} if "endpoint_url" in document else document

    names = [
        os.path.relpath(os.path.join(folder, name), CONFIGS) for folder, _, names in os.walk(CONFIGS) for name in names
    ]
    assert {name: written(name) for name in names} == configuration("here")


#: The rest of the product does with the distribution's, down to 9.4.
draws = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 11, reason="the demo draws with the Pillow of its extra, 11 or newer"
)


@draws
def test_pictures_are_jpeg_files_with_their_capture_time_and_differ_from_one_another(
    tmp_path: os.PathLike[str], hurried_camera: Camera
) -> None:
    paths = [hurried_camera.take_picture() for _ in range(2)]
    for path in paths:
        with Image.open(os.path.join(tmp_path, path)) as picture:
            picture.load()
            assert picture.format == "JPEG"
            taken = picture.getexif().get_ifd(EXIF_IFD)[CAPTURE_TIME]
            assert re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", taken)
            assert taken[:10].replace(":", "-") == path.split("/")[2]
    assert read(tmp_path, paths[0]) != read(tmp_path, paths[1])


@draws
def test_the_record_has_each_finished_version_with_its_digest(
    tmp_path: os.PathLike[str], hurried_camera: Camera
) -> None:
    path = hurried_camera.take_picture()
    first = read(tmp_path, path)
    for _ in range(5):
        hurried_camera.take_picture()
    assert hurried_camera.correct_picture() == path
    second = read(tmp_path, path)
    noted = [version for version in Record(os.path.join(tmp_path, "record")).read() if version.path == path]
    assert first != second
    assert noted == [Version(path, len(one), hashlib.sha256(one).hexdigest()) for one in (first, second)]


def test_a_line_of_the_record_that_is_half_written_is_read_when_it_is_whole(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "record")
    record = Record(path)
    assert record.read() == []
    line = json.dumps({"path": "a", "size_bytes": 1, "sha256": "00"})
    for piece, count in ((line[:9], 0), (line[9:] + "\n" + line, 1), ("\n", 2), ("", 2)):
        with open(path, "a", encoding="utf-8") as file:
            file.write(piece)
        assert len(record.read()) == count


def card(number: int, state: State, **more: Any) -> Card:
    path = f"generated_data/camera/2024-05-01/img_{number:05d}.jpg"
    return Card(path, state, 123_456, number, key=f"camera/demo-camera/2024-05-01/img_{number:05d}.jpg", **more)


def scene(cards: list[Card], **more: Any) -> Scene:
    status = {"state": "ok", "reason": "", "oldest_unsent_s": 1.5}
    log = tuple(f"12:00:0{n} confirmed path={'x' * 150}" for n in range(9))
    return replace(Scene("stage", 61.0, True, 1, status, tuple(cards), (), log), **more)


FULL = scene(
    [card(n, State.CONFIRMED) for n in range(80)]
    + [card(80, State.SENDING, sent_bytes=60_000), card(81, State.READY), card(82, State.WAITING, reason="link")]
)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (100, 32), (60, 16)])
@pytest.mark.parametrize("shown", [FULL, scene([]), scene([], status=None, is_link_up=False)])
def test_the_page_fills_the_terminal_and_never_runs_over(width: int, height: int, shown: Scene) -> None:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(page(shown, width, height))
    lines = captured.get().splitlines()
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width
    if shown.cards:
        assert any("sending" in line and line.rstrip().endswith("img_00080.jpg") for line in lines)
        assert "01:01" in lines[-1]


def test_what_is_on_its_way_is_shown_before_what_has_arrived() -> None:
    shown = choose(FULL.cards, 8)
    assert [one.state for one in shown][-3:] == [State.SENDING, State.READY, State.WAITING]
    assert [one.row_id for one in shown[:5]] == [75, 76, 77, 78, 79]


def test_something_that_arrived_stays_in_sight_of_a_long_queue() -> None:
    shown = choose((card(1, State.CONFIRMED), *(card(n, State.READY) for n in range(2, 90))), 6)
    assert [one.row_id for one in shown] == [1, 2, 3, 4, 5, 6]


def test_plain_lines_tell_each_event_once_and_hold_no_control_characters() -> None:
    lines = Lines()
    ready, sent = scene([card(1, State.READY)]), scene([card(1, State.CONFIRMED)], is_link_up=False)
    first, none, then = list(lines.news(ready)), list(lines.news(ready)), list(lines.news(sent))
    assert [line.split()[1] for line in first] == ["ready", "stage"]
    assert none == []
    assert [line.split()[1] for line in then] == ["link", "confirmed"]
    assert then[1].endswith("123.5 kB -> camera/demo-camera/2024-05-01/img_00001.jpg")
    assert all(line.isprintable() for line in (*first, *then))


def test_a_file_that_is_not_recorded_yet_is_settling() -> None:
    entries = [{"path": "generated_data/a", "bytes": 7, "why": "open for writing"}]
    assert cards([], entries, []) == [Card("generated_data/a", State.SETTLING, 7, reason="open for writing")]


def test_the_picture_of_the_view_needs_nothing_from_elsewhere_and_is_small() -> None:
    picture = draw_svg(FULL)
    assert "img_00080.jpg" in picture
    assert [url for url in re.findall(r"\w+://[^\s\"'<]+", picture) if url != "http://www.w3.org/2000/svg"] == []
    assert len(picture) < 150_000


def test_a_log_line_keeps_its_time_its_words_and_a_level_that_matters() -> None:
    line = "2024-05-01 12:00:01,123 {} upload-1 upload deferred path=x"
    assert shortened(line.format("INFO")) == "12:00:01 upload deferred path=x"
    assert shortened(line.format("WARNING")) == "12:00:01 WARNING upload deferred path=x"


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "moto" else object())
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 1
    assert (
        result.output == "syncagent: the demo needs moto; install what it needs with: pip install 'syncagent[demo]'\n"
    )
