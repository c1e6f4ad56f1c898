"""The oracle of the power cuts sees each thing that it is there for. The cuts themselves need a guest."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest

from tests.vm.power import PREFIX, Scene, breaches, digest_of
from tests.vm.workload import content_of

SENT, KEPT = "c01-00001-300.jpg", "d/c01-00002-17.jpg"
IMAGE = hashlib.sha256(b"image").hexdigest()
OBJECTS = {PREFIX + SENT: digest_of(SENT), f"{PREFIX}.syncagent/probe": "any"}
SURVEY: dict[str, Any] = {
    "files": {KEPT: digest_of(KEPT), ".new.part": "half"},
    "journal": {
        "integrity": "ok",
        "rows": [
            ["generated_data/camera", SENT, "removed", PREFIX + SENT, digest_of(SENT).upper()],
            ["generated_data/camera", KEPT, "ready", None, ""],
        ],
        "releases": [],
    },
    "images": {"image-1.bin": IMAGE, ".syncagent-drop-1": "half"},
    "config": "image-1",
    "torn_metadata": [],
    "wrecks": [],
}


def look(change: str = "", value: Any = None, *, objects: dict[str, str] | None = None) -> list[str]:
    survey = copy.deepcopy(SURVEY)
    if change:
        survey[change] = value
    scene = Scene(OBJECTS if objects is None else objects, [SENT, KEPT], frozenset({IMAGE}))
    return [breach.partition(":")[0] for breach in breaches(survey, scene)]


def test_bytes_follow_from_the_name() -> None:
    assert len(content_of(SENT)) == 300
    assert content_of("d/" + SENT) == content_of(SENT) != content_of("c01-00003-300.jpg")


def test_what_is_as_it_should_be_is_no_breach() -> None:
    assert look() == []


def test_before_the_first_firmware_there_is_neither_image_nor_config() -> None:
    survey = {**SURVEY, "images": {}, "config": None}
    assert breaches(survey, Scene(OBJECTS, [SENT, KEPT], frozenset())) == []


@pytest.mark.parametrize(
    ("change", "value", "seen"),
    [
        ("files", {}, ["lost"]),
        ("files", {KEPT: hashlib.sha256(b"").hexdigest()}, ["lost"]),
        ("journal", {**SURVEY["journal"], "integrity": "database disk image is malformed"}, ["journal"]),
        ("wrecks", ["journal.db.torn-2026-11-25"], ["journal"]),
        ("torn_metadata", ["root.json"], ["firmware"]),
        ("images", {"image-1.bin": "half"}, ["firmware", "firmware"]),
        ("images", {"image-1.bin": IMAGE, "image-2.bin": "half"}, ["firmware"]),
        ("config", "image-2", ["firmware"]),
        ("config", "", ["firmware"]),
    ],
)
def test_what_the_disk_lacks_is_seen(change: str, value: Any, seen: list[str]) -> None:
    assert look(change, value) == seen


def test_what_the_bucket_lacks_is_seen() -> None:
    assert look(objects={}) == ["lost", "confirmed"]
    assert look(objects={**OBJECTS, PREFIX + SENT: "half"}) == ["lost", "wrong", "confirmed"]
    assert look(objects={**OBJECTS, PREFIX + "stranger.jpg": "any"}) == ["wrong"]


def test_what_others_had_sent_before_is_to_stay_as_it_was() -> None:
    objects = {**OBJECTS, PREFIX + "0.jpg": "theirs"}
    for known, count in (("theirs", 0), ("other", 1)):
        scene = Scene(objects, [SENT, KEPT], frozenset({IMAGE}), {PREFIX + "0.jpg": known})
        assert len(breaches(SURVEY, scene)) == count
