"""From names on the disk to keys: nothing is lost, nothing collides, and what no store can hold is refused."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone

import pytest

from syncagent.core.errors import Refused
from syncagent.core.keys import (
    MAX_KEY_BYTES,
    TEMPLATE_WORDS,
    KeyTooLong,
    Naming,
    check_cloud_path,
    check_key,
    escape,
    time_of,
    with_digest,
)

SHA256 = bytes(range(0xA0, 0xC0))
DIGITS = "a0a1a2a3a4a5"


def naming(relative_path: str, **changes: object) -> Naming:
    values: dict[str, object] = {
        "path": "camera",
        "sub_path": "field-7",
        "system_id": "pi-1",
        "default_cloud_path": "",
        "relative_path": relative_path,
        "mtime_ns": 1_717_243_199_999_999_999,  # 2024-06-01T11:59:59.999...Z
    }
    return Naming(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("on_disk", "in_key"),
    [
        (b"img_0001.jpg", "img_0001.jpg"),
        ("Straße/größe 1.jpg".encode(), "Straße/größe 1.jpg"),
        ("\U0001f4f7.jpg".encode(), "\U0001f4f7.jpg"),
        (b"caf\xe9.jpg", "caf%E9.jpg"),  # Latin-1
        (b"\xff\xfe", "%FF%FE"),
        (b"a\nb\tc\x01\x7f", "a%0Ab%09c%01%7F"),
        (b"100%", "100%"),
        (b"100%.jpg", "100%.jpg"),
        (b"%zz %g1 %1", "%zz %g1 %1"),
        (b"%41", "%2541"),
        (b"%e9", "%25e9"),
        (b"%%41", "%%2541"),
        (b"%25", "%2525"),
        (b"a+b&c=d?e#f\\g:h*i", "a+b&c=d?e#f\\g:h*i"),
        ("\u0085\u00a0\u200b".encode(), "\u0085\u00a0\u200b"),  # odd, but UTF-8 and above 0x20: left alone
        (b"%\x41", "%A"),
        (b"%4\xe9", "%4%E9"),
    ],
)
def test_a_name_from_the_disk_becomes_a_key_that_a_store_takes(on_disk: bytes, in_key: str) -> None:
    assert escape(os.fsdecode(on_disk)) == in_key
    assert naming(os.fsdecode(on_disk)).key() == f"camera/field-7/{in_key}"


def test_a_key_with_escapes_of_ours_can_be_checked_and_take_a_digest() -> None:
    key = naming(os.fsdecode(b"caf\xe9\n.jpg")).key()
    assert check_key(key) == "camera/field-7/caf%E9%0A.jpg"
    assert with_digest(key, SHA256) == f"camera/field-7/caf%E9%0A.{DIGITS}.jpg"


@pytest.mark.parametrize(
    "key", ["a%41", "a%e9/b", "a\nb", "a\x7f", "a\udce9", "a\ud83d", "", "/a", "a/", "a//b", "../a", "a/./b"]
)
def test_a_cloud_path_that_holds_what_no_key_may_is_refused(key: str) -> None:
    with pytest.raises(Refused):
        check_cloud_path(key)


@pytest.mark.parametrize("key", ["a", "a/b.jpg", "a%", "a%4/b", "%zz", "größe/...", "..a/b..", " "])
def test_a_cloud_path_of_ordinary_characters_is_itself(key: str) -> None:
    assert check_cloud_path(key) == key


@pytest.mark.parametrize(
    "key", ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/.", "./a", "a\x00", "a\x1f", "a\udc80"]
)
def test_a_key_with_a_bad_segment_or_character_is_refused(key: str) -> None:
    with pytest.raises(Refused) as caught:
        check_key(key)
    assert not isinstance(caught.value, KeyTooLong)


def test_a_key_may_have_1024_bytes_of_utf8_and_no_more() -> None:
    assert MAX_KEY_BYTES == 1024
    assert check_key("ü" * 512) == "ü" * 512
    for key in ("ü" * 512 + "a", "a" * 1025):
        with pytest.raises(KeyTooLong, match=r"^key too long$"):
            check_key(key)
    with pytest.raises(KeyTooLong):
        with_digest("a" * 1012, SHA256)
    assert len(with_digest("a" * 1011, SHA256)) == 1024
    # A byte that becomes three counts as three.
    with pytest.raises(KeyTooLong):
        naming(os.fsdecode(b"\xff" * 340)).key()


@pytest.mark.parametrize(
    ("path", "sub_path", "expected"),
    [
        ("camera", "field-7", "camera/field-7/a/b.jpg"),
        ("", "field-7", "field-7/a/b.jpg"),
        ("camera", "", "camera/a/b.jpg"),
        ("", "", "a/b.jpg"),
    ],
)
def test_the_plain_key_is_path_and_sub_path_and_place(path: str, sub_path: str, expected: str) -> None:
    assert naming("a/b.jpg", path=path, sub_path=sub_path).key() == expected


def test_every_word_of_a_template_is_filled_in_and_nothing_is_filled_in_twice() -> None:
    template = "/".join(f"{{{word}}}" for word in TEMPLATE_WORDS)
    made = naming("sub/{year}.jpg", default_cloud_path=template, system_id="{day}").key()
    assert made == "{year}.jpg/sub/{year}.jpg/2024/06/01/{day}"


def test_a_template_is_dated_by_the_message_in_utc_before_the_mtime() -> None:
    late = datetime(2023, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    key = naming("x.jpg", default_cloud_path="{year}/{month}/{day}/{file_name}", message_time=late).key()
    assert key == "2024/01/01/x.jpg"
    assert naming("x.jpg", default_cloud_path="{year}-{month}-{day}", mtime_ns=0).key() == "1970-01-01"


def test_a_template_takes_escaped_names_and_loses_the_slashes_at_its_ends() -> None:
    key = naming(os.fsdecode(b"d\xe9/f%20\x01"), default_cloud_path="/raw/{relative_path}/").key()
    assert key == "raw/d%E9/f%2520%01"
    with pytest.raises(Refused):
        naming("x", default_cloud_path="a/{system_id}/{file_name}", system_id="..").key()


@pytest.mark.parametrize("mtime_ns", [10**21, -(10**21), 2**63 - 1, -(2**63), 253_402_300_800 * 10**9])
def test_an_mtime_that_no_calendar_holds_still_gives_a_key(mtime_ns: int) -> None:
    key = naming("x.jpg", default_cloud_path="{year}/{month}/{day}/{file_name}", mtime_ns=mtime_ns).key()
    assert key.endswith("/x.jpg") and key.count("/") == 3 and len(key) == len("2024/01/01/x.jpg")
    assert time_of(mtime_ns).tzinfo is UTC


def test_an_mtime_before_1970_is_dated_by_the_second_that_it_lies_in() -> None:
    assert time_of(-1) == datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/img.jpg", f"a/img.{DIGITS}.jpg"),
        ("img", f"img.{DIGITS}"),
        ("a.b/img", f"a.b/img.{DIGITS}"),
        ("a/x.tar.gz", f"a/x.tar.{DIGITS}.gz"),
        ("a/.hidden", f"a/.hidden.{DIGITS}"),
        ("a/...", f"a/....{DIGITS}"),
        ("a/..jpg", f"a/..jpg.{DIGITS}"),
        ("a/x.", f"a/x.{DIGITS}."),
    ],
)
def test_a_later_version_gets_its_digest_before_the_extension_as_splitext_has_it(key: str, expected: str) -> None:
    assert with_digest(key, SHA256) == expected
    head, _, name = key.rpartition("/")
    stem, extension = os.path.splitext(name)
    assert expected == f"{head + '/' if head else ''}{stem}.{SHA256.hex()[:12]}{extension}"
