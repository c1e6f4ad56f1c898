"""Following the journal: every position once and in order, and no look at the journal that nobody called for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from syncagent.cli.follow import BATCH, LOOK_S, AnotherJournal, Follower
from syncagent.core.confirmation import Confirmation
from syncagent.edges.journal import JournalReader
from syncagent.edges.journal.reading import Mark


class Kept(JournalReader):
    """A journal in memory that counts how often it is read."""

    def __init__(self, count: int = 0) -> None:
        super().__init__("nowhere")
        self.count = count
        self.readings = 0
        self.largest = 0

    def mark(self) -> Mark:
        return (1, self.count, 0), None

    def newest(self) -> int:
        return self.count

    def confirmed(self, *, after: int, limit: int) -> list[Confirmation]:
        self.readings += 1
        last = min(self.count, after + limit)
        self.largest = max(self.largest, last - after)
        return [Confirmation(n, "p", "k", 1, 0, "", "a", 0.0, None) for n in range(after + 1, last + 1)]


class Agent:
    """Answers in turn what it was told to; a number is confirmed first, None is no agent."""

    def __init__(self, kept: Kept, answers: Sequence[int | None]) -> None:
        self._kept = kept
        self._answers: Iterator[int | None] = iter(answers)
        self.asked: list[int] = []

    def __call__(self, after: int) -> int | None:
        self.asked.append(after)
        answer = next(self._answers)
        self._kept.count = max(answer or 0, self._kept.count)
        return answer


def positions(found: Iterator[Confirmation], count: int) -> list[int]:
    return [confirmation.position for confirmation in islice(found, count)]


def test_what_is_there_comes_first_in_batches_and_then_each_new_one() -> None:
    kept = Kept(2 * BATCH + 1)
    agent = Agent(kept, [2 * BATCH + 1, 2 * BATCH + 3])
    follower = Follower(kept, ask_newest=agent, pause=lambda _: None)
    assert positions(follower.after(3), 2 * BATCH) == list(range(4, 2 * BATCH + 4))
    assert kept.largest == BATCH
    assert agent.asked == [2 * BATCH + 1] * 2


def test_the_journal_is_not_read_while_the_agent_has_nothing_new() -> None:
    kept = Kept(1)
    agent = Agent(kept, [1] * 100 + [2])
    found = Follower(kept, ask_newest=agent, pause=lambda _: None).after(1)
    assert positions(found, 1) == [2]
    assert len(agent.asked) == 101
    assert kept.readings == 2


def test_without_an_agent_the_journal_is_read_when_its_files_changed() -> None:
    kept = Kept(1)
    pauses: list[float] = []

    def pause(wait_s: float) -> None:
        pauses.append(wait_s)
        if pauses.count(LOOK_S) == 50:
            kept.count = 3  # a short run of an agent that nobody could ask

    found = Follower(kept, ask_newest=lambda _: None, pause=pause).after(1)
    assert positions(found, 2) == [2, 3]
    assert pauses.count(LOOK_S) == 50
    assert kept.readings == 2


def test_an_agent_that_starts_again_goes_on_where_the_last_one_ended() -> None:
    kept = Kept(1)
    agent = Agent(kept, [None, None, 1, 2, None, 3])
    assert positions(Follower(kept, ask_newest=agent, pause=lambda _: None).after(0), 3) == [1, 2, 3]


def test_without_waiting_it_ends_with_what_is_there() -> None:
    kept = Kept(3)
    follower = Follower(kept, ask_newest=lambda _: pytest.fail("asked"), pause=lambda _: None)
    assert [c.position for c in follower.after(1, waits=False)] == [2, 3]


def test_a_journal_that_ends_before_the_position_is_another_one() -> None:
    kept = Kept(3)
    with pytest.raises(AnotherJournal, match="ends at position 3, before 4"):
        next(Follower(kept, ask_newest=lambda _: None, pause=lambda _: None).after(4))
    with pytest.raises(AnotherJournal, match="ends at position 1, before 3"):
        next(Follower(kept, ask_newest=lambda _: 1, pause=lambda _: None).after(3))
