"""Who may look at the page."""

from __future__ import annotations

import base64

import pytest

from syncagent.core.visitors import is_loopback, is_password, is_welcome, parse_listen


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("*:8384", ("0.0.0.0", 8384)),
        ("127.0.0.1:8384", ("127.0.0.1", 8384)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:8384", ("0.0.0.0", 8384)),
        ("pi.local:1", ("pi.local", 1)),
    ],
)
def test_an_address_is_a_host_and_a_port(listen: str, place: tuple[str, int]) -> None:
    assert parse_listen(listen) == place


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_these_only_this_machine_can_reach(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.7", "pi.local", "127.0.0.1.example.com", "127.evil.example", "", "localhost."]
)
def test_these_others_may_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("named", ["127.0.0.1:8384", "127.0.0.1", "localhost:9000", "LocalHost", "[::1]:8384"])
def test_a_page_on_loopback_answers_to_names_of_loopback_at_any_port(named: str) -> None:
    assert is_welcome([named], host="127.0.0.1")


@pytest.mark.parametrize(
    "named",
    [
        "evil.example",
        "evil.example:8384",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "localhost.evil.example",
        "192.168.1.7",
        "0.0.0.0",
        "",
        "127.0.0.1:",
        "127.0.0.1:8384/",
        "[::1",
        " 127.0.0.1",
    ],
)
def test_a_page_on_loopback_answers_to_no_other_name(named: str) -> None:
    assert not is_welcome([named], host="127.0.0.1")


def test_a_request_says_once_whom_it_means() -> None:
    assert not is_welcome([], host="127.0.0.1")
    assert not is_welcome(["127.0.0.1", "127.0.0.1"], host="127.0.0.1")
    assert not is_welcome([], host="0.0.0.0")


def test_a_page_for_others_answers_to_whatever_they_call_it() -> None:
    assert is_welcome(["pi.local:8384"], host="0.0.0.0")
    assert not is_welcome(["pi.local/<script>"], host="0.0.0.0")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_the_password_counts_and_the_user_does_not() -> None:
    for user in ("admin", "", "näme"):
        assert is_password(basic(f"{user}:hush:hüsh"), "hush:hüsh")
    assert is_password(basic("a:b").replace("Basic", "basic"), "b")


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !", basic("a:hus"), basic("a:hushh"), basic("hush"), basic("a:"), "Bearer aHVzaA=="]
)
def test_anything_else_is_no_password(header: str) -> None:
    assert not is_password(header, "hush")
