"""The status object: every field, always, and never healthy without reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from syncagent.core.board import Complaint, Fact
from syncagent.core.model import State
from syncagent.core.status import FACTS, VITAL, Cell, Snapshot, build, merge

OK = {name: Fact(True, "ok") for name in FACTS}
SOUND = Snapshot(
    version="1",
    system_id="pi",
    time="2025-06-01T12:00:00Z",
    is_running=True,
    pid=7,
    uptime_s=1.5,
    max_unsent_s=3600,
    facts=OK,
    addresses=("a", "b"),
)
STATES = {
    "settling",
    "ready",
    "sending",
    "confirmed",
    "removed",
    "waiting",
    "parked",
    "superseded",
    "gone",
    "lost",
}


def test_every_field_is_there_even_when_there_is_nothing_to_say() -> None:
    status = build(SOUND)
    assert {
        "version",
        "system_id",
        "time",
        "running",
        "pid",
        "uptime_s",
        "healthy",
        "state",
        "reason",
        "oldest_unsent_s",
        "queue",
        "facts",
        "addresses",
        "wire",
        "rates",
        "firmware",
        "losses",
        "last_errors",
        "devices",
    } <= set(status)
    assert set(status["queue"]) == STATES
    assert all(cell == {"files": 0, "bytes": 0, "reasons": {}} for cell in status["queue"].values())
    assert set(status["facts"]) == {"watcher", "uploader", "link", "store", "disk", "clock", "power", "firmware"}
    assert all({"ok", "state", "reason"} <= set(fact) for fact in status["facts"].values())
    assert {"bytes_today", "bytes_month"} <= set(status["wire"])
    assert set(status["addresses"]) == {"a", "b"}
    assert set(status["addresses"]["a"]["queue"]) == STATES
    assert (status["healthy"], status["state"], status["running"]) == (True, "ok", True)
    assert json.loads(json.dumps(status)) == status


@pytest.mark.parametrize("name", ["watcher", "uploader", "link", "store", "disk"])
def test_a_vital_fact_that_is_not_ok_makes_the_agent_unhealthy_and_is_the_reason(name: str) -> None:
    status = build(replace(SOUND, facts={**OK, f"{name}/carrier": Fact(False, "down", "the cable is out")}))
    assert (status["healthy"], status["state"]) == (False, "broken")
    assert status["reason"] == f"{name}: the cable is out"
    assert status["facts"][name]["ok"] is False


@pytest.mark.parametrize("name", sorted(set(FACTS) - set(VITAL)))
def test_clock_power_and_firmware_are_warnings(name: str) -> None:
    status = build(replace(SOUND, facts={**OK, name: Fact(False, "bad")}))
    assert (status["healthy"], status["state"], status["reason"]) == (True, "degraded", f"{name}: bad")


def test_an_unsent_file_that_is_too_old_makes_the_agent_unhealthy_and_the_limit_itself_does_not() -> None:
    assert build(replace(SOUND, oldest_unsent_s=3600.0))["healthy"] is True
    status = build(replace(SOUND, oldest_unsent_s=3600.1))
    assert (status["healthy"], status["state"]) == (False, "broken")
    assert "oldest unsent" in status["reason"]
    assert status["oldest_unsent_s"] == 3600.1


def test_parked_rows_and_warnings_degrade() -> None:
    parked = replace(SOUND, cells=[Cell("a", State.PARKED, "too large", 2, 10)])
    assert (build(parked)["healthy"], build(parked)["state"]) == (True, "degraded")
    assert build(replace(SOUND, warnings=["a carrier was ignored"]))["state"] == "degraded"


def test_an_agent_that_does_not_run_is_stopped_and_never_healthy() -> None:
    status = build(replace(SOUND, is_running=False, pid=None, uptime_s=None, facts={}))
    assert (status["running"], status["healthy"], status["state"]) == (False, False, "stopped")
    assert status["facts"]["watcher"]["ok"] is False


def test_cells_are_summed_by_state_and_reason_and_by_address() -> None:
    status = build(
        replace(
            SOUND,
            cells=[
                Cell("a", State.WAITING, "link", 2, 20),
                Cell("b", State.WAITING, "link", 1, 5),
                Cell("b", State.WAITING, "file: x", 1, 1),
                Cell("", State.SETTLING, "", 3, 30),
                Cell("a", State.LOST, "card full", 4, 40),
            ],
            oldest_by_address={"a": 12.0},
        )
    )
    assert status["queue"]["waiting"] == {"files": 4, "bytes": 26, "reasons": {"link": 3, "file: x": 1}}
    assert status["queue"]["settling"] == {"files": 3, "bytes": 30, "reasons": {}}
    assert status["addresses"]["b"]["queue"]["waiting"]["files"] == 2
    assert status["addresses"]["a"]["oldest_unsent_s"] == 12.0
    assert status["addresses"]["b"]["oldest_unsent_s"] is None
    assert status["losses"] == 4


def test_of_several_reporters_of_a_fact_the_one_in_trouble_speaks() -> None:
    facts = {"link/a": Fact(True, "ok"), "link/b": Fact(False, "down", "no route"), "link": Fact(True, "x", "talk")}
    assert merge(facts, "link").reason == "no route"
    del facts["link/b"]
    assert merge(facts, "link").reason == "talk"
    assert merge({"links": Fact(False, "other")}, "link").state == "unknown"


def test_devices_are_shown_as_they_are_reported() -> None:
    face = {"source": "max17048", "ok": False, "state": "not there", "reason": "nothing answers", "values": {}}
    assert build(replace(SOUND, devices={"battery": face}))["devices"] == {"battery": face}
    assert build(SOUND)["devices"] == {}


def test_the_newest_error_comes_first_with_its_age() -> None:
    old, new = (Complaint(name, "upload", "why", "remedy", at) for name, at in (("old", 1.0), ("new", 9.0)))
    status = build(replace(SOUND, complaints=[old, new], monotonic=10.0))
    assert [(error["path"], error["age_s"]) for error in status["last_errors"]] == [("new", 1.0), ("old", 9.0)]
    assert set(status["last_errors"][0]) == {"path", "what", "reason", "remedy", "age_s"}
