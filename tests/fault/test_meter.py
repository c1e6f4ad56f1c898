"""What a link may cost: the limit holds on the wire and obeys an edited file; a spent budget lets only `allow` go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.fault.field import Field, field_of, until

#: Limits are asked for at the level of parts, so that single chunks may lead or lag.
LEAST_SHARE, MOST_SHARE = 0.5, 1.3


@pytest.fixture
def here(tmp_path: object) -> Iterator[Field]:
    with field_of(str(tmp_path)) as field:
        yield field


def flow_bytes_per_s(field: Field, *, window_s: float) -> float:
    """What went over the link within a while, as the link counted it."""
    begun, at = field.link.up_bytes, time.monotonic()
    until(lambda: time.monotonic() >= at + window_s, deadline_s=window_s + 5, what="the window passes")
    return (field.link.up_bytes - begun) / (time.monotonic() - at)


def configure(field: Field, **upload: Any) -> None:
    field.agent.configure(field.link.endpoint_url, upload={"stall_s": 5, **upload})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("large", [False, True], ids=["small-files", "one-large-file"])
def test_the_limit_holds_on_the_wire_and_changes_with_its_file_while_the_agent_runs(here: Field, large: bool) -> None:
    configure(here, max_bytes_per_s=300_000)
    here.agent.start()
    if large:
        here.shoot("film.mp4", 12_000_000)
    else:
        here.shoot_many(120, 100_000)
    until(lambda: here.link.up_bytes > 600_000, deadline_s=30, what=here.story)
    slow = flow_bytes_per_s(here, window_s=4)
    assert LEAST_SHARE * 300_000 <= slow <= MOST_SHARE * 300_000
    configure(here, max_bytes_per_s=1_500_000)
    until(lambda: flow_bytes_per_s(here, window_s=0.5) > 800_000, deadline_s=15, what="the new limit is obeyed")
    fast = flow_bytes_per_s(here, window_s=3)
    assert fast <= MOST_SHARE * 1_500_000
    print(f"limit 300000: {slow:.0f} bytes/s; limit 1500000: {fast:.0f} bytes/s")
    configure(here)
    here.all_confirmed(deadline_s=30)
    assert here.objects() == here.expected()
    assert here.agent.stop() == 0


@pytest.mark.timeout(60)
def test_a_timetable_limits_by_the_hour(here: Field) -> None:
    configure(here, timetable={"00:00-24:00": 200_000})
    here.agent.start()
    here.shoot_many(20, 100_000)
    until(lambda: here.link.up_bytes > 400_000, deadline_s=30, what=here.story)
    flow = flow_bytes_per_s(here, window_s=3)
    assert LEAST_SHARE * 200_000 <= flow <= MOST_SHARE * 200_000
    configure(here)
    here.all_confirmed(deadline_s=30)
    assert here.agent.stop() == 0


def has_default_route() -> bool:
    with open("/proc/net/route") as table:
        return any(line.split()[1] == "00000000" for line in list(table)[1:])


@pytest.mark.timeout(60)
def test_a_spent_budget_lets_only_go_what_is_allowed_and_the_status_says_so(here: Field) -> None:
    assert has_default_route(), "which link costs money is told by the default route, and this machine has none"
    metered: Mapping[str, Any] = {"interfaces": ["*"], "budget_bytes_per_month": 200_000, "allow": ["*.txt"]}
    configure(here, metered=metered)
    here.agent.start()
    here.shoot_many(4, 100_000, prefix="first")
    until(lambda: here.confirmed() >= 2, deadline_s=30, what=here.story)
    until(lambda: "budget" in str(here.agent.status()), deadline_s=30, what=here.story)
    held = here.shoot_many(3, 100_000, prefix="held")
    here.shoot("note.txt", 500)
    until(lambda: here.agent.key("note.txt") in here.objects(), deadline_s=30, what=here.story)
    status = here.agent.status()
    assert not [name for name in held if here.agent.key(name) in here.objects()]
    reasons = {reason for entry in status["queue"].values() for reason in entry["reasons"]}
    assert any("budget" in reason for reason in {*reasons, *(fact["reason"] for fact in status["facts"].values())})
    assert status["wire"]["bytes_month"] >= 200_000
    # An owner who raises it gets the rest at once.
    configure(here, metered={**metered, "budget_bytes_per_month": 50_000_000})
    here.all_confirmed(deadline_s=45)
    assert here.objects() == here.expected()
    assert here.agent.stop() == 0


@pytest.mark.timeout(60)
def test_with_no_interface_listed_networkmanager_says_which_link_costs_money(here: Field) -> None:
    assert has_default_route(), "which link costs money is told by the default route, and this machine has none"
    tools = os.path.join(here.agent.top, "tools")
    os.makedirs(tools)
    program = os.path.join(tools, "nmcli")

    def says(word: str) -> None:
        with open(f"{program}.new", "w") as file:
            file.write(f"#!/bin/sh\necho {word}\n")
        os.chmod(f"{program}.new", 0o755)
        os.rename(f"{program}.new", program)

    says("'yes (guessed)'")
    here.agent.variables = (f"PATH={tools}:{os.environ['PATH']}",)
    configure(here, metered={"interfaces": [], "budget_bytes_per_month": 50_000})
    here.agent.start()
    here.shoot("first.jpg", 100_000)
    here.all_confirmed(deadline_s=30)
    until(lambda: "budget" in str(here.agent.status()), deadline_s=30, what=here.story)
    here.shoot("held.jpg", 100_000)
    until(lambda: here.agent.count("ready") == 1, deadline_s=30, what=here.story)
    says("no")  # the cable is in again
    here.all_confirmed(deadline_s=45)
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_window_that_ends_ends_its_limit_in_a_running_agent(here: Field) -> None:
    here.agent.is_jumping = True
    now = datetime.now()
    window = f"{now - timedelta(hours=3):%H:%M}-{now + timedelta(hours=3):%H:%M}"
    configure(here, timetable={window: 50_000})
    here.agent.start()
    here.shoot_many(60, 100_000)
    until(lambda: here.confirmed() >= 2, deadline_s=45, what=here.story)
    assert here.confirmed() < 30
    # Half a day passes, for the store as well: at the limit the rest would take two minutes.
    here.strict.clock_offset_s = 43_200
    here.agent.jump(43_200)
    here.all_confirmed(deadline_s=30)
    assert here.agent.stop() == 0


@pytest.mark.timeout(60)
def test_bytes_on_the_wire_are_counted_as_the_link_counts_them_and_survive_a_restart(here: Field) -> None:
    here.agent.start()
    here.shoot_many(10, 50_000)
    here.all_confirmed(deadline_s=30)
    counted = here.link.up_bytes + here.link.down_bytes
    until(
        lambda: abs(here.agent.status()["wire"]["bytes_month"] - counted) <= 0.01 * counted,
        deadline_s=10,
        what=lambda: f"{here.agent.status()['wire']}, the link counted {counted}",
    )
    assert here.agent.stop() == 0
    here.agent.start()
    assert here.agent.status()["wire"]["bytes_month"] >= 0.99 * counted
    assert here.agent.stop() == 0
