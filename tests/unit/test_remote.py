"""A small file that a publisher must have put: read whole, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncagent.core.errors import Blocked, Transient, Trouble, Untrusted
from syncagent.core.remote import FORBIDDEN, MISSING, NOT_MODIFIED, OK, PATIENCE_S, Got, read_published
from tests.fakes import FakeClock


def read(got: Got, clock: FakeClock | None = None) -> bytes:
    monotonic = (clock or FakeClock()).monotonic
    return read_published(got, "a/manifest.json", allow="a/", most_bytes=10, monotonic=monotonic)


def test_what_is_there_is_read_to_its_end_and_the_connection_given_back() -> None:
    dropped: list[bool] = []
    assert read(Got(OK, chunks=iter((b"01234", b"56789")), _drop=lambda: dropped.append(True))) == b"0123456789"
    assert dropped == [True]


@pytest.mark.parametrize(
    ("status", "kind", "trouble", "words"),
    [
        (FORBIDDEN, Blocked, Trouble.FORBIDDEN, "manifest.json: no"),
        (MISSING, Blocked, Trouble.STORE, "nothing is published: there is no a/manifest.json"),
        (NOT_MODIFIED, Transient, Trouble.STORE, "manifest.json: the store answered 304"),
        (206, Transient, Trouble.STORE, "manifest.json: the store answered 206"),
    ],
)
def test_another_answer_is_an_error(status: int, kind: type[Transient | Blocked], trouble: Trouble, words: str) -> None:
    dropped: list[bool] = []
    with pytest.raises(kind) as error:
        read(Got(status, reason="no", _drop=lambda: dropped.append(True)))
    raised = error.value
    assert isinstance(raised, Blocked | Transient)
    assert (raised.trouble, str(raised), dropped) == (trouble, words, [True])


def test_who_may_not_read_is_told_what_to_allow() -> None:
    with pytest.raises(Blocked) as error:
        read(Got(FORBIDDEN))
    assert error.value.remedy == "allow a/ to the agent's access key"


def test_what_is_too_long_is_not_kept_in_memory() -> None:
    def chunks() -> Iterator[bytes]:
        while True:
            yield b"0123456"

    with pytest.raises(Untrusted, match=r"manifest\.json is longer than 10 bytes"):
        read(Got(OK, chunks=chunks()))


def test_a_drip_is_given_up() -> None:
    clock = FakeClock()

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            clock.advance(PATIENCE_S / 2)
            yield b"0"

    with pytest.raises(Transient) as error:
        read(Got(OK, chunks=chunks()), clock)
    assert error.value.trouble is Trouble.STALLED
