"""The life of releases on one device: waves, hooks, older images, rollback, loops, and how often it looks."""

from __future__ import annotations

import errno
import grp
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from syncagent.core import constraints
from syncagent.core.errors import Refused, Stopping
from syncagent.core.manifest import time_text
from syncagent.core.release import MAX_TRANSITIONS, Phase, cohort
from syncagent.edges import hooks
from syncagent.edges.clock import Stop
from syncagent.edges.drop import _temporary_name
from tests.firmware_device import SYSTEM_ID, Device
from tests.firmware_publisher import NOW, PATH

ONE, TWO, THREE = b"one" * 50_000, b"two" * 50_000, b"three" * 50_000
PLACE = "firmware_images/boot.bin"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    made: list[Device] = []

    def build(**more: Any) -> Device:
        made.append(Device(str(tmp_path / f"device-{len(made)}"), **more))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """A hook that writes its environment down and ends with a code."""

    def script(name: str, code: int = 0, *, more: str = "") -> str:
        path = tmp_path / name
        log = tmp_path / "hooks.log"
        path.write_text(f'#!/bin/sh\necho "$SYNCAGENT_HOOK $SYNCAGENT_RELEASE" >> "{log}"\n{more}\nexit {code}\n')
        path.chmod(0o755)
        return str(path)

    return script


def hooked(tmp_path: Path) -> list[str]:
    log = tmp_path / "hooks.log"
    return log.read_text().splitlines() if log.exists() else []


def releases(device: Device) -> dict[str, str]:
    return {release.name: str(release.phase) for release in device.journal.releases("cam")}


# -- turns ------------------------------------------------------------------------------------------------------------


def test_a_release_waits_for_its_wave_and_comes_without_another_download_of_metadata(
    build: Callable[..., Device],
) -> None:
    device = build()
    device.publisher.publish(ONE, id="one")
    device.poll()
    later = NOW + timedelta(hours=2)
    waves = [{"percent": 100, "not_before": time_text(later)}]
    device.publisher.publish(TWO, id="two", rollout={"salt": "s", "waves": waves})
    fact = device.poll()
    assert (fact.ok, fact.state) == (True, "deferred") and time_text(later) in fact.reason
    assert device.files[PLACE] == ONE
    asked = len(device.gets())
    device.wait(hours=2)
    assert device.poll().state == "activated" and device.files[PLACE] == TWO
    image = device.publisher.image_key(TWO).removeprefix(f"{PATH}/")
    assert device.gets(asked) == ["metadata/timestamp.json", image]


def test_a_deferred_release_is_looked_at_when_its_wave_begins(build: Callable[..., Device]) -> None:
    device = build(poll_s=86_400.0)
    device.publisher.publish(ONE, id="one")
    device.poll()
    waves = [{"percent": 100, "not_before": time_text(NOW + timedelta(minutes=10))}]
    device.publisher.publish(TWO, id="two", rollout={"waves": waves})
    device.worker.poll_now()
    assert device.worker.pass_once(device.stop) == pytest.approx(601.5)


def test_a_device_with_nothing_installed_ignores_waves_and_honours_a_halt(build: Callable[..., Device]) -> None:
    waves = [{"percent": 0, "not_before": time_text(NOW + timedelta(days=99))}]
    device = build()
    device.publisher.publish(ONE, rollout={"waves": waves, "halt": True})
    assert device.poll().state == "deferred" and device.files == {}
    device.publisher.publish(ONE, rollout={"waves": waves})
    assert device.poll().state == "activated"


def test_waves_reach_the_cohorts_that_they_name(build: Callable[..., Device]) -> None:
    place = cohort("s", SYSTEM_ID)
    device = build()
    device.publisher.publish(ONE, id="one")
    device.poll()
    for cohorts, state in ((place, "deferred"), (place + 1, "activated")):
        percent = f"{cohorts / 100:.2f}"
        rollout = {"salt": "s", "waves": [{"percent": percent, "not_before": time_text(NOW)}]}
        device.publisher.publish(TWO, id="two", rollout=rollout)
        assert device.poll().state == state


def test_a_release_that_needs_a_newer_agent_waits_for_it(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, requires={"agent": "999"})
    fact = device.poll()
    assert fact.state == "deferred" and "999" in fact.reason and device.files == {}


def test_withdrawn_and_superseded_releases_end(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, id="one", rollout={"halt": True})
    device.poll()
    device.publisher.publish(TWO, id="two", rollout={"halt": True})
    device.poll()
    device.publisher.withdraw()
    fact = device.poll()
    assert (fact.state, fact.reason) == ("unchanged", "nothing is offered")
    assert releases(device) == {"one": "failed", "two": "failed"}
    device.publisher.publish(ONE, id="one")
    assert device.poll().state == "activated"


