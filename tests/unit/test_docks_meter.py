"""What a carrier has spent: counted once, renewed with its month, and never by a clock that is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from syncagent.core.budget import Spent
from syncagent.core.settings import Carrier, Metered, Upload
from syncagent.docks import meter as meter_module
from syncagent.docks.meter import Meter
from syncagent.edges.journal import Journal
from tests.fakes import FakeClock

BUDGET = 1_000
DAY_S = 86_400.0


class World:
    """A meter on a metered link. `store_time` is what the store said last, carried on; None before its first answer."""

    def __init__(self, journal: Journal, clock: FakeClock) -> None:
        self.journal = journal
        self.clock = clock
        self.total = 0
        self._off: timedelta | None = timedelta(0)
        self.meter = self.restart()

    def restart(self, *, off: timedelta | None = timedelta(0)) -> Meter:
        """Another run: `off` is the store's time minus the wall clock's, None while the store has not answered."""
        self.total, self._off = 0, off
        carrier = Carrier(
            name="c", upload=Upload(metered=Metered(interfaces=("*",), budget_bytes_per_month=BUDGET, allow=()))
        )
        self.meter = Meter(
            carrier,
            journal=self.journal,
            clock=self.clock,
            totals=lambda: (self.total, 0),
            store_time=lambda: None if self._off is None else self.clock.now() + self._off,
        )
        self.meter.account()
        return self.meter

    def answers(self, off: timedelta = timedelta(0)) -> None:
        """The store says what time it is."""
        self._off = off

    def spend(self, count: int) -> None:
        self.clock.advance(1)
        self.total += count
        self.meter.account(is_last=True)

    def is_spent(self) -> bool:
        self.clock.advance(1)
        self.meter.account()
        return self.meter.is_spent()


@pytest.fixture
def build(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], World]]:
    monkeypatch.setattr(meter_module, "default_interface", lambda: "wwan0")
    monkeypatch.setattr(meter_module, "is_flagged_metered", lambda interface: False)
    journals: list[Journal] = []

    def make() -> World:
        journals.append(Journal(str(tmp_path), clock))
        return World(journals[-1], clock)

    yield make
    for journal in journals:
        journal.close()


@pytest.fixture
def world(build: Callable[[], World]) -> World:
    return build()


def test_a_spent_budget_is_renewed_with_the_month_although_nothing_goes_over_the_wire(world: World) -> None:
    world.spend(BUDGET)
    assert world.is_spent()
    world.clock.advance(40 * DAY_S)
    assert not world.is_spent()
    spent = world.meter.spent()
    assert (spent.day_bytes, spent.month_bytes, spent.metered_month_bytes) == (0, 0, 0)


def test_what_went_today_is_nothing_on_the_next_day(world: World) -> None:
    world.spend(10)
    world.clock.advance(DAY_S)
    spent = world.meter.spent()
    assert (spent.day_bytes, spent.month_bytes) == (0, 10)


@pytest.mark.parametrize("is_known", [True, False], ids=["store answered", "store not asked yet"])
def test_a_spent_budget_is_renewed_after_a_restart_in_another_month(world: World, is_known: bool) -> None:
    world.spend(BUDGET)
    world.clock.advance(40 * DAY_S)
    world.restart(off=timedelta(0) if is_known else None)
    assert not world.is_spent()


@pytest.mark.parametrize("off_days", [-730, 730])
def test_a_wrong_clock_neither_renews_a_budget_for_longer_than_until_the_store_says_so_nor_blocks_the_next_month(
    world: World, off_days: int
) -> None:
    world.spend(BUDGET)
    world.clock.jump(off_days * DAY_S)
    world.restart(off=None)
    world.spend(100)  # what it costs to ask
    world.answers(timedelta(days=-off_days))
    assert world.is_spent()
    assert world.meter.spent().month_bytes == BUDGET + 100
    world.clock.advance(40 * DAY_S)
    assert not world.is_spent()


def test_bytes_that_went_before_the_first_answer_of_all_count_for_its_month(build: Callable[[], World]) -> None:
    world = build()
    world.clock.jump(730 * DAY_S)
    world.restart(off=None)
    world.spend(100)
    world.answers(timedelta(days=-730))
    world.spend(BUDGET)
    assert world.meter.spent().month_bytes == BUDGET + 100
    assert world.is_spent()


def test_a_clock_that_is_ahead_of_a_store_that_never_answers_gives_one_more_budget_and_no_second(world: World) -> None:
    world.spend(BUDGET)
    world.clock.jump(730 * DAY_S)
    world.restart(off=None)
    assert not world.is_spent()
    world.spend(BUDGET)
    assert world.is_spent()


def test_a_day_that_a_wrong_clock_left_behind_is_corrected_by_the_store(world: World) -> None:
    world.spend(BUDGET)
    world.answers(timedelta(days=730))  # a store whose clock is wrong
    world.spend(BUDGET)
    world.answers()
    assert world.is_spent()
    world.clock.advance(40 * DAY_S)
    assert not world.is_spent()


@pytest.mark.parametrize("count", [1, 9])
def test_a_kill_forgets_a_hundredth_of_the_budget_at_most(world: World, count: int) -> None:
    for _ in range(BUDGET // count):
        world.clock.advance(0.1)  # faster than traffic is counted without a budget
        world.total += count
        world.meter.account()
    world.restart()
    assert world.meter.spent().month_bytes >= BUDGET // count * count - BUDGET // 100 - count


def test_a_spent_budget_holds_before_the_link_was_looked_at(world: World) -> None:
    world.spend(BUDGET)
    carrier = Carrier(name="c", upload=Upload(metered=Metered(interfaces=("*",), budget_bytes_per_month=BUDGET)))
    meter = Meter(carrier, journal=world.journal, clock=world.clock, totals=lambda: (0, 0), store_time=world.clock.now)
    assert meter.is_spent()


def test_without_a_budget_the_count_is_not_written_after_every_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.meter.set_carrier(Carrier(name="c"))
    notes: list[str] = []
    monkeypatch.setattr(world.journal, "set_note", lambda name, value: notes.append(value))
    for _ in range(100):
        world.clock.advance(1)
        world.total += 30_000
        world.meter.account()
    assert notes == []
    world.clock.advance(400)
    world.total += 1
    world.meter.account()
    assert len(notes) == 1


@pytest.mark.parametrize("default", ["eth0", None])
@pytest.mark.parametrize(
    ("endpoint_url", "interfaces", "is_spent"),
    [
        ("http://127.0.0.1:9000", ("lo",), True),
        ("http://localhost:9000", ("lo",), True),
        ("http://[::1]:9000", ("*",), True),
        ("http://127.0.0.1:9000", ("wwan0",), False),
        ("https://s3.example.org", ("lo",), False),
        (None, ("lo",), False),
    ],
)
def test_a_store_on_this_machine_is_reached_by_its_loopback_whatever_the_default_route(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    default: str | None,
    endpoint_url: str | None,
    interfaces: tuple[str, ...],
    is_spent: bool,
) -> None:
    monkeypatch.setattr(meter_module, "default_interface", lambda: default)
    monkeypatch.setattr(meter_module, "is_flagged_metered", lambda interface: False)
    metered = Metered(interfaces=interfaces, budget_bytes_per_month=BUDGET, allow=())
    carrier = Carrier(name="c", endpoint_url=endpoint_url, upload=Upload(metered=metered))
    with closing(Journal(str(tmp_path), clock)) as journal:
        meter = Meter(carrier, journal=journal, clock=clock, totals=lambda: (BUDGET, 0), store_time=clock.now)
        meter.account(is_last=True)
        assert meter.is_spent() is is_spent


def test_what_was_spent_is_read_back_as_it_was_written() -> None:
    for spent in (Spent(), Spent("", 3, 3, 0), Spent("2025-06-01", 1, 2, 3)):
        assert Spent.from_text(spent.to_text()) == spent
    assert Spent.from_text("nonsense") == Spent.from_text(None) == Spent()


def test_the_limit_follows_the_stores_time_of_day(build: Callable[[], World]) -> None:
    moment = datetime(2025, 6, 1, 12, tzinfo=UTC)
    world = build()
    window = f"{moment.astimezone():%H}:00-{moment.astimezone():%H}:30"
    world.meter.set_carrier(Carrier(name="c", upload=Upload(timetable={window: 7})))
    assert world.meter.limit() == 7
    world.answers(timedelta(hours=3))
    assert world.meter.limit() is None


def test_workers_that_count_at_the_same_time_count_each_byte_once(world: World) -> None:
    totals = iter([100, *[150] * 5])
    others: list[threading.Thread] = []

    def total_that_is_old_when_it_is_used() -> tuple[int, int]:
        total = next(totals)
        if not others:
            others.append(threading.Thread(target=lambda: world.meter.account(is_last=True)))
            others[0].start()
            others[0].join(0.2)  # it is done by then, or it waits for us
        return total, 0

    world.meter._totals = total_that_is_old_when_it_is_used
    world.meter.account(is_last=True)
    others[0].join(10)
    world.meter.account(is_last=True)
    assert world.meter.spent().month_bytes == 150


def test_what_the_agent_says_of_itself_is_counted_and_costs_the_card_no_write(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, total, writes = Journal(str(tmp_path), clock), 0, []
    monkeypatch.setattr(journal, "set_note", lambda *note: writes.append(note))
    meter = Meter(
        Carrier(name="c"), journal=journal, clock=clock, totals=lambda: (total, 0), store_time=lambda: clock.now()
    )
    for _ in range(20):
        clock.advance(900)
        with meter.aside():
            total += 4_000
            clock.advance(1)
            assert meter.spent().month_bytes == total, "also while it is on its way"
        clock.advance(900)
        meter.account()
    assert writes == []
    clock.advance(1)
    total += 1  # a file
    meter.account()
    assert writes[-1][1].split()[2] == str(total)
    with meter.aside():
        total += meter_module.KEEP_BYTES
    assert writes[-1][1].split()[2] == str(total), "much of it is remembered"
    journal.close()
