"""Messages from the inbox become rows of the journal, or are set aside with the reason.

One pass takes what lies in the inbox, and gives up what waited too long for its file. A message is removed from the
inbox only after the journal has it, so a kill between the two makes it be read again and known by its digest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncagent.core.board import Board, Fact
from syncagent.core.errors import FileChanged, FileVanished, Refused, Transient
from syncagent.core.messages import Message, digest_of, parse_message
from syncagent.core.model import Facts, State
from syncagent.core.settings import Settings
from syncagent.docks.routing import Destination, Routing
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.inbox import Inbox, Letter, Outbox
from syncagent.edges.journal import FOR_FILE, Ask, Journal

logger = logging.getLogger(__name__)

#: The inbox is looked at this often; who posts also rings.
LOOK_S = 1.0
#: Messages of one transaction.
BATCH = 200
#: A file that is no JSON may still be written, by a program that does not rename: only after so long it is refused.
UNFINISHED_S = 2.0
#: Receipts on their way are looked after this often.
TIDY_S = 60.0
_OPEN_UP = "let the agent's user read and enter it"
_REMEDY = "see generated_data/messages/rejected/; mend the message, or bring its file, and post it again"


@dataclass(frozen=True, slots=True)
class _Taken:
    letter: Letter
    message: Message
    asks: tuple[Ask, ...]


class Postman:
    """See the module. `on_poll` is called when a message asks for a look at the firmware, `on_taken` after any."""

    name = "messages"

    def __init__(
        self,
        *,
        settings: Settings,
        routing: Routing,
        inbox: Inbox,
        journal: Journal,
        outbox: Outbox,
        clock: Clock,
        board: Board,
        on_taken: Callable[[], None],
        on_poll: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._routing = routing
        self._inbox = inbox
        self._journal = journal
        self._outbox = outbox
        self._clock = clock
        self._board = board
        self._on_taken = on_taken
        self._on_poll = on_poll
        self._unfinished: dict[str, tuple[Facts, float]] = {}  # place -> what it was, since when
        self._stuck: dict[str, Facts] = {}  # letters that were dealt with and cannot be moved away
        self._began = self._next_tidy = clock.monotonic()
        self._is_empty = False
        self._expected = 0
        self._unread: dict[str, str] = {}  # place -> why
        self._given_up = 0  # the last message that was given up of those whose file did not come

    def set_settings(self, settings: Settings) -> None:
        """The owner edited what may change in a running agent."""
        self._settings = settings

    def open(self) -> None:
        """Make the directories of the inbox."""
        try:
            self._inbox.open(self._routing.types)
        except (Transient, FileVanished) as error:
            self._board.complain("generated_data/messages", "message", str(error), _OPEN_UP)

    def expect(self) -> None:
        """A letter was dropped just now, perhaps behind the back of a look that is under way."""
        self._expected += 1
        self._is_empty = False

    def is_idle(self) -> bool:
        """The last look found nothing to do."""
        return self._is_empty

    def is_whole(self) -> bool:
        """Whether the last look could read all that is there."""
        return not self._unread

    def pass_once(self, stop: Stop) -> float:
        """Take one batch; seconds until the next look."""
        self._is_empty = False
        expected = self._expected
        taken: list[_Taken] = []
        seen: set[str] = set()
        unread: dict[str, str] = {}
        is_through = True
        for letter in self._inbox.letters(unread):
            if stop.is_set() or len(taken) >= BATCH:
                is_through = False
                break
            seen.add(letter.place)
            if self._stuck.get(letter.place) != letter.facts:
                self._open(letter, taken, unread)
        if taken:
            self._take(taken)
        if not is_through:
            return 0.0
        self._show_unread(unread)
        self._unfinished = {place: entry for place, entry in self._unfinished.items() if place in seen}
        self._stuck = {place: facts for place, facts in self._stuck.items() if place in seen}
        self._give_up()
        if self._clock.monotonic() >= self._next_tidy:
            self._tidy()
            self._next_tidy = self._clock.monotonic() + TIDY_S
        self._is_empty = not taken and not self._unfinished and expected == self._expected
        return 0.0 if taken else LOOK_S

    def _show_unread(self, unread: dict[str, str]) -> None:
        """Say what cannot be read, and that it can be read again."""
        for place in self._unread.keys() - unread.keys():
            self._board.settle_complaint(f"generated_data/{place}", "message")
        for place, why in unread.items():
            self._board.complain(f"generated_data/{place}", "message", why, _OPEN_UP)
        first = next(iter(unread.items()), None)
        reason = f"{len(unread)} cannot be read, generated_data/{first[0]}: {first[1]}" if first else ""
        self._board.set_fact("inbox", Fact(not unread, "unreadable" if unread else "ok", reason))
        self._unread = unread

    # -- one message --------------------------------------------------------------------------------------------------

    def _open(self, letter: Letter, taken: list[_Taken], unread: dict[str, str]) -> None:
        try:
            try:
                message = parse_message(self._inbox.read(letter), letter.type)
            except Refused as error:
                if isinstance(error, FileChanged | FileVanished) or self._put_off(letter):
                    return
                raise
            taken.append(_Taken(letter, message, self._asks_of(message)))
        except Refused as error:
            self._reject(letter, str(error))
        except Transient as error:
            unread[letter.place] = str(error)

    def _put_off(self, letter: Letter) -> bool:
        """Remember what cannot be understood; whether to look again later, because it may still be written."""
        now = self._clock.monotonic()
        facts, since = self._unfinished.get(letter.place, (None, now))
        if facts != letter.facts:
            since = now
        self._unfinished[letter.place] = (letter.facts, since)
        return now - since < UNFINISHED_S

    def _asks_of(self, message: Message) -> tuple[Ask, ...]:
        """What a message asks the journal for. Raises: Refused, Transient(DISK)."""
        return tuple(self._ask_of(message, each) for each in self._routing.destinations(message))

    def _ask_of(self, message: Message, to: Destination) -> Ask:
        # A receipt is an object of its own: its bytes are the message's.
        path = to.path or self._outbox.keep(f"{message.digest.hex()}.json", message.text.encode())
        return Ask(to.address.name, path, to.key, message.text)

    # -- what becomes of it -------------------------------------------------------------------------------------------

    def _take(self, taken: Sequence[_Taken]) -> None:
        new = self._journal.take([(each.message.digest, each.message.type, each.asks) for each in taken])
        for each in taken:
            self._done(each.letter, lambda letter=each.letter: self._inbox.remove(letter))  # type: ignore[misc]
        logger.info("messages taken count=%d new=%d", len(taken), new)
        if any(not each.asks for each in taken):
            self._on_poll()
        self._on_taken()

    def _reject(self, letter: Letter, reason: str) -> None:
        logger.warning("message rejected place=%s reason=%s", letter.place, reason)
        self._board.complain(f"generated_data/{letter.place}", "message", reason, _REMEDY)
        self._done(letter, lambda: self._inbox.reject(letter, reason))

    def _done(self, letter: Letter, move: Callable[[], object]) -> None:
        """Move a letter out of the inbox; one that cannot be moved is not read again."""
        try:
            move()
        except FileVanished:
            pass  # its writer took it back; the journal has it all the same
        except Transient as error:
            self._stuck[letter.place] = letter.facts
            remedy = "let the agent's user write to the directory"
            self._board.complain(f"generated_data/{letter.place}", "message", str(error), remedy)

    def _give_up(self) -> None:
        wait_s = self._settings.system.messages.wait_file_s
        rows = self._journal.overdue(wait_s, after=self._given_up, limit=BATCH)
        # Those that cannot be set aside now come again, when all behind them have had their turn.
        self._given_up = rows[-1].id if len(rows) == BATCH else 0
        # What came while no agent ran was not looked at yet, and has this run's time to be found finished.
        is_new = self._clock.monotonic() - self._began <= wait_s
        for row in rows:
            if is_new and self._may_be_there(row.path):
                continue
            current = self._journal.row(row.id)
            if (current.state, current.reason) != (State.WAITING, FOR_FILE):
                continue  # its file came while those before it were set aside
            reason = f"its file {row.path} did not come, or was not finished, within {wait_s:g} s"
            # Set aside before it is forgotten: a kill between the two sets it aside twice.
            try:
                self._inbox.reject_text(f"{os.path.basename(row.path)}.json", row.message or "", reason)
            except (Transient, FileVanished) as error:
                self._board.complain(row.path, "message", str(error), "make room, or let the agent's user write there")
                continue
            self._journal.give_up(row, "rejected: no file", digest=digest_of(row.message or ""))
            logger.warning("message rejected path=%s reason=%s", row.path, reason)
            self._board.complain(row.path, "message", reason, _REMEDY)

    def _may_be_there(self, path: str) -> bool:
        try:
            return self._routing.is_there(path)
        except Transient:
            return True

    def _tidy(self) -> None:
        """Remove the bytes of receipts that nobody will send any more: the store has them, or had them before."""
        for path in self._outbox.kept():
            rows = self._journal.known_at(path)
            if all(row.state is State.CONFIRMED for row in rows):
                self._outbox.remove(path)
                self._journal.vanished(row.id for row in rows)