# -- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_run_in_order_and_confirm_the_release(
    build: Callable[..., Device], script: Callable[..., str], tmp_path: Path
) -> None:
    names = ("before_install", "after_activate", "confirm")
    device = build(hooks={name: script(name) for name in names})
    device.publisher.publish(ONE, id="one")
    assert device.poll().state == "confirmed"
    assert hooked(tmp_path) == [f"{name} one" for name in names]
    device.poll()
    assert len(hooked(tmp_path)) == 3 and device.face["state"] == "confirmed"


def test_a_hook_before_the_installation_keeps_it_off_until_it_agrees(
    build: Callable[..., Device], script: Callable[..., str]
) -> None:
    device = build(hooks={"before_install": script("hook", 3)})
    device.publisher.publish(ONE, id="one")
    fact = device.poll()
    assert fact.state == "failed" and "before_install ended with 3" in fact.reason
    assert device.files == {} and device.letters == []
    images = sum(name.endswith(".image") for name in device.gets())
    script("hook", 0)
    assert device.poll().state == "activated"
    assert sum(name.endswith(".image") for name in device.gets()) == images  # its bytes were kept


def test_a_hook_that_fails_for_weeks_is_asked_again_and_wears_no_card(
    build: Callable[..., Device], script: Callable[..., str], tmp_path: Path
) -> None:
    device = build(hooks={"before_install": script("hook", 1)})
    device.publisher.publish(ONE, id="one")
    device.poll()
    written = device.journal._writer.total_changes
    for _ in range(60):
        fact = device.poll()
        assert (fact.ok, fact.state) == (False, "failed") and "before_install ended with 1" in fact.reason
    assert device.face["reason"] == "hook before_install ended with 1"
    assert device.journal._writer.total_changes == written and len(hooked(tmp_path)) == 61
    device.poll()
    script("hook", 0)
    assert device.poll().state == "activated"


def test_a_release_that_goes_round_in_circles_ends_in_a_loop_and_not_in_a_worn_out_card(
    build: Callable[..., Device],
) -> None:
    device = build()
    device.installer._staging.holds = lambda *_, **__: False  # type: ignore[method-assign]
    device.publisher.publish(ONE, id="one")
    for _ in range(20):
        device.poll()
    (release,) = device.journal.releases("cam")
    assert (release.phase, release.reason, release.is_retryable) == (Phase.FAILED, "loop", False)
    assert release.transitions <= MAX_TRANSITIONS + 1
    assert device.face["reason"] == "loop"


def test_a_half_dropped_image_of_a_release_that_nobody_offers_any_more_goes(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, id="one", file_name="one")
    put = device.installer._drop.put
    left = os.path.join(device.directories.data_dir, "firmware_images", _temporary_name("one.bin"))

    def killed(path: str, *rest: Any, **more: Any) -> bool:
        put(path, *rest, **more)
        os.rename(os.path.join(device.directories.data_dir, path), left)
        raise KeyboardInterrupt

    device.installer._drop.put = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        device.poll()
    device.close()
    device.publisher.publish(TWO, id="two", file_name="two")
    device.start()
    assert os.path.exists(left)
    assert device.poll().state == "activated" and not os.path.exists(left)


def test_a_release_whose_hook_fails_afterwards_is_rolled_back_and_stays_away(
    build: Callable[..., Device], script: Callable[..., str], tmp_path: Path
) -> None:
    device = build()
    device.publisher.publish(ONE, id="one")
    device.poll()
    device.close()
    device.firmware["hooks"] = {"after_activate": script("after", 1), "after_rollback": script("back")}
    device.start()
    device.publisher.publish(TWO, id="two")
    fact = device.poll()
    assert (fact.ok, fact.state) == (False, "rolled_back") and "after_activate ended with 1" in fact.reason
    assert device.files[PLACE] == ONE and device.files["latest_firmware.json"] == b"boot"
    assert hooked(tmp_path) == ["after_activate two", "after_rollback one"]
    for _ in range(3):
        assert device.poll().state == "rolled_back"
    assert hooked(tmp_path) == ["after_activate two", "after_rollback one"]
    device.firmware["hooks"] = {}
    device.publisher.publish(THREE, id="three")
    device.close()
    device.start()
    assert device.poll().state == "activated" and device.files[PLACE] == THREE


