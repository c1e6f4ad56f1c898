"""A clock that is set while the agent runs: what the status says of it, and what the budget makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fault.field import Field, field_of

DAY_S = 86_400.0


@pytest.fixture
def here(tmp_path: object) -> Iterator[Field]:
    with field_of(str(tmp_path)) as field:
        field.agent.is_jumping = True
        yield field


@pytest.mark.timeout(60)
def test_a_clock_that_is_set_right_is_right_at_once_and_not_with_the_next_answer(here: Field) -> None:
    here.agent.shift_s = 730 * DAY_S
    here.agent.start()
    here.shoot("img.jpg", 1000)
    here.all_confirmed(deadline_s=30)
    assert "ahead" in here.fact("clock")["reason"]
    asked = here.requests()
    here.agent.jump(0.0)
    assert here.fact("clock")["ok"]
    assert here.requests() == asked
    assert here.agent.stop() == 0
