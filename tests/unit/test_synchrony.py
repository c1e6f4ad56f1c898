"""Whether the clock is synchronised is asked of the kernel, and nothing is set."""

from __future__ import annotations

import ctypes
import os
import time

import pytest

from syncagent.edges.synchrony import is_synchronised


class Kernel:
    """Answers adjtimex with one value; what it was asked must change nothing."""

    def __init__(self, answer: int) -> None:
        self.answer = answer

    def adjtimex(self, buffer: ctypes.Array[ctypes.c_char]) -> int:
        assert not any(buffer.raw), "a bit of `modes` would set the clock"
        return self.answer


@pytest.mark.parametrize(("answer", "says"), [(0, True), (1, True), (4, True), (5, False), (-1, False)])
def test_the_kernels_word_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str], answer: int, says: bool
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel(answer))
    assert is_synchronised(mark=os.path.join(tmp_path, "missing")) is says


def test_where_the_kernel_may_not_be_asked_the_mark_of_timesyncd_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    mark = os.path.join(tmp_path, "synchronized")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel(-1))
    assert is_synchronised(mark=mark) is False
    with open(mark, "wb"):
        assert is_synchronised(mark=mark) is True
    # The kernel's own no is worth more than an old mark.
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel(5))
    assert is_synchronised(mark=mark) is False


def test_asking_leaves_the_clock_as_it_is() -> None:
    before_s = time.time() - time.monotonic()
    assert is_synchronised() in (True, False)
    assert abs((time.time() - time.monotonic()) - before_s) < 1
