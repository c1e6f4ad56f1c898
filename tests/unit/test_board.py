"""The board keeps the last word of each worker, and no more of anything than a status page can show."""

from __future__ import annotations

from syncagent.core.board import MAX_COMPLAINTS, Board, Fact, Flight, Furthest
from tests.fakes import FakeClock


def test_silence_is_counted_from_the_last_beat_by_the_monotonic_clock(clock: FakeClock) -> None:
    board = Board(clock.monotonic)
    board.beat("intake")
    clock.advance(5)
    clock.jump(1e8)
    board.beat("upload")
    clock.advance(2)
    assert board.silences() == {"intake": 7, "upload": 2}


def test_bytes_that_arrive_are_progress_of_their_worker_and_a_repeated_figure_is_not(clock: FakeClock) -> None:
    board = Board(clock.monotonic)
    board.beat("upload")
    board.fly("upload", Flight("f", "a", 100, 0))
    clock.advance(1_000)
    board.move_flight("upload", 10)
    assert board.silences() == {"upload": 0}
    clock.advance(1_000)
    board.move_flight("upload", 10)
    assert board.silences() == {"upload": 1_000}
    board.move_flight("stranger", 10)
    assert board.flights() == [Flight("f", "a", 100, 10)]
    board.fly("upload", None)
    board.fly("upload", None)
    assert board.flights() == []


def test_the_newest_complaint_of_a_kind_about_a_path_is_kept_and_can_be_settled(clock: FakeClock) -> None:
    board = Board(clock.monotonic)
    board.complain("a", "upload", "first")
    board.complain("a", "watch", "other")
    board.complain("a", "upload", "second", "do this")
    assert [(c.what, c.reason, c.remedy) for c in board.complaints()] == [
        ("watch", "other", ""),
        ("upload", "second", "do this"),
    ]
    board.settle_complaint("a", "upload")
    board.settle_complaint("b", "upload")
    assert [c.what for c in board.complaints()] == ["watch"]


def test_complaints_are_bounded(clock: FakeClock) -> None:
    board = Board(clock.monotonic)
    for number in range(1_000):
        board.complain(str(number), "upload", "x")
    assert [c.path for c in board.complaints()] == [str(n) for n in range(1_000 - MAX_COMPLAINTS, 1_000)]


def test_facts_and_counts_are_read_as_copies(clock: FakeClock) -> None:
    board = Board(clock.monotonic)
    assert board.fact("link") is None
    board.set_fact("link", Fact(True, "ok"))
    board.facts().clear()
    assert board.fact("link") == Fact(True, "ok")
    board.add("sent_files")
    board.add("sent_bytes", 10)
    assert (board.count("sent_files"), board.count("sent_bytes"), board.count("none")) == (1, 10, 0)
    assert Fact(False, "down", "why", {"since_s": 3}).to_json() == {
        "ok": False,
        "state": "down",
        "reason": "why",
        "since_s": 3,
    }


def test_a_file_that_is_sent_again_gets_no_further_before_it_gets_further_than_ever() -> None:
    furthest = Furthest()
    figures = [furthest.bytes_of([Flight("f", "a", 100, sent)]) for sent in (0, 60, 100, 0, 100, 30)]
    assert figures == [0, 60, 100, 100, 100, 100]
    assert furthest.bytes_of([Flight("f", "b", 100, 10), Flight("g", "a", 100, 5)]) == 115
    assert furthest.bytes_of([]) == 115
    assert furthest.bytes_of([Flight("h", "a", 100, read_bytes=40)]) == 155
    assert furthest.bytes_of([Flight("h", "a", 100, 1, read_bytes=0)]) == 156
