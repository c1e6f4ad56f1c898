"""What travels with an object, and what has to lie beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.metadata import MAX_METADATA_BYTES, header_value, pack, sayable_value, size_of, text_of


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_survives_the_round_trip_as_printable_ascii(text: str) -> None:
    value = header_value(text)
    assert value.isascii() and (value.isprintable() or not value)
    assert text_of(value) == text


@pytest.mark.parametrize("value", [5, 1.5, True, None, {"a": "ä"}, [1, "x"]])
def test_what_is_no_text_travels_as_json(value: Any) -> None:
    assert json.loads(header_value(value)) == value


def test_where_the_file_is_does_not_travel() -> None:
    fields = {"file_name": "a", "disk_path": "b", "cloud_path": "c", "id": "7", "Note": "x"}
    assert pack(fields, own={}, reserve_bytes=10) == ({"id": "7", "note": "x"}, True)


@pytest.mark.parametrize("name", ["", "a b", "ä", "x\n", "syncagent-sha256", "-x"])
def test_a_name_that_no_header_can_hold_goes_beside(name: str) -> None:
    assert pack({name: "1", "ok": "2"}, own={}, reserve_bytes=0) == ({"ok": "2"}, False)


def test_names_that_are_one_in_small_letters_are_not_mixed_up() -> None:
    assert pack({"Lens": "a", "lens": "b"}, own={}, reserve_bytes=0) == ({"lens": "a"}, False)
    assert pack({"lens": "a"}, own={"lens": "owner's"}, reserve_bytes=0) == ({}, False)


@given(st.dictionaries(st.from_regex("[a-z]{1,9}", fullmatch=True), st.text("xyz", max_size=900), max_size=9))
def test_the_metadata_never_passes_the_limit_and_leaves_room_for_the_sidecar(fields: dict[str, str]) -> None:
    own = {"syncagent-sha256": "0" * 64}
    packed, is_whole = pack(fields, own=own, reserve_bytes=100)
    total = size_of(packed) + size_of(own)
    assert total <= MAX_METADATA_BYTES - (0 if is_whole else 100)
    assert is_whole == (set(packed) == set(fields) - {"file_name"})


@given(st.text(max_size=50))
def test_any_text_at_all_has_a_value_that_a_header_can_hold(text: str) -> None:
    value = header_value(text)
    assert value.isascii() and (value.isprintable() or not value)


def test_a_name_that_is_not_utf8_stands_as_in_the_key_wherever_it_is_said() -> None:
    assert header_value("caf\udce9 50%41") == "caf%E9 50%2541"
    assert json.loads(header_value({"of": ["caf\udce9"]})) == {"of": ["caf%E9"]}
    assert sayable_value({"\udce9": {"of": "\ud800"}, "n": 1}) == {"%E9": {"of": "%ED%A0%80"}, "n": 1}
