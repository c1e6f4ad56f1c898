"""What goes first: small files pass large ones, no address waits for another, and `upload.order` is obeyed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fault.field import Field, field_of, until
from tests.proxy import Rule
from tests.s3_model import Fault

MB = 1_000_000
PART_BYTES = 5 * 1024 * 1024


@pytest.fixture
def here(tmp_path: object) -> Iterator[Field]:
    with field_of(str(tmp_path), buffer_bytes=64 * 1024) as field:
        yield field


def visible(field: Field) -> list[str]:
    """Names of the files in the order in which they became visible, of whatever address."""
    events = [event for event in field.strict.requests() if event.became_visible and "/.syncagent/" not in event.key]
    return [event.key.rpartition("/")[2] for event in events]


def two_addresses(field: Field) -> None:
    """`busy` takes every file by itself, `calm` what it is asked for; both by one carrier and its workers."""
    field.agent.put_config("system/system", {"id": field.agent.system_id, "addresses": ["busy", "calm"], "tasks": []})
    for name, duration in (("busy", "on_change"), ("calm", "as_needed")):
        document = {"message_type": "image_info", "carrier": "store", "duration": duration}
        field.agent.put_config(f"addresses/{name}", {**document, "additional_info": {"sub_path": name}})


@pytest.mark.timeout(120)
def test_small_files_pass_large_ones_that_keep_every_worker_busy(here: Field) -> None:
    here.agent.configure(here.link.endpoint_url, upload={"multipart_bytes": PART_BYTES})
    here.agent.start()
    here.shoot("first.jpg", 1000)
    here.all_confirmed(deadline_s=30)
    here.link.rule = Rule(up_bytes_per_s=10.0 * MB)
    films = here.shoot_many(4, 3 * PART_BYTES, prefix="film")
    until(lambda: len(here.strict.uploads) == 4, deadline_s=30, what="every worker sends a film")
    photos = here.shoot_many(20, 20_000, prefix="photo")
    here.all_confirmed(deadline_s=60)
    order = visible(here)
    assert max(map(order.index, photos)) < min(map(order.index, films)), order
    assert here.objects() == here.expected()
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_an_address_with_a_backlog_does_not_hold_up_another(here: Field) -> None:
    here.agent.configure(here.link.endpoint_url, upload={"workers": 2})
    two_addresses(here)
    here.link.rule = Rule("refuse")
    here.agent.start()
    backlog = here.shoot_many(60, 20_000, prefix="busy")
    until(lambda: here.agent.count("ready") + here.agent.count("waiting") == 60, deadline_s=30, what=here.story)
    elsewhere = [os.path.join(here.agent.base_dir, "generated_data", "camera", name) for name in backlog[:5]]
    asked = here.agent.cli("send", "--address", "calm", *elsewhere)
    assert asked.returncode == 0, asked.stderr
    here.link.rule = Rule(up_bytes_per_s=0.3 * MB)
    until(lambda: here.confirmed() == 65, deadline_s=60, what=here.story)
    keys = [event.key for event in here.strict.requests(operation="PutObject") if "/.syncagent/" not in event.key]
    calm = [place for place, key in enumerate(keys) if key.startswith("camera/calm/")]
    # Taken in turns, five of them are among the first ten; a few more were on their way before.
    assert len(calm) == 5 and max(calm) < 20, calm
    assert here.agent.stop() == 0


def record(field: Field) -> dict[str, tuple[int, int]]:
    """Files of different ages and sizes: name -> (age in minutes, bytes)."""
    plan = {"a.jpg": (50, 3000), "b.jpg": (10, 9000), "c.jpg": (40, 1000), "d.jpg": (20, 5000), "e.jpg": (30, 7000)}
    for name, (age_min, size_bytes) in plan.items():
        field.shoot(name, size_bytes)
        path = field.agent.path(name)
        mtime = os.stat(path).st_mtime - 60 * age_min
        os.utime(path, (mtime, mtime))
    return plan


@pytest.mark.timeout(60)
@pytest.mark.parametrize("order", ["oldest", "newest", "smallest", "newest_first_with_backfill"])
def test_what_waits_is_sent_in_the_order_that_the_owner_chose(here: Field, order: str) -> None:
    here.agent.configure(here.link.endpoint_url, upload={"workers": 1, "order": order})
    # The only worker is kept busy by one file until the others wait.
    here.strict.faults.append(Fault("PutObject", prefix=here.agent.key("first.jpg"), after_s=4))
    here.agent.start()
    here.shoot("first.jpg", 1000)
    until(lambda: here.agent.count("sending") == 1, deadline_s=30, what=here.story)
    plan = record(here)
    until(lambda: here.agent.count("ready") == len(plan), deadline_s=30, what=here.story)
    here.all_confirmed(deadline_s=45)
    by_age = sorted(plan, key=lambda name: plan[name][0])
    expected = {
        "oldest": by_age[::-1],
        "newest": by_age,
        "smallest": sorted(plan, key=lambda name: plan[name][1]),
    }
    first, *found = visible(here)
    assert first == "first.jpg"
    if order == "newest_first_with_backfill":
        # The newest first; between them, old ones get their turn.
        assert found[0] == by_age[0]
        assert sorted(found) == sorted(plan)
    else:
        assert found == expected[order]
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_with_backfill_old_files_go_on_while_new_ones_never_cease(here: Field) -> None:
    here.agent.configure(
        here.link.endpoint_url, upload={"workers": 1, "order": "newest_first_with_backfill"}, watch={"settle_s": 0.05}
    )
    for number in range(20):
        here.shoot(f"old_{number:02d}.jpg", 20_000)
        path = here.agent.path(f"old_{number:02d}.jpg")
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    # A file takes 0.2 s, and a new one comes as soon as one went: there is always a newer one.
    here.link.rule = Rule(up_bytes_per_s=0.1 * MB)
    here.agent.start()
    new = 0
    for _ in range(40):
        while new < len(visible(here)) + 4:
            here.shoot(f"new_{new:02d}.jpg", 20_000)
            new += 1
        seen = len(visible(here))
        until(lambda seen=seen: len(visible(here)) > seen, deadline_s=20, what=here.story)  # type: ignore[misc]
        if len([name for name in visible(here) if name.startswith("old")]) >= 3:
            break
    found = visible(here)
    old = [name for name in found if name.startswith("old")]
    assert len(old) >= 3, f"old files starve: {found}"
    assert len(found) - len(old) > len(old), f"new files do not come first: {found}"
    here.link.rule = Rule()
    here.all_confirmed(deadline_s=60)
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_large_file_that_goes_on_after_an_outage_holds_up_no_other_file(here: Field) -> None:
    here.agent.start()
    here.shoot("first.jpg", 1000)
    here.all_confirmed(deadline_s=30)
    here.link.rule = Rule(up_bytes_per_s=5.0 * MB)
    here.shoot("film.mp4", 12 * PART_BYTES)
    until(lambda: here.agent.count("sending") == 1 and here.link.up_bytes > 3 * MB, deadline_s=30, what=here.story)
    here.link.rule = Rule("refuse")
    until(lambda: not here.fact("link")["ok"], deadline_s=20, what=here.story)
    here.link.rule = Rule(up_bytes_per_s=5.0 * MB)
    until(lambda: bool(here.fact("link")["ok"]), deadline_s=20, what=here.story)
    photos = here.shoot_many(5, 20_000, prefix="photo")
    here.all_confirmed(deadline_s=60)
    order = visible(here)
    assert order[-1] == "film.mp4" and set(order[1:-1]) == set(photos), order
    assert here.agent.stop() == 0
