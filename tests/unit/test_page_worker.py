"""The page's worker: samples go on whether there is a port or not, and a taken one is a warning until it is free."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from syncagent.core.board import Board
from syncagent.core.samples import HOUR_STEP_S, History
from syncagent.workers.page import AGAIN_S, FACT, Page
from tests.fakes import FakeClock, FakeStop


class Port:
    """A port that somebody else may hold."""

    listen = "127.0.0.1:8384"

    def __init__(self) -> None:
        self.is_taken = True
        self.is_open = False
        self.tries = 0

    def open(self) -> None:
        self.tries += 1
        if self.is_taken:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.is_open = True


def test_a_taken_port_is_one_warning_and_is_tried_again_now_and_then(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "syncagent.workers.page")
    port, history, board, stop = Port(), History(), Board(clock.monotonic), FakeStop(clock)
    page = Page(
        port,
        history,
        unsent_files=lambda: 3,
        sent_files=lambda: 2,
        wire_bytes=lambda: 1,
        board=board,
        clock=clock,
    )

    def run(passes: int) -> None:
        for _ in range(passes):
            clock.advance(page.pass_once(stop))

    run(30)
    assert port.tries == 30 * HOUR_STEP_S / AGAIN_S
    fact = board.fact(FACT)
    assert fact is not None
    assert fact.reason.startswith("cannot listen on 127.0.0.1:8384: Address already in use")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    port.is_taken = False
    run(30)
    assert port.is_open
    assert board.fact(FACT) is None
    assert caplog.records[-1].getMessage() == "page listen=127.0.0.1:8384"
    assert len(history.hour.all()) == 60
    assert (history.hour.all()[0].unsent_files, history.hour.all()[0].wire_bytes) == (3, 1)
