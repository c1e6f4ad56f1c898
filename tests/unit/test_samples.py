"""The plots' memory is bounded, whatever happens."""

from __future__ import annotations

from itertools import pairwise

from syncagent.core.samples import DAY_STEP_S, HOUR_STEP_S, KEPT, History, Sample


def test_the_hour_and_the_day_keep_their_steps_and_no_more() -> None:
    history = History()
    for number in range(100_000):
        history.add(Sample(number * HOUR_STEP_S, number, number, number))
    hour, day = history.hour.all(), history.day.all()
    assert len(hour) == len(day) == KEPT + 1
    assert hour[-1].at - hour[0].at == history.hour.span_s == 3600
    assert day[-1].at - day[0].at == history.day.span_s == 86_400
    assert {b.at - a.at for a, b in pairwise(day)} == {DAY_STEP_S}


def test_what_comes_between_two_steps_is_left_out() -> None:
    history = History()
    for at in (0.0, 3.0, 9.5, 12.0, 19.6):
        history.add(Sample(at, 0, 0, 0))
    assert [sample.at for sample in history.hour.all()] == [0.0, 9.5, 19.6]
    assert [sample.at for sample in history.day.all()] == [0.0]
