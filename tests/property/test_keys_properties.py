"""Any name a disk can hold becomes a key that can be turned back into it."""

from __future__ import annotations

import os
import re

from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.errors import Refused
from syncagent.core.keys import Naming, check_cloud_path, check_key, escape, with_digest

NAMES = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.text(alphabet="%0123456789abcdefABCDEF/é\x01", min_size=1, max_size=30).map(str.encode),
).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"-"))


def unescape(key: str) -> bytes:
    """A reader's own: each %XX is a byte."""
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), key.encode())


@given(NAMES)
def test_an_escaped_name_is_utf8_without_control_characters_and_can_be_turned_back(name: bytes) -> None:
    escaped = escape(os.fsdecode(name))
    assert all(ord(character) >= 0x20 and character != "\x7f" for character in escaped)
    assert unescape(escaped) == name


@given(NAMES, NAMES)
def test_two_names_never_share_a_key(one: bytes, other: bytes) -> None:
    assert (escape(os.fsdecode(one)) == escape(os.fsdecode(other))) == (one == other)


@given(NAMES)
def test_nothing_else_is_changed(name: bytes) -> None:
    text = os.fsdecode(name)
    if not re.search(r"[\x00-\x1f\x7f\udc80-\udcff]|%[0-9A-Fa-f]{2}", text):
        assert escape(text) == text


@given(
    st.lists(NAMES.filter(lambda name: name not in (b".", b"..")), min_size=1, max_size=4),
    st.binary(min_size=32, max_size=32),
)
def test_every_place_on_the_disk_has_a_key_and_a_later_version_another(parts: list[bytes], sha256: bytes) -> None:
    relative = "/".join(os.fsdecode(part) for part in parts)
    key = Naming("camera", "", "pi", "", relative, 0).key()
    assert check_key(key) == key
    assert unescape(key) == b"camera/" + b"/".join(parts)
    later = with_digest(key, sha256)
    assert later != key
    assert later.replace("." + sha256.hex()[:12], "", 1) == key or sha256.hex()[:12] in key


@given(st.text(min_size=1, max_size=40))
def test_a_cloud_path_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        assert check_cloud_path(text) == text
    except Refused:
        return
    assert escape(text) == text
    assert all(segment not in ("", ".", "..") for segment in text.split("/"))
