"""workers/reloader.py: what an edit changes in a running agent, and what it must not."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from syncagent.core.board import Board
from syncagent.core.errors import ConfigError, Problem
from syncagent.core.settings import (
    Carrier,
    Firmware,
    Health,
    MessageFields,
    SendAddress,
    Settings,
    System,
    Task,
    Upload,
    Watch,
)
from syncagent.core.settings_files import TASK_FUNCTION
from syncagent.workers.reloader import Reloader
from tests.fakes import FakeClock, FakeStop


def settings(*, upload: Upload | None = None, path: str = "camera", health: Health | None = None) -> Settings:
    carrier = Carrier(name="c", bucket_name="b", path=path, upload=upload or Upload(), watch=Watch())
    address = SendAddress(
        name="a", configured_name="a", message_type="image_info", carrier=carrier, duration="on_change"
    )
    return Settings(system=System(id="pi", health=health or Health()), addresses=(address,))


class Bench:
    """A reloader over a configuration that the test edits."""

    def __init__(self, before: Settings | None = None) -> None:
        self.files = 0
        self.next: Callable[[], Settings] = settings
        self.taken: list[Settings] = []
        clock = FakeClock()
        self.board = Board(clock.monotonic)
        self.stop = FakeStop(clock)
        self.reloader = Reloader(
            before or settings(),
            load=lambda: self.next(),
            fingerprint=lambda: self.files,
            on_settings=self.taken.append,
            board=self.board,
        )

    def edit(self, after: Callable[[], Settings]) -> None:
        self.files += 1
        self.next = after
        self.reloader.pass_once(self.stop)


def test_an_unchanged_configuration_is_not_read_again() -> None:
    bench = Bench()
    bench.next = lambda: pytest.fail("read")
    bench.reloader.pass_once(bench.stop)
    assert bench.taken == []


@pytest.mark.parametrize("firmware", [Firmware(poll_s=5), Firmware(channel="canary"), Firmware(root="other.json")])
def test_what_is_edited_of_firmware_needs_a_restart_and_that_is_said(firmware: Firmware) -> None:
    def task(firmware: Firmware) -> Task:
        carrier = Carrier(name="ota", bucket_name="b", firmware=firmware)
        return Task(
            name="t", configured_name="t", message_type="firmware_image", function=TASK_FUNCTION, carrier=carrier
        )

    before = Settings(system=System(id="pi"), tasks=(task(Firmware()),))
    bench = Bench(before)
    bench.edit(lambda: Settings(system=System(id="pi"), tasks=(task(firmware),)))
    assert bench.taken == []
    (complaint,) = bench.board.complaints()
    assert "need a restart" in complaint.reason and "systemctl restart" in complaint.remedy


def test_limits_and_health_are_taken_over_at_once() -> None:
    bench = Bench()
    wanted = settings(upload=Upload(max_bytes_per_s=1000, order="newest"), health=Health(max_unsent_s=5))
    bench.edit(lambda: wanted)
    assert bench.taken == [wanted]
    assert bench.board.complaints() == []


@pytest.mark.parametrize("edited", [{"path": "other"}, {"upload": Upload(workers=2)}])
def test_what_decides_files_and_threads_needs_a_restart_and_says_so(edited: dict[str, object]) -> None:
    bench = Bench()
    bench.edit(lambda: settings(**edited))  # type: ignore[arg-type]
    assert bench.taken == []
    assert "restart" in bench.board.complaints()[0].remedy


def test_which_fields_of_a_message_name_and_date_it_needs_a_restart_and_that_is_said() -> None:
    bench = Bench()
    bench.edit(lambda: attrs.evolve(settings(), messages={"image_info": MessageFields(time_field="taken_at")}))
    assert bench.taken == []
    assert "restart" in bench.board.complaints()[0].remedy


def test_a_mistake_changes_nothing_and_is_shown_until_it_is_mended() -> None:
    bench = Bench()

    def broken() -> Settings:
        raise ConfigError([Problem("carriers/c.json", 3, "upload", "unknown key", "mend it")])

    bench.edit(broken)
    assert bench.taken == []
    assert "carriers/c.json:3" in bench.board.complaints()[0].reason
    bench.edit(settings)
    assert len(bench.taken) == 1
    assert bench.board.complaints() == []