def test_a_first_release_whose_hook_fails_is_named_by_no_config(
    build: Callable[..., Device], script: Callable[..., str]
) -> None:
    device = build(hooks={"confirm": script("confirm", 1)})
    device.publisher.publish(ONE, id="one")
    assert device.poll().state == "rolled_back"
    assert "latest_firmware.json" not in device.files
    assert device.journal.current_release("cam") is None
    told = "confirm ended with 1; there was none before it, so latest_firmware.json is removed"
    assert told in device.face["reason"] and told in device.journal.firmware_steps("cam")[0].reason


def test_a_rollback_that_is_barred_is_told_with_the_way_out_and_ends_when_that_is_clear(
    build: Callable[..., Device],
) -> None:
    device = build()
    for image in (ONE, TWO):
        device.publisher.publish(image)
        device.poll()
    bad, good = device.journal.releases("cam")
    device.journal.intend_rollback(bad, good, "a hook said so")
    config = os.path.join(device.directories.data_dir, "latest_firmware.json")
    os.unlink(config)
    os.mkdir(config)
    for _ in range(2):
        fact = device.poll()
        assert not fact.ok and "latest_firmware.json is a directory" in fact.reason and "clear" in fact.more["remedy"]
    os.rmdir(config)
    assert device.poll().state == "rolled_back" and device.files[PLACE] == ONE


def test_a_first_release_is_rolled_back_whatever_took_the_place_of_its_config(
    build: Callable[..., Device], script: Callable[..., str]
) -> None:
    bar = 'rm "$SYNCAGENT_CONFIG"; mkdir "$SYNCAGENT_CONFIG"'
    device = build(hooks={"after_activate": script("after", 1, more=bar)})
    device.publisher.publish(ONE, id="one")
    assert device.poll().state == "rolled_back"
    assert device.journal.current_release("cam") is None


def test_a_rollback_that_is_barred_the_moment_it_begins_is_told_as_one_that_waits(
    build: Callable[..., Device], script: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = build()
    device.publisher.publish(ONE, id="one")
    device.poll()
    device.close()
    device.firmware["hooks"] = {"confirm": script("confirm", 1)}
    device.start()
    device.publisher.publish(TWO, id="two")

    def barred(*_: object) -> None:
        raise Refused("a directory is in the way")

    with monkeypatch.context() as patch:
        patch.setattr(device.installer, "_go_back", barred)
        for _ in range(2):
            fact = device.poll()
            assert not fact.ok and "a directory is in the way" in fact.reason and "clear" in fact.more["remedy"]
    assert device.poll().state == "rolled_back" and device.files[PLACE] == ONE


def test_hooks_are_bounded_and_end_with_the_agent(script: Callable[..., str]) -> None:
    stop = Stop()
    slow = script("slow", more="sleep 100 & sleep 100")
    with pytest.raises(hooks.HookFailed, match="did not end within"):
        hooks.run("slow", slow, {}, stop=stop, timeout_s=0.3)
    stop.set()
    with pytest.raises(Stopping):
        hooks.run("slow", slow, {}, stop=stop)


@pytest.mark.parametrize("what", ["missing", "plain", "directory", "open to all"])
def test_what_cannot_be_a_hook_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hook"
    if what == "directory":
        path.mkdir()
    elif what != "missing":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o644 if what == "plain" else 0o777)
    with pytest.raises(hooks.HookFailed, match="hook"):
        hooks.run("x", str(path), {}, stop=Stop())


def test_a_hook_that_nobody_calls_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(constraints.BadValueError) as error:
        constraints.hook.check("after_activation")
    assert "after_activate" in error.value.remedy


# -- what went before -------------------------------------------------------------------------------------------------


def test_the_image_before_is_kept_and_comes_back(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, id="one", config_format="json")
    device.poll()
    device.publisher.publish(TWO, id="two", config_format="json")
    device.poll()
    assert device.files[PLACE] == TWO
    back = device.installer.roll_back("asked for by a person", device.stop)
    assert back.name == "one" and device.files[PLACE] == ONE
    assert json.loads(device.files["latest_firmware.json"])["version"] == "2.0"
    fact = device.poll()
    assert fact.state == "rolled_back" and device.files[PLACE] == ONE
    with pytest.raises(Refused, match="no earlier release"):
        device.installer.roll_back("once more", device.stop)
    assert len(device.letters) == 2


def test_a_rollback_below_the_security_version_is_refused(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, id="one", security_version=1)
    device.poll()
    device.publisher.publish(TWO, id="two", security_version=2)
    device.poll()
    with pytest.raises(Refused, match="security_version 1 is below 2"):
        device.installer.roll_back("asked for", device.stop)
    assert device.files[PLACE] == TWO


