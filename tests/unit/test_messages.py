"""What a message is, what names it, and whom it is for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from syncagent.core.errors import Refused
from syncagent.core.messages import (
    MAX_MESSAGE_BYTES,
    all_addresses,
    message_of,
    named_places,
    parse_message,
    receipt_name,
    takers,
    time_in,
    why_nobody,
)
from syncagent.core.settings import Carrier, MessageFields, SendAddress, Settings, System, Task
from syncagent.core.tree import MAX_DEPTH, MAX_NODES

ORIGINAL = {
    "msg_id": "camera-1",
    "msg_time": "2021-09-01 12:00:00",
    "msg_type": "image_info",
    "msg_content": {"file_name": "a.jpg", "disk_path": "generated_data/camera/a.jpg"},
}


def address(name: str, duration: str | float, message_type: str = "image_info") -> SendAddress:
    carrier = Carrier(name="c", bucket_name="b")
    return SendAddress(name=name, configured_name=name, message_type=message_type, carrier=carrier, duration=duration)


def test_a_whole_message_and_a_bare_object_say_the_same_content() -> None:
    whole = message_of(ORIGINAL, "image_info")
    bare = message_of(ORIGINAL["msg_content"], "image_info")
    assert whole.content == bare.content
    assert (bare.file_name, bare.disk_path, bare.cloud_path) == ("a.jpg", "generated_data/camera/a.jpg", None)


def test_a_message_is_named_by_its_whole_and_not_by_its_spelling_or_its_sender() -> None:
    spelled = json.dumps(ORIGINAL, indent=3, sort_keys=True).encode()
    first = message_of(ORIGINAL, "image_info").digest
    assert parse_message(spelled, "image_info").digest == first
    later = {**ORIGINAL, "msg_time": "2021-09-01 12:00:01"}
    assert message_of(later, "image_info").digest != first
    assert (
        message_of(ORIGINAL["msg_content"], "image_info").digest != message_of(ORIGINAL["msg_content"], "other").digest
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "JSON object"),
        ("{", "line 1"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"msg_type": "image_info"}', "msg_content is missing"),
        ('{"msg_type": "other", "msg_content": {}}', "msg_type is 'other'"),
        ('{"msg_content": 5}', "no JSON object"),
        ('{"file_name": ""}', "names no file"),
        ('{"file_name": "../x"}', "names no file"),
        ('{"file_name": "a/./b"}', "names no file"),
        ('{"file_name": 5}', "no string"),
        ('{"file_name": "a", "disk_path": ["x"]}', "disk_path is no string"),
        ('{"file_name": "a", "cloud_path": "x//y"}', "empty"),
        ('{"file_name": "a", "cloud_path": "x%20y"}', "escape"),
        ('{"file_name": "a\\u0000b"}', "NUL"),
        ("\x00\x01", "line 1"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(Refused, match=words.replace("(", r"\(")):
        parse_message(text.encode(), "image_info")


def test_what_is_not_utf8_or_too_long_is_refused() -> None:
    with pytest.raises(Refused, match="UTF-8"):
        parse_message(b'{"file_name": "\xff"}', "image_info")
    with pytest.raises(Refused, match="longer"):
        parse_message(b'{"file_name": "' + b"x" * MAX_MESSAGE_BYTES + b'"}', "image_info")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "id is missing"),
        ({"id": "r1", "file_name": "f.bin", "confirm_receipt": True}, "time is missing"),
        ({"id": "r1", "file_name": "f.bin", "time": "t", "confirm_receipt": False}, "not true"),
        ({"id": "r1", "file_name": 5, "time": "t", "confirm_receipt": True}, "no string"),
    ],
)
def test_a_receipt_must_say_what_was_received(content: dict[str, object], words: str) -> None:
    with pytest.raises(Refused, match=words):
        message_of(content, "confirm_receipt")


def test_a_receipt_has_one_segment_of_a_key() -> None:
    assert receipt_name({"time": "2026-01-01T00:00:00Z", "file_name": "a/b%41\n.bin"}) == (
        "2026-01-01T00:00:00Z-a-b%2541%0A.bin.json"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-05-01T12:00:00Z", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("2024-05-01 12:00:00", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("2024-05-01T23:30:00-03:00", datetime(2024, 5, 2, 2, 30, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("yesterday", None),
        (1e30, None),
        (True, None),
        (None, None),
    ],
)
def test_the_time_of_a_message_is_read_in_its_usual_forms(value: Any, expected: datetime | None) -> None:
    assert time_in({"when": value}, MessageFields(time_field="when")) == expected


def test_messages_go_to_those_that_wait_for_them_and_to_watchers_only_where_nobody_does() -> None:
    waits, timed = address("waits", "on_message"), address("timed", 60.0)
    watches, asked = address("watches", "on_change"), address("asked", "as_needed")
    assert takers([watches, waits, asked, timed], "image_info") == (waits, timed)
    assert takers([watches, asked], "image_info") == (watches,)
    assert takers([asked], "image_info") == ()
    assert takers([waits], "other") == ()
    settings = Settings(system=System(id="x"), addresses=(asked,))
    assert "as_needed" in why_nobody(settings, "image_info")
    assert "image_info" in why_nobody(settings, "other")


def test_receipts_go_through_their_own_address_else_through_the_firmware_carrier() -> None:
    carrier = Carrier(name="ota", bucket_name="b", path="firmware_images")
    task = Task(name="t", configured_name="t", message_type="firmware_image", function="f", carrier=carrier)
    system = System(id="x")
    alone = all_addresses(Settings(system=system, tasks=(task,)))
    assert [(a.name, a.carrier.name) for a in alone] == [("confirm_receipt@ota", "ota")]
    own = address("receipts", "on_message", "confirm_receipt")
    assert all_addresses(Settings(system=system, addresses=(own,), tasks=(task,))) == (own,)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"file_name": "a.jpg"}, ("generated_data/camera/a.jpg", "a.jpg")),
        ({"file_name": "generated_data/camera/a.jpg"}, None),
        ({"file_name": "/mnt/a.jpg"}, ("/mnt/a.jpg",)),
        ({"file_name": "a.jpg", "disk_path": "/mnt/b.jpg"}, ("/mnt/b.jpg",)),
        ({"file_name": "a.jpg", "disk_path": None}, ("generated_data/camera/a.jpg", "a.jpg")),
    ],
)
def test_the_file_is_where_disk_path_says_else_below_the_path_else_where_its_name_says(
    content: dict[str, object], places: tuple[str, ...] | None
) -> None:
    found = named_places(message_of(content, "image_info"), "camera")
    assert found == places if places else found[0] == "generated_data/camera/a.jpg"


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


#: A whole message and its content are two levels.
DEEPEST = MAX_DEPTH - 2


@pytest.mark.parametrize(
    "content",
    [
        {"file_name": "\ud800.jpg"},
        {"file_name": "caf\udce9.jpg"},
        {"file_name": "a", "\udce9": 1},
        {"file_name": "a", "x": [{"y": "\ud83d"}]},
        {"file_name": "a", "x": nested(DEEPEST + 1)},
        {"file_name": "a", "x": nested(100_000)},
        {"file_name": "a", "x": [0] * MAX_NODES},
        {"file_name": "a", "x": 10**64},
        {"file_name": "a", "x": float("inf")},
        {"file_name": "a", "x": "y" * MAX_MESSAGE_BYTES},
        {"file_name": "a", "x": "é" * (MAX_MESSAGE_BYTES // 2)},
        {"file_name": "a", 1: "x"},
        {"file_name": "a", "x": {None: "x"}},
        {"file_name": "a", "x": {1, 2}},
        {"file_name": "a", "x": b"bytes"},
    ],
    ids=[
        *(
            "half",
            "byte",
            "key",
            "deep inside",
            "deep",
            "very deep",
            "many",
            "integer",
            "infinite",
            "long",
            "long in UTF-8",
        ),
        *("key of a number", "key of nothing", "set", "bytes"),
    ],
)
def test_what_the_inbox_would_reject_is_refused_before_it_is_acknowledged(content: Any) -> None:
    with pytest.raises(Refused):
        message_of(content, "image_info")


@pytest.mark.parametrize(
    "content",
    [
        {"file_name": "📷.jpg", "note": "Grüße"},
        {"file_name": "a", "x": nested(DEEPEST)},
        {"file_name": "a", "x": 10**62, "y": -1e300, "z": True, "t": (1, 2)},
        {"file_name": "a", "text": "中" * 50_000},
    ],
    ids=["text", "depth", "numbers", "150 KB"],
)
def test_what_is_acknowledged_is_taken_from_the_inbox_as_the_same_message(content: dict[str, Any]) -> None:
    posted = message_of(content, "image_info")
    taken = parse_message(posted.text.encode(), "image_info")
    assert (taken.digest, taken.text) == (posted.digest, posted.text)
    bare = json.dumps(content, ensure_ascii=False).encode()
    assert parse_message(bare, "image_info").digest == posted.digest


def test_names_from_the_disk_may_be_said_by_the_agent_itself() -> None:
    message = message_of({"file_name": "caf\udce9.jpg"}, "image_info", has_disk_names=True)
    assert message.text.isascii() and message.digest
    assert json.loads(message.text)["msg_content"]["file_name"] == "caf\udce9.jpg"
