"""One carrier's store, and whether it is worth asking.

Owns the gates (of the store, and of each address) and turns every answer of the store into what they let through.
Knows no file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Protocol

from syncagent.core.board import Board, Fact
from syncagent.core.errors import Blocked, Doubtful, Refused, Transient, Trouble
from syncagent.core.places import Places
from syncagent.core.retry import ADDRESSES, DOUBTS_TO_PARK, EVERYBODYS, REFUSED_WAIT_S, SHARED, Gate, Refusals
from syncagent.core.settings import Carrier, MessageFields, SendAddress
from syncagent.core.ticks import Ticks
from syncagent.docks.meter import Meter
from syncagent.docks.naming import corner_key
from syncagent.docks.survey import Survey, SurveyedStore
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal, Row
from syncagent.edges.objects import PutRequest
from syncagent.edges.payload import BytesBody
from syncagent.edges.probing import PROBE_BYTES, PROBE_DIGEST

logger = logging.getLogger(__name__)

#: With nothing to send a worker sleeps until it is rung for; this is how long it trusts the bell.
IDLE_S = 30.0
#: WAITING rows are looked at this often.
WAKE_EVERY_S = 1.0
#: Another worker is finding out what the store can do.
SURVEY_WAIT_S = 0.2
#: A clock that is off by less signs what every store takes (AWS refuses from 15 minutes on).
SKEW_S = 300.0

#: Reasons of rows that wait for the store; they may go at once when it is back.
STORE_REASONS = tuple(trouble.value for trouble in SHARED | EVERYBODYS)
ADDRESS_REASONS = tuple(trouble.value for trouble in ADDRESSES)
REFUSED_REMEDY = "look up what the store says; the carrier's settings, or the bucket's, may ask for what it does not do"


class DockStore(SurveyedStore, Protocol):
    """What a dock needs of an object store beside objects."""

    @property
    def skew_s(self) -> float | None: ...
    @property
    def is_corrected(self) -> bool: ...
    def reach(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ways:
    """What is particular about how versions go: when, in whose words, through whose hands."""

    ticks: Ticks  # of the addresses that send every so many seconds; under the dock's lock
    fields: Mapping[str, MessageFields] = field(default_factory=dict)  # by message type
    handled_dir: str = ""  # what handlers made of files
    held: Callable[[], str] = lambda: ""  # why nothing may be sent, to any store: the battery, the heat
    attached: Callable[[], Mapping[str, str]] = dict  # metadata that devices give every object


class Dock:
    """See the module. Every method may be called from any worker of the carrier."""

    def __init__(
        self,
        *,
        carrier: Carrier,
        addresses: Mapping[str, SendAddress],
        store: DockStore,
        journal: Journal,
        places: Places,
        board: Board,
        clock: Clock,
        meter: Meter,
        ways: Ways,
        on_look_again: Callable[[str], None],
        on_open: Callable[[], None],
    ) -> None:
        self.carrier = carrier
        self.addresses = addresses
        self.store = store
        self.journal = journal
        self.places = places
        self.board = board
        self.clock = clock
        self.meter = meter
        self.ways = ways
        self.on_look_again = on_look_again
        self._on_open = on_open  # rings the workers
        self._survey = Survey(carrier, store, journal)
        self._lock = threading.Lock()
        self._gate = Gate()
        self._address_gates = {name: Gate() for name in addresses}
        self._refusals = {name: Refusals() for name in addresses}
        self._order = list(addresses)
        self._next_wake = 0.0
        self._reconciled: set[int] = set()  # rows whose upload in parts was compared with the store in this run
        self.show()

    def set_carrier(self, carrier: Carrier) -> None:
        """The owner edited what may change in a running agent."""
        self.carrier = carrier
        self.meter.set_carrier(carrier)
        self._survey.set_carrier(carrier)

    # -- may a request go? --------------------------------------------------------------------------------------------

    def permission(self) -> tuple[float, list[str]]:
        """(seconds to wait, addresses that may be sent to).

        With no wait, a permission was taken of the store's gate and of each address's: `unused`, `passed`, `failed`
        or `forgiven` give them back, called by the same thread.
        """
        if self.is_held():
            return IDLE_S, []
        now = self.clock.monotonic()
        with self._lock:
            wait_s = self._gate.wait_s(now, get_ident())
            if wait_s > 0:
                return wait_s, []
            # Every claim begins with another address, so that a busy one does not starve the others.
            self._order.append(self._order.pop(0))
            allowed, waits = [], []
            for name in self._order:
                gate = self._address_gates[name]
                wait_s = gate.wait_s(now, get_ident())
                if wait_s == 0:
                    allowed.append(name)
                    if not gate.is_open:
                        break  # one request, to find out
                else:
                    waits.append(wait_s)
            if not allowed:
                self._gate.unused(get_ident())
                return min(waits, default=IDLE_S), []
            return 0.0, allowed

    def until(self) -> Mapping[str, float]:
        """Of the addresses that send every so many seconds: since when a version must be READY to go now."""
        with self._lock:
            return dict(self.ways.ticks.until(self.clock.monotonic()))

    def ticks_in_s(self) -> float:
        """Seconds until an address sends what it gathered; at most as long as an idle worker sleeps."""
        with self._lock:
            wait_s = self.ways.ticks.next_in_s(self.clock.monotonic())
        return IDLE_S if wait_s is None else wait_s

    def fields_of(self, address: SendAddress) -> MessageFields:
        """Which fields of the address's messages name and date them."""
        return self.ways.fields.get(address.message_type, MessageFields())

    def asks_in_s(self) -> float:
        """Seconds until an address that is refused may be asked again; at most as long as an idle worker sleeps."""
        now = self.clock.monotonic()
        with self._lock:
            waits = [gate.asks_in_s(now) for gate in self._address_gates.values()]
        return min((wait_s for wait_s in waits if wait_s is not None), default=IDLE_S)

    def askable(self) -> list[str]:
        """Addresses that a request may go to now. Takes no permission."""
        now = self.clock.monotonic()
        with self._lock:
            return [name for name, gate in self._address_gates.items() if gate.is_askable(now)]

    def is_away(self) -> bool:
        """Whether one request is let through at a time, to find out if the store is back."""
        with self._lock:
            return not self._gate.is_open

    def reached(self, allowed: list[str]) -> bool:
        """While the link is down: whether the store can be connected to again. Costs no request."""
        with self._lock:
            trouble = self._gate.trouble
        if trouble not in (Trouble.LINK, Trouble.STALLED):
            return True
        try:
            self.store.reach()
        except (Transient, Blocked) as error:
            self.unused(allowed, but=allowed[0])
            self.failed(allowed[0], error)
            return False
        return True

    def surveyed(self, row: Row) -> float:
        """Find out what must be known of the store before the row may go; seconds to wait when a colleague is at it.

        Raises: Transient, Blocked.
        """
        address, by_parts = self.addresses[row.address], self.goes_by_parts(row)
        if self._survey.is_done(address, by_parts=by_parts, key=row.cloud_path):
            return 0.0
        if not self._survey.begin():
            return SURVEY_WAIT_S
        try:
            self._survey.find_out(address, by_parts=by_parts, key=row.cloud_path)
        finally:
            self._survey.end()
        self.show()
        return 0.0

    def goes_by_parts(self, row: Row, size_bytes: int | None = None) -> bool:
        """Whether the version is sent as a multipart upload: large ones are, unless the store is known to have none.

        `size_bytes`: of what is sent, where a handler made it.
        """
        size_bytes = row.facts.size_bytes if size_bytes is None else size_bytes
        is_large = size_bytes > self.carrier.upload.multipart_bytes
        return is_large and not row.is_unsettled and self._survey.has_multipart(size_bytes)

    def check_single(self, row: Row, refusal: BaseException | None) -> None:
        """The store refused to begin an upload in parts. Raises: that, or Refused, unless a single request may do."""
        if refusal is not None and self._survey.offers_multipart(refusal):
            raise refusal
        if self._survey.has_multipart(row.facts.size_bytes):
            raise Refused("too large for one request, and the store takes no uploads in parts")

    def is_held(self) -> bool:
        """Whether nothing may be sent for now, to save power. Who decides that says so, and rings when it is over."""
        return self.ways.held() != ""

    def is_paused(self) -> bool:
        """Whether the month's budget is spent, so that only what is allowed may go."""
        self.meter.account()
        paused = self.meter.is_spent()
        fact = Fact(True, "paused", self.meter.words()) if paused else Fact(True, "ok")
        self.board.set_fact(f"uploader/{self.carrier.name}", fact)
        return paused

    def accepts(self) -> Callable[[str], bool]:
        """Which paths may go while the budget is spent."""
        return self.meter.allows

    def is_conditional(self) -> bool:
        """Whether the store is known to honour `If-None-Match`."""
        return self._survey.is_conditional()

    def unused(self, allowed: list[str], *, but: str | None = None) -> None:
        """Give back permissions that were not needed."""
        with self._lock:
            if but is None:
                self._gate.unused(get_ident())
            for name in allowed:
                if name != but:
                    self._address_gates[name].unused(get_ident())

    def passed(self, address: str, *, row_id: int | None = None) -> None:
        """The store took something: of a row the whole, if that is named."""
        now = self.clock.monotonic()
        with self._lock:
            if row_id is not None:
                self._refusals[address].passed(row_id)
            opened = self._gate.passed(now, get_ident())
            gate = self._address_gates[address]
            was_refused = gate.trouble is not None
            opened_address = gate.passed(now, get_ident())
        self.meter.account()
        self._survey.keep()
        if opened or opened_address:
            logger.info("store back carrier=%s", self.carrier.name)
            self.journal.wake(
                (*STORE_REASONS, *ADDRESS_REASONS) if was_refused else STORE_REASONS, tuple(self.addresses)
            )
            self._on_open()
        if opened or opened_address or self.store.is_corrected:
            self.show()

    def refused(self, row: Row, error: Blocked | Doubtful) -> tuple[Blocked | Refused, float]:
        """The store refused the row, for its own sake or like any other: (what that is, how long it waits at most).

        While others pass it is the row's own trouble. Until then it may be everybody's, and is asked for like that; of
        a row that stays alone with it, a key of our own tells.
        """
        is_everybodys = False
        with self._lock:
            refusals, gate = self._refusals[row.address], self._address_gates[row.address]
            times = refusals.refused(row.id)
            must_ask = gate.is_open and refusals.is_open_question(row.id)
        if must_ask:
            passes = self._takes_another()
            is_everybodys = passes is False
            if passes:
                times = 1
                with self._lock:
                    refusals.answered(row.id)
        is_its_own = times > 0 and gate.is_open
        if isinstance(error, Doubtful):
            if is_its_own and times >= DOUBTS_TO_PARK:
                self.forgiven(row.address)
                return error, 0.0
            error = Blocked(str(error), trouble=Trouble.REFUSED, remedy=REFUSED_REMEDY)
        if is_its_own:
            self.forgiven(row.address)
            return error, self.carrier.upload.retry_max_s
        self.failed(row.address, error, row_id=row.id, is_everybodys=is_everybodys)
        return error, min(self.carrier.upload.retry_max_s, REFUSED_WAIT_S)

    def _takes_another(self) -> bool | None:
        """Whether the store takes an object under a key of our own; None when that cannot be told now."""
        key = corner_key(self.carrier, "probe")
        request = PutRequest(key, PROBE_DIGEST, {}, "text/plain", None, only_if_absent=False)
        try:
            self.store.put(request, BytesBody(PROBE_BYTES))
        except (Blocked, Doubtful) as error:
            is_refused = isinstance(error, Doubtful) or error.trouble is Trouble.FORBIDDEN
            return False if is_refused else None
        except (Transient, Refused):
            return None
        return True

    def failed(
        self,
        address: str,
        error: Transient | Blocked,
        *,
        row_id: int | None = None,
        is_everybodys: bool = False,
    ) -> None:
        """A request failed in a way that may concern more than its file; `row_id` if perhaps only that one."""
        now = self.clock.monotonic()
        with self._lock:
            gate = self._address_gates[address] if error.trouble in ADDRESSES else self._gate
            # The request had the permission of both.
            (self._address_gates[address] if gate is self._gate else self._gate).unused(get_ident())
            closed = gate.failed(error, now, get_ident(), row_id=row_id, is_everybodys=is_everybodys)
        self.meter.account()
        if closed:
            logger.warning("store unavailable carrier=%s trouble=%s reason=%s", self.carrier.name, error.trouble, error)
        self.show()

    def forgiven(self, address: str) -> None:
        """The request ended for a reason of the file's own; nothing was learnt of the store."""
        with self._lock:
            self._gate.unused(get_ident())
            self._address_gates[address].unused(get_ident())

    # -- what waits ---------------------------------------------------------------------------------------------------

    def wake(self) -> bool:
        """Make due rows ready; while the store is away, one of those that wait for it. True when some became ready."""
        now = self.clock.monotonic()
        with self._lock:
            if now < self._next_wake:
                return False
            self._next_wake = now + WAKE_EVERY_S
            is_away = not self._gate.is_open or any(not gate.is_open for gate in self._address_gates.values())
        # Of our own addresses: whether another carrier's store is worth asking, its own dock knows.
        woken = self.journal.wake_due(tuple(self.addresses))
        if is_away and not woken:
            woken = self.journal.wake((*STORE_REASONS, *ADDRESS_REASONS), tuple(self.addresses), limit=1)
        return woken > 0

    def is_reconciled(self, row: Row) -> bool:
        """Whether a multipart upload has been compared with the store in this run, as far as it can be."""
        with self._lock:
            return row.id in self._reconciled or self.store.profile.list_parts is False

    def reconciled(self, row: Row) -> None:
        """The store said which parts it has."""
        with self._lock:
            self._reconciled.add(row.id)

    def upload_ended(self, row_id: int) -> None:
        """The multipart upload of a row is aborted, or unknown to the store."""
        self.journal.upload_ended(row_id)
        self.forget(row_id)

    def forget(self, row_id: int) -> None:
        """The row needs no upload any more."""
        with self._lock:
            self._reconciled.discard(row_id)

    # -- what people see ----------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Put the gates on the board. Facts of several carriers are merged by the status builder."""
        with self._lock:
            gates = {"": self._gate, **self._address_gates}
            facts = {
                name: Fact(False, str(gate.trouble), gate.reason, {"remedy": gate.remedy})
                for name, gate in gates.items()
                if gate.trouble is not None
            }
        name = self.carrier.name
        whole = facts.pop("", None)
        link = whole if whole and whole.state in (Trouble.LINK, Trouble.STALLED) else None
        self.board.set_fact(f"link/{name}", link or Fact(True, "ok"))
        self.board.set_fact(f"store/{name}", whole if whole and not link else self._addresses_fact(facts))
        self.board.set_fact(f"clock/{name}", self._clock_fact())

    def _addresses_fact(self, refused: Mapping[str, Fact]) -> Fact:
        """Of the store, when only some of its addresses are refused."""
        for address, fact in refused.items():
            return Fact(len(refused) < len(self.addresses), fact.state, f"{address}: {fact.reason}", fact.more)
        return Fact(True, "ok", self._survey.remark())

    def _clock_fact(self) -> Fact:
        skew_s = self.store.skew_s
        if skew_s is None:
            return Fact(True, "unknown")
        more = {"skew_s": round(skew_s, 1)}
        if abs(skew_s) < SKEW_S:
            return Fact(True, "ok", "", more)
        side = "behind" if skew_s > 0 else "ahead of"
        return Fact(False, "wrong", f"our clock is {abs(skew_s):.0f} s {side} the store's; signing with its time", more)
