"""Dates do not end in 2038, whatever the width of the machine's numbers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.keys import time_of
from syncagent.core.messages import time_in
from syncagent.core.moments import moment_of
from syncagent.core.settings import MessageFields
from syncagent.docks.losses import _time
from syncagent.edges.dialing import _moment

IN_2050 = 2_524_608_000


@given(st.datetimes(timezones=st.just(UTC)))
def test_it_is_the_inverse_of_timestamp(moment: datetime) -> None:
    assert moment_of(int(moment.replace(microsecond=0).timestamp())) == moment.replace(microsecond=0)


@pytest.mark.parametrize("seconds", [1e30, -1e30, 253_402_300_800, float("inf"), float("nan")])
def test_what_no_calendar_has_is_an_error_that_its_callers_know(seconds: float) -> None:
    with pytest.raises((OverflowError, ValueError)):
        moment_of(seconds)


def test_a_file_a_message_a_loss_and_a_certificate_may_be_of_2050_and_of_1900() -> None:
    assert time_of(IN_2050 * 10**9) == datetime(2050, 1, 1, tzinfo=UTC)
    assert time_of(-2_208_988_800 * 10**9) == datetime(1900, 1, 1, tzinfo=UTC)
    assert time_in({"time": IN_2050}, MessageFields(time_field="time")) == datetime(2050, 1, 1, tzinfo=UTC)
    assert _time(IN_2050) == "2050-01-01T00:00:00Z"
    assert _moment("Jan  1 00:00:00 2050 GMT") == datetime(2050, 1, 1, tzinfo=UTC)


def test_a_certificates_date_that_cannot_be_read_holds_never() -> None:
    assert _moment("") == _moment("Jan 99 00:00:00 2050 GMT") == datetime.min.replace(tzinfo=UTC)
