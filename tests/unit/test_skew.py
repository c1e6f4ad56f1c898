"""When our clock is wrong, what is signed instead, and when a refusal may be asked again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from syncagent.core.skew import (
    RELEASED_AT,
    Anchor,
    correct,
    is_doubtful,
    is_valid_at,
)
from syncagent.edges.signing import StoreClock
from tests.fakes import FakeClock

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


def dated(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def clock_of(fake: FakeClock) -> StoreClock:
    return StoreClock(fake.now, monotonic=fake.monotonic)


@pytest.mark.parametrize("off_s", [-299, 0, 299])
def test_a_clock_that_is_right_within_five_minutes_is_left_alone(off_s: float) -> None:
    assert correct(None, Anchor(NOON, 5.0), wall=NOON + timedelta(seconds=off_s)) is None


@pytest.mark.parametrize("off_s", [-(56 * 365 * 86400), -301, 301, 2 * 365 * 86400])
def test_a_wrong_clock_is_corrected_to_the_stores_time(off_s: float) -> None:
    seen = Anchor(NOON, 5.0)
    assert correct(None, seen, wall=NOON + timedelta(seconds=off_s)) == seen
    assert seen.at(65.0) == NOON + timedelta(seconds=60)


def test_a_correction_is_kept_while_it_fits_and_replaced_once_it_does_not() -> None:
    wrong = NOON - timedelta(days=1)
    first = Anchor(NOON, 0.0)
    slow = Anchor(NOON + timedelta(seconds=50), 90.0)  # an answer that was 40 s on its way
    assert correct(first, slow, wall=wrong) is first
    drifted = Anchor(NOON + timedelta(seconds=200), 90.0)
    assert correct(first, drifted, wall=wrong) is drifted


def test_a_correction_goes_when_the_wall_clock_is_right_again() -> None:
    held = Anchor(NOON, 0.0)
    seen = Anchor(NOON + timedelta(seconds=10), 10.0)
    assert correct(held, seen, wall=seen.store_time + timedelta(seconds=200)) is held
    assert correct(held, seen, wall=seen.store_time + timedelta(seconds=59)) is None


def test_before_the_store_told_its_time_a_real_time_clock_lifts_what_is_signed() -> None:
    fake = FakeClock(datetime(1970, 1, 1, tzinfo=UTC))
    least: datetime | None = NOON - timedelta(seconds=40)
    clock = StoreClock(fake.now, monotonic=fake.monotonic, floor=lambda: least)
    assert clock.now() == least, "the first request is signed with a time that the store takes"
    assert clock.note_date(dated(NOON)) == 40.0
    assert clock.is_corrected
    assert clock.now() == NOON, "then the store knows better"
    assert clock.skew_s == (NOON - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(), "our clock is still wrong"


@pytest.mark.parametrize("least", [None, NOON - timedelta(days=400)])
def test_a_real_time_clock_never_lowers_what_is_signed(least: datetime | None) -> None:
    fake = FakeClock(NOON)
    assert StoreClock(fake.now, monotonic=fake.monotonic, floor=lambda: least).now() == NOON


def test_setting_the_wall_clock_right_changes_no_signature() -> None:
    fake = FakeClock(datetime(1970, 1, 1, tzinfo=UTC))
    clock = clock_of(fake)
    clock.note_date(dated(NOON))
    assert clock.is_corrected and clock.now() == NOON
    fake.advance(100)
    fake.jump((NOON + timedelta(seconds=100) - fake.now()).total_seconds())  # NTP arrives
    assert clock.now() == NOON + timedelta(seconds=100)
    assert clock.note_date(dated(NOON + timedelta(seconds=100))) == 0
    assert not clock.is_corrected and clock.now() == NOON + timedelta(seconds=100)
    assert clock.skew_s == 0


def test_a_request_is_compared_with_the_time_that_it_carried() -> None:
    fake = FakeClock(NOON - timedelta(hours=3))
    clock = clock_of(fake)
    reading = clock.read()
    fake.advance(20)
    fake.jump(3 * 3600)  # the wall clock is set while the request is on its way
    store_now = NOON + timedelta(seconds=20)
    assert clock.note_date(dated(store_now), signed=reading) == 3 * 3600
    assert not clock.is_corrected
    assert clock.is_worth_repeating(reading)


def test_a_refusal_is_asked_again_only_if_the_time_to_sign_with_has_moved() -> None:
    fake = FakeClock(NOON - timedelta(hours=3))
    clock = clock_of(fake)
    first = clock.read()
    assert not clock.is_worth_repeating(first)
    clock.note_date(dated(NOON), signed=first)
    assert clock.is_worth_repeating(first)
    second = clock.read()
    fake.advance(500)
    clock.note_date(dated(NOON + timedelta(seconds=500)), signed=second)
    assert not clock.is_worth_repeating(second)


def test_the_date_of_somebody_else_is_compared_with_and_not_learnt() -> None:
    clock = clock_of(FakeClock(NOON))
    assert clock.note_date(dated(NOON + timedelta(hours=1)), is_stores=False) == 3600
    assert clock.skew_s is None and not clock.is_corrected and clock.now() == NOON
    assert clock.store_time() is None
    assert clock.note_date("nonsense") == 0 and clock.note_date(None) == 0


@pytest.mark.parametrize(
    "value",
    [
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 01 Jan 2100 00:00:00 GMT",
        "Tue, 31 Dec 2019 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ],
)
def test_a_date_that_no_store_can_have_is_not_believed(value: str) -> None:
    clock = clock_of(FakeClock(NOON))
    assert clock.note_date(value) == 0
    assert clock.skew_s is None and clock.store_time() is None and clock.now() == NOON


def test_the_skew_follows_the_wall_clock_when_it_is_set_between_two_answers() -> None:
    fake = FakeClock(NOON + timedelta(days=730))
    clock = clock_of(fake)
    clock.note_date(dated(NOON))
    assert clock.skew_s == -730 * 86400
    fake.advance(50)
    assert clock.skew_s == -730 * 86400
    fake.jump(-730 * 86400)
    assert clock.skew_s == 0


def test_the_stores_time_goes_on_with_the_monotonic_clock() -> None:
    fake = FakeClock(NOON)
    clock = clock_of(fake)
    clock.note_date(dated(NOON + timedelta(seconds=30)))
    fake.jump(-86400)
    fake.advance(10)
    assert clock.store_time() == NOON + timedelta(seconds=40)
    assert clock.skew_s == 86430


def test_a_clock_is_in_doubt_before_its_release_or_without_synchronisation() -> None:
    after = RELEASED_AT + timedelta(days=1)
    assert not is_doubtful(after, is_synchronised=True)
    assert is_doubtful(after, is_synchronised=False)
    assert is_doubtful(RELEASED_AT - timedelta(days=1), is_synchronised=True)


def test_a_certificate_holds_between_its_dates_and_never_before_this_release() -> None:
    begins, ends = RELEASED_AT - timedelta(days=9), RELEASED_AT + timedelta(days=9)
    for moment, holds in [
        (begins + timedelta(days=1), False),
        (RELEASED_AT, True),
        (ends, True),
        (ends + timedelta(seconds=1), False),
    ]:
        assert is_valid_at(moment, not_before=begins, not_after=ends) is holds
    assert not is_valid_at(RELEASED_AT, not_before=RELEASED_AT + timedelta(1), not_after=ends)