def test_a_release_that_is_signed_anew_goes_where_it_is_said_now(build: Callable[..., Device]) -> None:
    """The publisher repairs a manifest and publishes again: id and image are the same."""
    device = build(why_not=lambda path: "is in a directory whose files are sent" if path.startswith("sent/") else "")
    device.publisher.publish(ONE, id="one", disk_path="sent/boot.bin", security_version=1)
    assert device.poll().state == "failed" and not device.files
    device.publisher.publish(ONE, id="one", disk_path="fw/boot.bin", security_version=2, confirm_receipt=False)
    assert device.poll().state == "activated"
    assert device.files["fw/boot.bin"] == ONE and not device.letters
    assert device.journal.security_version("cam") == 2


def test_the_release_in_use_may_be_signed_anew_to_shut_out_older_ones(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, id="one")
    device.poll()
    device.publisher.publish(ONE, id="one", security_version=5)
    assert device.poll().state == "activated"
    device.publisher.publish(TWO, id="two", security_version=4)
    assert device.poll().state == "rejected" and device.files[PLACE] == ONE
    device.publisher.publish(TWO, id="three", security_version=5)
    device.poll()
    assert device.files[PLACE] == TWO
    assert device.installer.roll_back("asked for", device.stop).name == "one" and device.files[PLACE] == ONE


def test_a_release_that_should_not_be_in_use_and_has_no_way_back_is_a_warning(
    build: Callable[..., Device], script: Callable[..., str]
) -> None:
    device = build(hooks={"confirm": script("confirm", more='[ "$SYNCAGENT_RELEASE" = one ] && exit 0; exit 1')})
    device.publisher.publish(ONE, id="one", security_version=1)
    assert device.poll().ok
    device.publisher.publish(TWO, id="two", security_version=2)
    for _ in range(2):
        fact = device.poll()
        assert not fact.ok and "must not come back" in fact.reason and device.files[PLACE] == TWO


def test_an_earlier_image_whose_place_is_taken_later_is_kept_as_well(build: Callable[..., Device]) -> None:
    device = build(keep=2)
    for image, name, file_name in ((ONE, "one", "a"), (TWO, "two", "b"), (THREE, "three", "a")):
        device.publisher.publish(image, id=name, file_name=file_name)
        device.poll()
    assert device.installer.roll_back("no", device.stop).name == "two"
    assert device.installer.roll_back("no", device.stop).name == "one"
    assert device.files["firmware_images/a.bin"] == ONE and device.files["latest_firmware.json"] == b"a"


def test_what_comes_back_is_the_release_before_whatever_the_clock_said_then(build: Callable[..., Device]) -> None:
    """The board woke up in the past for one of them."""
    device, years = build(keep=2), timedelta(days=365 * 20).total_seconds()
    for image, name, jump in ((ONE, "one", 0.0), (TWO, "two", -years), (THREE, "three", years)):
        device.clock.jump(jump)
        device.publisher.publish(image, id=name)
        assert device.poll().state == "activated"
    assert device.installer.roll_back("no", device.stop).name == "two" and device.files[PLACE] == TWO


def test_an_earlier_image_that_somebody_removed_does_not_bar_the_way_to_another(build: Callable[..., Device]) -> None:
    device = build(keep=2)
    for image, name in ((ONE, "one"), (TWO, "two"), (THREE, "three")):
        device.publisher.publish(image, id=name, file_name=name)
        device.poll()
    os.unlink(os.path.join(device.directories.data_dir, "firmware_images", "two.bin"))
    assert device.installer.roll_back("no", device.stop).name == "one"
    assert device.files["latest_firmware.json"] == b"one"


def test_a_rollback_that_was_cut_short_and_has_no_way_back_any_more_is_told_and_ends(
    build: Callable[..., Device],
) -> None:
    device = build()
    for image, name in ((ONE, "one"), (TWO, "two")):
        device.publisher.publish(image, id=name)
        device.poll()
    bad, good = device.journal.releases("cam")
    device.journal.intend_rollback(bad, good, "its hook failed")
    shutil.rmtree(os.path.join(device.staging_dir, "kept"))
    fact = device.poll()
    assert (fact.state, device.files[PLACE]) == ("activated", TWO)
    assert "its hook failed" in fact.reason and "no way back" in fact.reason
    device.publisher.publish(THREE, id="three")
    device.poll()
    assert device.files[PLACE] == THREE


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_as_many_earlier_images_stay_as_keep_says(build: Callable[..., Device], keep: int) -> None:
    device = build(keep=keep)
    images = [os.urandom(5000) for _ in range(4)]
    for number, image in enumerate(images):
        device.publisher.publish(image, id=f"r{number}", file_name=f"boot{number}")
        assert device.poll().state == "activated"
    kept = {f"firmware_images/boot{number}.bin": images[number] for number in range(3 - keep, 4)}
    assert {path: data for path, data in device.files.items() if path.endswith(".bin")} == kept
    for number in reversed(range(3 - keep, 3)):
        assert device.installer.roll_back("asked for", device.stop).name == f"r{number}"
    with pytest.raises(Refused):
        device.installer.roll_back("asked for", device.stop)


