"""One device's firmware half, for tests: the real channel, installer, worker and journal, over a store in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from syncagent.assembly import Directories, open_journal
from syncagent.core.board import Board, Fact
from syncagent.core.remote import Getter
from syncagent.core.settings import Carrier, Firmware, Settings, System, Task
from syncagent.core.settings_files import TASK_FUNCTION
from syncagent.docks.channel import Channel
from syncagent.docks.highwater import HighWater
from syncagent.docks.installer import Installer
from syncagent.edges.drop import Drop
from syncagent.edges.fetch import Fetch
from syncagent.edges.trust import Trust
from syncagent.workers.firmware import FirmwareWorker
from tests.agent import regular_files
from tests.fakes import FakeClock, FakeStop, MemoryStore
from tests.firmware_publisher import PATH, FirmwarePublisher, into_memory

SYSTEM_ID = "field-7"


class Device:
    """A device below one directory. `publisher` writes into `store`, which it reads from."""

    def __init__(
        self,
        top: str,
        *,
        store: MemoryStore | None = None,
        publisher: FirmwarePublisher | None = None,
        getter: Getter | None = None,
        clock: FakeClock | None = None,
        system_id: str = SYSTEM_ID,
        why_not: Callable[[str], str] = lambda _: "",
        **firmware: Any,
    ) -> None:
        self.top = os.fspath(top)
        self.clock = clock or FakeClock()
        self.store = store or MemoryStore()
        self.publisher = publisher or FirmwarePublisher(into_memory(self.store))
        self.getter: Getter = getter or self.store
        self.system_id = system_id
        self.stop = FakeStop(self.clock)
        self.directories = Directories(
            os.path.join(self.top, "configs"), os.path.join(self.top, "base"), os.path.join(self.top, "base", "state")
        )
        for directory in (self.directories.data_dir, self.directories.state_dir):
            os.makedirs(directory, exist_ok=True)
        self.why_not = why_not
        self.firmware = {"component": "cam", **firmware}
        self.receipts = 0
        self.is_power_low = False
        self.why_wait: Callable[[str], str] = lambda _: ""
        self.limit: int | None = None
        self.lower_bound: datetime | None = None
        self.source = "here"
        self.is_signed = "allow_unsigned" not in firmware
        self.start()

    def start(self) -> None:
        """The agent starts; again, after `close`."""
        carrier = Carrier(
            name="ota", bucket_name="b", path=PATH, system_id=self.system_id, firmware=Firmware(**self.firmware)
        )
        task = Task(
            name="t", configured_name="t", message_type="firmware_image", function=TASK_FUNCTION, carrier=carrier
        )
        self.settings = Settings(system=System(id=self.system_id), tasks=(task,))
        self.journal = open_journal(self.settings, self.directories, self.clock)
        self.board = Board(self.clock.monotonic)
        self.work_dir = os.path.join(self.directories.state_dir, "firmware", "cam")
        self.metadata_dir = os.path.join(self.work_dir, "metadata")
        self.staging_dir = os.path.join(self.work_dir, "staging")
        trust = Trust(
            self.getter,
            metadata_dir=self.metadata_dir,
            root=self.publisher.trusted_root,
            path=PATH,
            channel=carrier.firmware.channel,
            component="cam",
            monotonic=self.clock.monotonic,
        )
        self.high_water = HighWater(self.work_dir, journal=self.journal, component="cam", source=self.source)
        self.channel = Channel(
            carrier,
            system_id=self.system_id,
            journal=self.journal,
            getter=self.getter,
            clock=self.clock,
            trust=trust if self.is_signed else None,
            high_water=self.high_water,
            why_untrusted="",
            is_synchronised=lambda: False,
            lower_bound=lambda: self.lower_bound,
        )
        self.installer = Installer(
            carrier,
            journal=self.journal,
            high_water=self.high_water,
            fetch=Fetch(
                self.getter,
                self.staging_dir,
                monotonic=self.clock.monotonic,
                limit=lambda: self.limit,
                wait=self.clock.advance,
            ),
            drop=Drop(self.directories.data_dir),
            staging=Drop(self.staging_dir, mode=0o600),
            clock=self.clock,
            base_dir=self.directories.base_dir,
            why_not=self.why_not,
            on_receipt=self._count_receipt,
            is_power_low=lambda: self.is_power_low,
            why_wait=lambda path: self.why_wait(path),
        )
        self.worker = FirmwareWorker(
            carrier,
            channel=self.channel,
            installer=self.installer,
            journal=self.journal,
            board=self.board,
            clock=self.clock,
            directory=self.work_dir,
            jitter=lambda: 0.5,
        )

    def _count_receipt(self) -> None:
        self.receipts += 1

    def close(self) -> None:
        self.journal.close()

    def poll(self) -> Fact:
        """One look, now; what the board says of firmware then."""
        self.worker.poll_now()
        self.worker.pass_once(self.stop)
        fact = self.board.fact("firmware/ota")
        assert fact is not None
        return fact

    def wait(self, **how_long: float) -> None:
        """Time passes, on both clocks."""
        self.clock.advance(timedelta(**how_long).total_seconds())

    # -- what a test looks at -----------------------------------------------------------------------------------------

    @property
    def files(self) -> dict[str, bytes]:
        """Everything below generated_data but messages."""
        found = regular_files(self.directories.data_dir)
        return {path: data for path, data in found.items() if not path.startswith("messages/")}

    @property
    def letters(self) -> list[bytes]:
        """The receipts in the inbox; names with a leading dot were never whole, and are none."""
        found = regular_files(os.path.join(self.directories.data_dir, "messages", "confirm_receipt"))
        return [data for name, data in sorted(found.items()) if not name.startswith(".")]

    @property
    def face(self) -> dict[str, Any]:
        return self.journal.firmware_face("cam") or {}

    def gets(self, since: int = 0) -> list[str]:
        """The names of the objects that were asked for."""
        return [call.key.removeprefix(f"{PATH}/") for call in self.store.calls("get")[since:]]
