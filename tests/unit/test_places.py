"""Between absolute paths and the journal's: one path, one name, and nothing outside of the roots."""

from __future__ import annotations

import pytest

from syncagent.core.places import Places

PLACES = Places("/base", "/base/generated_data", ("/mnt/card", "/mnt/card/inner", "/srv/"))


@pytest.mark.parametrize("relative", ["", "a", "a/b.jpg", "caf\udce9", "generated_data", "generated_data/x"])
def test_a_place_below_generated_data_and_its_path_are_two_names_of_one_thing(relative: str) -> None:
    path = PLACES.path_of(relative)
    assert PLACES.relative_of(path) == relative
    assert PLACES.locate(path) == ("/base/generated_data", relative)


@pytest.mark.parametrize("path", ["/mnt/card/x", "generated_data2/x", "x", ""])
def test_a_path_from_elsewhere_has_no_place_below_generated_data(path: str) -> None:
    assert PLACES.relative_of(path) is None


def test_what_the_doorbell_tells_is_told_by_its_place() -> None:
    assert PLACES.heard("/base/generated_data") == ""
    assert PLACES.heard("/base/generated_data/a/b") == "a/b"
    assert PLACES.heard("/base/generated_data2/a") is None
    assert PLACES.heard("/base") is None


def test_a_file_from_elsewhere_is_located_below_the_longest_root_that_is_allowed() -> None:
    assert PLACES.locate("/mnt/card/x.jpg") == ("/mnt/card", "x.jpg")
    assert PLACES.locate("/mnt/card/inner/x.jpg") == ("/mnt/card/inner", "x.jpg")
    assert PLACES.locate("/srv/a/b") == ("/srv/", "a/b")
    assert PLACES.locate("/mnt/cards/x.jpg") is None
    assert PLACES.locate("/mnt/card") is None
    assert PLACES.locate("/etc/passwd") is None
    assert Places("/base", "/base/generated_data").locate("/mnt/card/x.jpg") is None
    assert Places("/b", "/b/generated_data", ("/",)).locate("/etc/hosts") == ("/", "etc/hosts")


def test_a_file_that_a_person_named_gets_the_path_that_the_scan_would_give_it() -> None:
    assert PLACES.name_of("/base/generated_data/a/b.jpg") == "generated_data/a/b.jpg"
    assert PLACES.name_of("/mnt/card/x.jpg") == "/mnt/card/x.jpg"
    assert PLACES.name_of("/etc/passwd") is None


def test_what_the_agent_keeps_for_itself_is_located_and_cannot_be_named() -> None:
    places = Places("/srv/base", "/srv/base/generated_data", ("/srv",), ("/srv/base/state/outbox",))
    assert places.locate("/srv/base/state/outbox/x") == ("/srv/base/state/outbox", "x")
    assert places.name_of("/srv/base/state/outbox/x") is None
    assert places.name_of("/srv/base/other/x") == "/srv/base/other/x"
    inner = Places("/base", "/base/generated_data", (), ("/base/generated_data/state/outbox",))
    assert inner.name_of("/base/generated_data/state/outbox/x") is None


def test_a_root_is_open_to_whom_it_is_given() -> None:
    assert PLACES.is_open("generated_data/x", ())
    assert PLACES.is_open("/mnt/card/x", ("/mnt/card",))
    assert not PLACES.is_open("/mnt/card/x", ("/srv", "/mnt/cards"))