def test_an_older_release_that_is_offered_again_is_installed_again(build: Callable[..., Device]) -> None:
    device = build()
    for image, name in ((ONE, "one"), (TWO, "two"), (ONE, "one")):
        device.publisher.publish(image, id=name)
        assert device.poll().state == "activated"
        assert device.files[PLACE] == image


def test_what_is_dropped_may_be_read_by_everybody(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE)
    device.poll()
    path = os.path.join(device.directories.data_dir, PLACE)
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_a_group_that_is_not_there_or_not_ours_is_told_with_the_way_out(
    build: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = build()
    device.publisher.publish(ONE, id="one")
    drop = device.installer._drop
    drop._group = "no-such-group"
    fact = device.poll()
    assert not fact.ok and "there is no group no-such-group" in fact.reason and "groupadd" in fact.more["remedy"]
    assert not [name for name in device.gets() if name.endswith(".image")], "not a byte is spent on it"
    drop._group = grp.getgrgid(os.getgid()).gr_name

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", forbidden)
        fact = device.poll()
    assert not fact.ok and f"group {drop._group}" in fact.reason and "usermod" in fact.more["remedy"]
    assert device.files == {}
    assert device.poll().state == "activated"


def test_metadata_that_expires_soon_is_a_warning_and_no_reason_to_write(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, id="one")
    assert device.poll().ok
    device.wait(days=23, minutes=1)
    fact = device.poll()
    assert (fact.ok, fact.state) == (False, "activated")
    assert "the snapshot's time is over on 2025-07-01" in fact.reason and "renew" in fact.reason
    assert device.face == {"release": "one", "state": "activated", "reason": ""}
    device.publisher.renew(60)
    device.publisher.snapshot.expires = device.publisher.timestamp.expires
    device.publisher.bump()
    assert device.poll().ok


def test_no_receipt_is_posted_where_none_is_wanted(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE, confirm_receipt=False)
    assert device.poll().state == "activated" and device.letters == []


def test_a_person_confirms_what_is_installed(build: Callable[..., Device]) -> None:
    device = build()
    with pytest.raises(Refused):
        device.installer.confirm()
    device.publisher.publish(ONE)
    device.poll()
    assert device.installer.confirm().phase is Phase.CONFIRMED
    assert device.installer.confirm().phase is Phase.CONFIRMED
    assert device.poll().state == "confirmed"


# -- how often --------------------------------------------------------------------------------------------------------


def test_polls_are_spread_around_poll_s_and_a_root_is_noticed_within_a_day(build: Callable[..., Device]) -> None:
    device = build(poll_s=900.0)
    device.publisher.publish(ONE)
    device.worker.poll_now()
    assert device.worker.pass_once(device.stop) == pytest.approx(900.0)
    assert device.worker.pass_once(device.stop) == pytest.approx(900.0)  # not due: nobody is asked
    asked = len(device.gets())
    device.publisher.root.version += 1
    device.publisher.write_root()
    device.wait(hours=23)
    device.poll()
    assert device.gets(asked) == ["metadata/timestamp.json"]
    device.wait(hours=2)
    device.poll()
    assert "metadata/2.root.json" in device.gets(asked)


def test_an_idle_poll_writes_nothing_to_the_card(build: Callable[..., Device], monkeypatch: pytest.MonkeyPatch) -> None:
    device = build()
    device.publisher.publish(ONE)
    device.poll()
    device.poll()
    changed = device.journal._writer.total_changes
    for name in ("fsync", "rename", "write", "pwrite", "mkdir", "unlink"):
        monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("wrote"))
    for _ in range(5):
        assert device.poll().ok
    assert device.journal._writer.total_changes == changed


def test_what_is_remembered_of_another_source_does_not_count(build: Callable[..., Device]) -> None:
    device = build()
    device.publisher.publish(ONE)
    device.poll()
    assert device.journal.firmware_memory("cam", "here") is not None
    assert device.journal.firmware_memory("cam", "elsewhere") is None
