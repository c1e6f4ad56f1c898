"""What other programs are told of a confirmed version: a line that any JSON reader takes, whatever the disk holds."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from syncagent.core.confirmation import Confirmation, announcement, image_info

SHA256 = "0123456789abcdef" * 4
CONFIRMATION = Confirmation(
    position=7,
    path="generated_data/camera/a.jpg",
    key="camera/field-7/a.jpg",
    size_bytes=3,
    mtime_ns=1_700_000_000_123_456_789,
    sha256=SHA256,
    address="upload",
    confirmed_at=1_700_000_100.75,
    message=None,
)


def test_a_line_has_exactly_the_fields_of_the_contract() -> None:
    line = announcement(CONFIRMATION)
    assert "\n" not in line
    assert json.loads(line) == {
        "position": 7,
        "path": "generated_data/camera/a.jpg",
        "key": "camera/field-7/a.jpg",
        "bytes": 3,
        "sha256": SHA256,
        "address": "upload",
        "confirmed_at": "2023-11-14T22:15:00Z",
        "message": {
            "msg_type": "image_info",
            "msg_content": {
                "id": "0123456789abcdef0123456789abcdef",
                "time": "2023-11-14T22:13:20Z",
                "file_name": "a.jpg",
                "disk_path": "generated_data/camera/a.jpg",
                "cloud_path": "camera/field-7/a.jpg",
            },
        },
    }


def test_the_message_that_asked_for_a_version_is_passed_on_whole() -> None:
    message = {"msg_id": "cam-1", "msg_type": "image_info", "msg_content": {"file_name": "ä\n\ud800.jpg", "n": [1.5]}}
    line = announcement(replace(CONFIRMATION, message=json.dumps(message, indent=1)))
    assert "\n" not in line
    assert json.loads(line)["message"] == message


@pytest.mark.parametrize("text", ['{"n": 1e400}', '{"n": NaN}', "{", "[" * 100_000, "9" * 5000])
def test_a_message_that_cannot_be_parsed_again_is_passed_on_as_text(text: str) -> None:
    line = announcement(replace(CONFIRMATION, message=text))
    assert json.loads(line, parse_constant=pytest.fail)["message"] == text


def test_bytes_that_are_not_utf_8_stay_themselves() -> None:
    path = os.fsdecode(b"generated_data/caf\xe9/\n\xff.jpg")
    line = announcement(replace(CONFIRMATION, path=path))
    assert line.isascii() and "\n" not in line
    document = json.loads(line)
    assert os.fsencode(document["path"]) == b"generated_data/caf\xe9/\n\xff.jpg"
    assert os.fsencode(document["message"]["msg_content"]["file_name"]) == b"\n\xff.jpg"


@pytest.mark.parametrize(
    ("mtime_ns", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (1 << 62, "2116-02-20T23:53:38Z"),
        (10**21, "9999-12-31T00:00:00Z"),
        (-(10**21), "0001-01-01T00:00:00Z"),
    ],
)
def test_a_time_that_no_calendar_has_is_its_first_or_last_day(mtime_ns: int, expected: str) -> None:
    content = image_info(path="a", key="k", sha256=SHA256, mtime_ns=mtime_ns)["msg_content"]
    assert isinstance(content, dict) and content["time"] == expected
