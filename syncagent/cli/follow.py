"""syncagent follow: one line of JSON for each confirmed version, for programs that must know."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import click

from syncagent.cli.context import Context, fail, say
from syncagent.core.confirmation import Confirmation, announcement
from syncagent.core.errors import JournalBroken, Stopping
from syncagent.edges.clock import Stop
from syncagent.edges.control import ask
from syncagent.edges.journal import JournalReader

#: Confirmed versions read at once.
BATCH = 500
#: How long the agent is asked to hold back its answer, and how long that answer is waited for.
WAIT_S, ANSWER_S = 25.0, 35.0
#: Without an agent: how often one is looked for.
LOOK_S = 0.5
#: The least between two questions, so that a burst is taken in batches and costs the agent no more than this.
REST_S = 0.05


class AnotherJournal(Exception):
    """The journal is behind what was already seen of it: it is not the same one any more."""


class Follower:
    """Confirmed versions after a position, each once and in order, for as long as they are asked for.

    `ask_newest` asks the agent for a position beyond the one given, and None means that none answers.
    """

    def __init__(
        self, reader: JournalReader, *, ask_newest: Callable[[int], int | None], pause: Callable[[float], object]
    ) -> None:
        self._reader = reader
        self._ask_newest = ask_newest
        self._pause = pause

    def after(self, position: int, *, waits: bool = True) -> Iterator[Confirmation]:
        """Raises: JournalBroken, AnotherJournal."""
        _compare(self._reader.newest() or 0, position)
        while True:
            mark = self._reader.mark()
            while batch := self._reader.confirmed(after=position, limit=BATCH):
                for confirmation in batch:
                    position = confirmation.position
                    yield confirmation
            if not waits:
                return
            while not self._has_news(position):
                # No agent runs: one may have come and gone, and then the files do not look as they did.
                self._pause(LOOK_S)
                if self._reader.mark() != mark:
                    break

    def _has_news(self, position: int) -> bool:
        """Wait for the agent's word that there is more; False when none answers."""
        newest: int | None = position
        while newest == position:
            self._pause(REST_S)
            newest = self._ask_newest(position)
        if newest is not None:
            _compare(newest, position)
        return newest is not None


def _compare(newest: int, position: int) -> None:
    if newest < position:
        raise AnotherJournal(f"the journal ends at position {newest}, before {position}")


def _ask_newest(state_dir: str, position: int) -> int | None:
    answer = ask(state_dir, "position", timeout_s=ANSWER_S, after=position, wait_s=WAIT_S)
    newest = answer.get("position") if isinstance(answer, dict) else None
    return newest if isinstance(newest, int) else None


@click.command()
@click.option(
    "--from",
    "position",
    type=click.IntRange(0, 2**63 - 1),
    metavar="POSITION",
    help="Begin after this position; 0 is the very beginning. Without it, only what is confirmed from now on.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after N lines.")
@click.option("--no-wait", is_flag=True, help="End when there is nothing more now.")
@click.pass_obj
def follow(context: Context, position: int | None, limit: int | None, no_wait: bool) -> None:
    """Print a line of JSON for each confirmed version, in the order of their positions.

    Goes on until Ctrl-C or SIGTERM, or until nobody reads the lines any more. Whoever remembers the last position that
    they dealt with, and begins there, misses no version and gets none twice.
    """
    reader = JournalReader(context.state_dir)
    follower = Follower(reader, ask_newest=lambda after: _ask_newest(context.state_dir, after), pause=Stop().wait)
    try:
        _end_by_signals()
        newest = reader.newest()
        if newest is None:
            say(f"there is no journal in {context.state_dir} yet")
        if position is None:
            position = newest or 0
            say(f"after position {position}")
        for number, confirmation in enumerate(follower.after(position, waits=not no_wait), start=1):
            _write(announcement(confirmation).encode() + b"\n")
            if number == limit:
                break
    except (Stopping, BrokenPipeError):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the end is on its way
    except JournalBroken as error:
        fail(str(error))
    except AnotherJournal as error:
        fail(f"{error}, so it is not the one that was followed; `--from 0` begins with the new one")


def _write(line: bytes) -> None:
    """Straight to the descriptor: a line that fits into a pipe's atomic write is there whole or not at all."""
    while line:
        try:
            line = line[os.write(sys.stdout.fileno(), line) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(f"cannot write the next line: {error.strerror}")


def _end_by_signals() -> None:
    """SIGINT and SIGTERM end whatever this program waits for, and so does the reader's end of the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    main = threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # nothing but errors and hang-ups
        poll.poll()
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=watch, name="pipe", daemon=True).start()


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    raise Stopping
