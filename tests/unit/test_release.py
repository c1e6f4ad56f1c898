"""States, turns and marks of a firmware release."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.manifest import COHORTS, Manifest, Rollout, Wave
from syncagent.core.release import (
    IN_USE,
    MOVES,
    Decision,
    Device,
    Floor,
    Marks,
    Memory,
    Phase,
    Target,
    cohort,
    decide,
    parse_issued,
)

NOW = datetime(2025, 6, 1, tzinfo=UTC)
DEVICE = Device(component="cam", hardware="pi4", system_id="field-7", agent_version="1.2.3", max_image_bytes=1000)
MANIFEST = Manifest(id="r", time=NOW, file_name="boot", component="cam", version="1", hardware="pi4")


def decided(manifest: Manifest = MANIFEST, length: int = 10, **more: Any) -> Decision:
    values = {"device": DEVICE, "now": NOW, "security_version": 0, "is_first": False, **more}
    return decide(manifest, length, **values)


def test_a_release_for_this_device_is_available() -> None:
    assert decided() == Decision(Phase.AVAILABLE)


@pytest.mark.parametrize(
    ("changes", "more", "phase"),
    [
        ({"component": "pump"}, {}, Phase.REJECTED),
        ({"hardware": None}, {}, Phase.REJECTED),
        ({"hardware": "pi5"}, {}, Phase.REJECTED),
        ({"security_version": 2}, {"security_version": 3}, Phase.REJECTED),
        ({}, {"length": 1001}, Phase.REJECTED),
        ({"requires_agent": "1.2.4"}, {}, Phase.DEFERRED),
        ({"requires_agent": "1.2"}, {}, Phase.AVAILABLE),
        ({"requires_agent": "1.10"}, {}, Phase.DEFERRED),
        ({"rollout": Rollout(halt=True)}, {"is_first": True, "is_urgent": True}, Phase.DEFERRED),
        ({"is_signed": False, "hardware": None}, {}, Phase.AVAILABLE),
    ],
    ids=str,
)
def test_what_is_not_for_this_device_is_not_taken(changes: dict[str, Any], more: dict[str, Any], phase: Phase) -> None:
    assert decided(replace(MANIFEST, **changes), **more).phase is phase


def test_a_wave_begins_at_its_time_for_those_that_it_reaches() -> None:
    place = cohort("s", DEVICE.system_id)
    waves = (Wave(place, NOW - timedelta(days=1)), Wave(place + 1, NOW + timedelta(days=1)))
    manifest = replace(MANIFEST, rollout=Rollout("s", waves))
    assert decided(manifest) == Decision(
        Phase.DEFERRED, "its wave begins at 2025-06-02T00:00:00Z", NOW + timedelta(days=1)
    )
    assert decided(manifest, now=NOW + timedelta(days=1)).phase is Phase.AVAILABLE
    assert decided(manifest, is_first=True).phase is Phase.AVAILABLE
    assert decided(manifest, is_urgent=True).phase is Phase.AVAILABLE
    unreached = replace(MANIFEST, rollout=Rollout("s", (Wave(place, NOW),)))
    assert decided(unreached).phase is Phase.DEFERRED and decided(unreached).due is None


def test_cohorts_are_spread_evenly_and_dealt_anew_by_each_salt() -> None:
    counts = Counter(cohort("salt", f"device-{number}") // 1000 for number in range(20_000))
    assert set(counts) == set(range(10)) and all(1_700 < count < 2_300 for count in counts.values())
    assert any(cohort("a", f"d{n}") != cohort("b", f"d{n}") for n in range(5))


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_cohort_is_below_10000(salt: str, system_id: str) -> None:
    assert 0 <= cohort(salt, system_id) < COHORTS


def test_every_phase_that_is_written_down_has_its_moves_and_the_way_to_the_disk_is_one() -> None:
    way = [Phase.AVAILABLE, Phase.DOWNLOADING, Phase.VERIFIED, Phase.INSTALLED, Phase.ACTIVATED, Phase.CONFIRMED]
    for one, other in itertools.pairwise(way):
        assert other in MOVES[one]
    for phase, others in MOVES.items():
        assert phase not in others and all(other in MOVES for other in others)
        # What is in use only ever ends by a rollback or stays: no failure takes it away.
        if phase in IN_USE:
            assert others <= {Phase.CONFIRMED, Phase.ROLLED_BACK}
    assert not [phase for phase in MOVES if Phase.ACTIVATED in MOVES[phase] and phase is not Phase.INSTALLED]


def test_marks_only_rise_and_what_is_lower_is_told() -> None:
    marks = Marks(2, "k", {"timestamp": 5, "snapshot": 3})
    assert marks.lower(Marks(2, "k", {"timestamp": 5, "snapshot": 3})) == ""
    assert "timestamp 4" in marks.lower(Marks(2, "k", {"timestamp": 4, "snapshot": 9}))
    assert "root 1" in marks.lower(Marks(1, "k", {"timestamp": 9}))
    assert "root 1" in marks.lower(Marks(1, "other", {"timestamp": 9}))
    assert marks.lower(Marks(3, "new", {"timestamp": 1})) == ""
    assert marks.raised(Marks(2, "k", {"timestamp": 7})) == Marks(2, "k", {"snapshot": 3, "timestamp": 7})
    assert marks.raised(Marks(3, "new", {"timestamp": 1})) == Marks(3, "new", {"timestamp": 1})


def test_the_floor_is_raised_by_verified_words_alone() -> None:
    late, expires = NOW + timedelta(days=1), NOW + timedelta(days=30)
    floor = Floor().raised(NOW, expires=expires, keys="k")
    assert floor.at == NOW and floor.reference(datetime(1970, 1, 1, tzinfo=UTC)) == NOW
    assert floor.reference(late) == late
    assert floor.raised(NOW - timedelta(days=9), expires=expires, keys="k").at == NOW
    assert floor.raised(None, expires=expires, keys="k").at == NOW
    assert floor.raised(NOW + timedelta(days=999), expires=expires, keys="k").at == expires
    assert floor.raised(None, expires=expires, keys="other").at is None
    assert parse_issued("2025-06-01T00:00:00Z") == NOW
    junk: object
    for junk in (None, 5, "soon", [], {}):
        assert parse_issued(junk) is None


def test_memory_survives_being_written() -> None:
    memory = Memory(
        etag='"abc"',
        refreshed_at=5.5,
        marks=Marks(1, "k", {"timestamp": 2}),
        floor=Floor(NOW, "k"),
        expires={"root": NOW, "timestamp": NOW + timedelta(days=1)},
        target=Target(5, "ab" * 32, {"id": "x"}, "stable/cam/image"),
    )
    assert Memory.from_text(memory.to_text()) == memory
    assert Memory.from_text(Memory().to_text()) == Memory() == Memory.from_text(None)
    assert memory.expired(NOW) == "root" and memory.expired(NOW - timedelta(seconds=1)) == ""
