"""The composition root: settings become edges, edges become workers, workers get threads.

The only place that constructs the running agent's parts. What it builds is torn down in reverse order.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from syncagent.assembly import (
    BASE_LOCK,
    STATE_LOCK,
    Directories,
    identity_of,
    open_store,
    places_of,
    recovered_journal,
    remember_identity,
    set_journal_aside,
    territory_of,
)
from syncagent.core.board import Board, Fact
from syncagent.core.devices import devices_of
from syncagent.core.errors import JournalBroken, Stopping, Transient, Trouble
from syncagent.core.floor import Floor
from syncagent.core.messages import all_addresses
from syncagent.core.release import firmware_carriers
from syncagent.core.retention import scopes_of
from syncagent.core.settings import Carrier, SendAddress, Settings
from syncagent.core.ticks import Ticks
from syncagent.docks.clearance import Clearance
from syncagent.docks.dock import Dock, Ways
from syncagent.docks.losses import Losses
from syncagent.docks.meter import Meter
from syncagent.docks.routing import Routing
from syncagent.edges import files
from syncagent.edges.clock import Bell, Clock, Stop
from syncagent.edges.configfiles import fingerprint, load_settings
from syncagent.edges.control import Control
from syncagent.edges.files import Hold
from syncagent.edges.handling import HandlerHost
from syncagent.edges.i2c import Buses
from syncagent.edges.inbox import Inbox, Outbox
from syncagent.edges.objects import S3Store, wire_sum
from syncagent.edges.reserve import Reserve
from syncagent.edges.synchrony import is_synchronised
from syncagent.edges.systemd import Notifier
from syncagent.edges.watch import Doorbell, Hints
from syncagent.edges.watch.mounts import Mounts
from syncagent.edges.web import Web
from syncagent.firmware import open_hangar
from syncagent.once import Once
from syncagent.reporter import Reporter, disk_fact
from syncagent.showing import open_page
from syncagent.supervisor import Crew, Supervisor
from syncagent.workers.firmware import FirmwareWorker
from syncagent.workers.handling import Handling
from syncagent.workers.heartbeat import Heartbeat
from syncagent.workers.intake import Intake
from syncagent.workers.postman import Postman
from syncagent.workers.pruner import Pruner
from syncagent.workers.rechecker import Rechecker
from syncagent.workers.reloader import Reloader
from syncagent.workers.sensors import Sensors, lower_bound
from syncagent.workers.uploader import Uploader

logger = logging.getLogger(__name__)

#: How long a thread may compute before another gets its turn.
SWITCH_S = 0.0005
#: The longest that a question about news is left open.
MAX_WAIT_S = 60.0
#: How long the last heartbeat before a pause may hold that up; the stop of an agent waits for it, too.
LAST_WORD_S = 5.0


class App:
    """The agent: everything between its locks and its threads."""

    def __init__(self, settings: Settings, directories: Directories, *, is_once: bool = False) -> None:
        """Takes both locks and opens the journal. Raises: AlreadyRunning, JournalBroken, Transient(DISK)."""
        self.settings = settings
        self.clock = Clock()
        self.stop = Stop()
        self.board = Board(self.clock.monotonic)
        for directory in (directories.base_dir, directories.data_dir, directories.state_dir):
            files.make_directory(directory)
        self.reserve = Reserve(directories.state_dir)
        self.reserve.give_up_if_full()
        self._holds = [Hold(os.path.join(directories.state_dir, STATE_LOCK))]
        try:
            self._holds.append(Hold(os.path.join(directories.base_dir, BASE_LOCK)))
            self._hold_data(directories)
            self.journal = recovered_journal(settings, directories, self.clock, self.reserve)
        except BaseException:
            self._release()
            raise
        self.places = places_of(settings, directories)
        self.territory = territory_of(settings, directories, self.places)
        self.directories = directories
        self.notifier = Notifier.from_environment()
        self.supervisor = Supervisor(stop=self.stop, board=self.board, clock=self.clock, notifier=self.notifier)
        self.reporter = Reporter(
            settings=settings,
            journal=self.journal,
            clock=self.clock,
            board=self.board,
            pid=os.getpid(),
            spent=lambda: [meter.spent() for meter in self._meters()],
        )
        self._is_once = is_once
        self._addresses = all_addresses(settings)
        self._upload_bells: list[Bell] = []
        self._nimble: list[Uploader] = []  # of each carrier the one that also tidies
        self._stores: list[S3Store] = []
        self._firmware_stores: dict[str, S3Store] = {}  # by the carrier's name
        self._firmware_meters: dict[str, Meter] = {}  # of carriers that nothing is sent over
        self._docks: list[Dock] = []
        self._floor = Floor()
        self._build()

    def _hold_data(self, directories: Directories) -> None:
        """Of base directories whose generated_data is a link to one place, only one may have an agent."""
        path = os.path.join(os.path.realpath(directories.data_dir), BASE_LOCK)
        try:
            self._holds.append(Hold(path))
        except (OSError, Transient) as error:
            # Such as a network mount without locks, or a card that is full: files are sent all the same.
            logger.warning("no lock path=%s reason=%s", path, error)

    def _build(self) -> None:
        recheck_bell, intake_bell = self.stop.bell(), self.stop.bell()
        hints = Hints(on_ring=intake_bell.ring)
        self.rechecker = Rechecker(
            journal=self.journal,
            places=self.places,
            clock=self.clock,
            is_busy=lambda: bool(self.board.flights()),
            on_ready=self._ring_uploaders,
        )

        def offer(*item: Any) -> bool:
            taken = self.rechecker.offer(*item)
            recheck_bell.ring()
            return taken

        self.intake = Intake(
            territory=self.territory,
            places=self.places,
            journal=self.journal,
            doorbell=self._doorbell(hints),
            hints=hints,
            clock=self.clock,
            board=self.board,
            on_ready=self._ring_uploaders,
            on_recheck=offer,
            is_once=self._is_once,
        )
        self._intake_bell = intake_bell
        self.supervisor.add(Crew(self.intake, intake_bell, "watcher/crash"))
        self._build_sensors()
        for carrier in {address.carrier.name: address.carrier for address in self._addresses}.values():
            self._build_dock(carrier)
        self.postman = Postman(
            settings=self.settings,
            routing=Routing(self.settings, self.places),
            inbox=Inbox(self.places.data_root),
            outbox=Outbox(self.directories.outbox_dir),
            journal=self.journal,
            clock=self.clock,
            board=self.board,
            on_taken=self._look_at_rows,
            on_poll=self._poll_firmware,
        )
        self._firmware: list[tuple[FirmwareWorker, Bell]] = []
        self._build_firmware()
        self._handling: Handling | None = None
        if any(address.handler is not None for address in self._addresses):
            self._handling = Handling(
                addresses=self._addresses,
                fields=self.settings.messages,
                host=HandlerHost(self.directories.base_dir),
                handled_dir=self.directories.handled_dir,
                journal=self.journal,
                places=self.places,
                clock=self.clock,
                board=self.board,
                on_ready=self._ring_uploaders,
                on_look_again=self.intake.look_again,
            )
            self._upload_bells.append(self.stop.bell())  # rings when rows became ready
            self.supervisor.add(Crew(self._handling, self._upload_bells[-1], "uploader/handlers", max_silence_s=4000.0))
        self._postman_bell = self.stop.bell()
        self.supervisor.add(Crew(self.postman, self._postman_bell, "uploader/messages"))
        self.supervisor.add(Crew(self.rechecker, recheck_bell, "uploader/recheck", is_essential=False))
        self._build_pruner()
        self._build_heartbeat()
        self._build_page()
        self.reloader = Reloader(
            self.settings,
            load=lambda: load_settings(self.directories.config_dir, identity=identity_of(self.directories)),
            fingerprint=lambda: fingerprint(self.directories.config_dir),
            on_settings=self._take_over,
            board=self.board,
        )
        self._reload_bell = self.stop.bell()
        self.supervisor.add(Crew(self.reloader, self._reload_bell, "uploader/reload", is_essential=False))
        self.control = Control(
            self.directories.state_dir,
            {
                "status": self.status,
                "settling": self._settling,
                "flights": self._flights,
                "poke": self._poke,
                "poll": self._poll,
                "parts": self._parts,
            },
            {"position": self._position},
        )
        self.board.set_fact("uploader", Fact(True, "ok"))

    def _build_pruner(self) -> None:
        clearance = Clearance(
            journal=self.journal,
            places=self.places,
            territory=self.territory,
            board=self.board,
            clock=self.clock,
            is_settling=lambda path: path in self.intake.settling,
            on_look_again=self.intake.look_again,
        )
        self.intake.on_aside = clearance.found_aside
        losses = [
            Losses(
                dock.carrier,
                list(dock.addresses.values()),
                journal=self.journal,
                outbox=Outbox(self.directories.outbox_dir),
                clock=self.clock,
            )
            for dock in self._docks
        ]
        self._mounts = Mounts()
        self._mounts.open()
        self.pruner = Pruner(
            scopes=scopes_of(self._addresses),
            clearance=clearance,
            losses=losses,
            reserve=self.reserve,
            mounts=self._mounts,
            journal=self.journal,
            places=self.places,
            clock=self.clock,
            board=self.board,
        )
        self._prune_bell = self.stop.bell()
        self.supervisor.add(Crew(self.pruner, self._prune_bell, "disk/prune", is_essential=False))

    def _build_heartbeat(self) -> None:
        self._heartbeat: Heartbeat | None = None
        period_s = self.settings.system.heartbeat_s
        if self._is_once or not period_s:
            return
        bell = self.stop.bell()
        self._heartbeat = Heartbeat(
            self._docks,
            status=self.status,
            period_s=period_s,
            board=self.board,
            clock=self.clock,
            ring=bell.ring,
        )
        self.supervisor.add(Crew(self._heartbeat, bell, "heartbeat", is_essential=False))

    def _build_page(self) -> None:
        self._web: Web | None = None
        if self._is_once or not self.settings.system.web.listen:
            return
        self._web, page = open_page(
            self.settings.system.web,
            status=self.status,
            stores=self._stores,
            settling=self.intake.settling,
            journal=self.journal,
            places=self.places,
            territory=self.territory,
            board=self.board,
            clock=self.clock,
        )
        self.supervisor.add(Crew(page, self.stop.bell(), "page", is_essential=False))

    def _doorbell(self, hints: Hints) -> Doorbell:
        owners = [] if self._is_once else [owner for owner in self.territory.owners if owner.has_events]
        roots = [os.path.join(self.places.data_root, owner.path).rstrip("/") for owner in owners]
        never = [os.path.join(self.places.data_root, directory) for directory in self.territory.reserved]
        return Doorbell(roots, hints, events=bool(roots), never=never)

    def _build_sensors(self) -> None:
        self._sensors = Sensors(
            devices_of(self.settings.devices),
            buses=Buses(wait=self.stop.wait),
            clock=self.clock,
            board=self.board,
            floor=self._floor,
            is_synchronised=is_synchronised,
            on_pause=self._before_pause,
            on_resume=self._after_pause,
            on_identity=self._remember_identity,
        )
        if self.settings.devices:
            self.supervisor.add(Crew(self._sensors, self.stop.bell(), "power/sensors", is_essential=False))

    def _build_dock(self, carrier: Carrier) -> None:
        addresses: dict[str, SendAddress] = {
            address.name: address for address in self._addresses if address.carrier.name == carrier.name
        }
        periods_s = {
            name: float(address.duration)
            for name, address in addresses.items()
            if not isinstance(address.duration, str)
        }
        # The store asks the meter how fast it may send, and the meter asks the store what it sent.
        meters: list[Meter] = []
        store = open_store(
            carrier,
            self.clock,
            progress=self._on_progress,
            limit=lambda: meters[0].limit(),
            floor=self.lower_bound,
        )
        meter = Meter(
            carrier,
            journal=self.journal,
            clock=self.clock,
            totals=lambda: self._totals(carrier.name, store),
            store_time=store.store_clock.store_time,
        )
        meters.append(meter)
        self._stores.append(store)
        dock = Dock(
            carrier=carrier,
            addresses=addresses,
            store=store,
            journal=self.journal,
            places=self.places,
            board=self.board,
            clock=self.clock,
            meter=meter,
            ways=Ways(
                ticks=Ticks(periods_s, self.clock.monotonic(), is_always=self._is_once),
                fields=self.settings.messages,
                handled_dir=self.directories.handled_dir,
                held=self._sensors.held,
                attached=self._sensors.attached,
            ),
            on_look_again=self.intake.look_again,
            on_open=self._ring_uploaders,
        )
        self._docks.append(dock)
        for number in range(1, carrier.upload.workers + 1):
            bell = self.stop.bell()
            self._upload_bells.append(bell)
            name = f"upload-{carrier.name}-{number}"
            worker = Uploader(name, dock, system_id=self.settings.system.id, is_nimble=number == 1)
            if number == 1:
                self._nimble.append(worker)
            # A request may wait for the store as long as `stall_s` says, and more than one may be made in a pass.
            self.supervisor.add(Crew(worker, bell, f"uploader/{name}", max_silence_s=3600.0))

    def _meters(self) -> list[Meter]:
        return [*(dock.meter for dock in self._docks), *self._firmware_meters.values()]

    def _totals(self, carrier_name: str, store: S3Store) -> tuple[int, int]:
        """Bytes sent and received over a carrier, its firmware's included."""
        return wire_sum(each for each in (store, self._firmware_stores.get(carrier_name)) if each is not None)

    def _build_firmware(self) -> None:
        meters = {dock.carrier.name: dock.meter for dock in self._docks}
        for carrier in firmware_carriers(self.settings):
            hangar = open_hangar(
                carrier,
                settings=self.settings,
                directories=self.directories,
                journal=self.journal,
                clock=self.clock,
                on_receipt=self._on_receipt,
                on_news=self._on_image,
                wait=self.stop.wait,
                meter=meters.get(carrier.name),
                progress=self._on_progress,
                lower_bound=self.lower_bound,
                is_power_low=self.is_power_low,
            )
            self._stores.append(hangar.store)
            self._firmware_stores[carrier.name] = hangar.store
            if carrier.name not in meters:
                self._firmware_meters[carrier.name] = hangar.meter
            worker = FirmwareWorker(
                carrier,
                channel=hangar.channel,
                installer=hangar.installer,
                journal=self.journal,
                board=self.board,
                clock=self.clock,
                directory=hangar.directory,
                why_untrusted=hangar.why_untrusted,
                is_once=self._is_once,
            )
            bell = self.stop.bell()
            self._firmware.append((worker, bell))
            self.supervisor.add(Crew(worker, bell, f"firmware/{carrier.name}", is_essential=False))

    def _take_over(self, settings: Settings) -> None:
        """The owner edited what may change in a running agent."""
        self.settings = settings
        self.reporter.set_settings(settings)
        self.postman.set_settings(settings)
        logging.getLogger().setLevel(settings.system.log_level.upper())
        carriers = {address.carrier.name: address.carrier for address in all_addresses(settings)}
        for dock in self._docks:
            dock.set_carrier(carriers[dock.carrier.name])
        for carrier in firmware_carriers(settings):
            if carrier.name in self._firmware_meters:
                self._firmware_meters[carrier.name].set_carrier(carrier)
        self.pruner.set_scopes(scopes_of(all_addresses(settings)))
        self._ring_uploaders()
        self._poll_firmware()  # an image may have waited for the budget

    # -- bells --------------------------------------------------------------------------------------------------------

    def _ring_uploaders(self) -> None:
        for bell in self._upload_bells:
            bell.ring()

    def _on_progress(self, flight: Any) -> None:
        """Called by the store while a body is on its way."""
        self.board.move_flight(threading.current_thread().name, flight.acknowledged_bytes)
        if self.stop.is_set():
            raise Stopping

    # -- devices ------------------------------------------------------------------------------------------------------

    def lower_bound(self) -> datetime | None:
        """The least that the time can be, while the system's clock is not synchronised; None when nothing tells."""
        return lower_bound(self._floor, self.clock, is_synchronised)

    def is_power_low(self) -> bool:
        """Whether a battery is below its limit: nothing may be begun that must not be cut short."""
        return self._sensors.is_power_low()

    def _before_pause(self, _reason: str) -> None:
        """Sending is about to wait: the moment for a last word to the outside."""
        if self._heartbeat is not None:
            self._heartbeat.tell_now(wait_s=LAST_WORD_S)

    def _after_pause(self) -> None:
        self._ring_uploaders()
        if self._heartbeat is not None:
            self._heartbeat.tell_now()
        self._poll_firmware()  # a release may have waited for the battery

    def _remember_identity(self, eui: str) -> None:
        try:
            remember_identity(self.directories, eui)
        except OSError as error:
            logger.warning("identity not remembered reason=%s", files.words(error))

    # -- answers ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        self.board.set_fact("disk", disk_fact(self.directories))
        for dock in self._docks:
            dock.show()  # the wall clock may have been set since the last answer
        return self.reporter.status(settling=self.intake.settling.pending())

    def _settling(self) -> list[dict[str, Any]]:
        return [
            {"path": path, "bytes": entry.facts.size_bytes, "why": entry.writers.value}
            for path, entry in self.intake.settling.items()
        ]

    def _flights(self) -> list[dict[str, Any]]:
        return [
            {"path": f.path, "address": f.address, "bytes": f.size_bytes, "sent_bytes": f.sent_bytes}
            for f in self.board.flights()
        ]

    def _poke(self) -> dict[str, Any]:
        self._look_at_rows()
        self._postman_bell.ring()
        self._ring_uploaders()
        return {"ok": True, "journal": self.journal.identity}

    def _poll(self) -> dict[str, Any]:
        self._poll_firmware()
        return {"ok": True}

    def _parts(self) -> dict[str, Any]:
        """What the parts on the bus say to a command that installs firmware."""
        least = self.lower_bound()
        return {"is_power_low": self.is_power_low(), "least": least.isoformat() if least else None}

    def _look_at_rows(self) -> None:
        """Rows came that wait for their files to be finished."""
        self.intake.poke()
        self._intake_bell.ring()

    def _poll_firmware(self) -> None:
        """A message, or a command, asks whether there is new firmware."""
        for worker, bell in self._firmware:
            worker.poll_now()
            bell.ring()

    def _on_image(self, _size_bytes: int) -> None:
        """Called while an image comes."""
        self.board.add("moved")
        if self.stop.is_set():
            raise Stopping

    def _on_receipt(self) -> None:
        self.postman.expect()
        self._postman_bell.ring()

    def _position(self, question: Mapping[str, Any], go_on: Callable[[], bool]) -> dict[str, Any]:
        """The newest confirmed position, as soon as it is beyond `after`, or after `wait_s` seconds."""
        after, wait_s = question.get("after", 0), question.get("wait_s", 0)
        if not isinstance(after, int) or not isinstance(wait_s, int | float) or not wait_s >= 0:
            return {"error": "`after` is a position, and `wait_s` a number of seconds"}
        return {"position": self.journal.confirmations.wait(after, min(wait_s, MAX_WAIT_S), go_on)}

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """The agent, until it is told to stop. Returns the exit code."""
        self._start()
        logger.info(
            "running system_id=%s addresses=%s base_dir=%s",
            self.settings.system.id,
            ",".join(address.name for address in self.settings.addresses),
            self.directories.base_dir,
        )
        self.supervisor.watch()
        return self._end()

    def run_once(self, timeout_s: float) -> int:
        """Settle and send what is there; 0 when nothing is left, 1 after `timeout_s` seconds without progress."""
        once = Once(
            timeout_s=timeout_s,
            journal=self.journal,
            board=self.board,
            clock=self.clock,
            intake=self.intake,
            postman=self.postman,
            rechecker=self.rechecker,
            pruner=self.pruner,
            firmware=[worker for worker, _ in self._firmware],
            uploaders=self._nimble,
            ring_pruner=self._prune_bell.ring,
        )
        self._start()
        self.supervisor.watch(once.look, every_s=0.1)
        return self._end() or (0 if once.is_whole() else 1)

    def _start(self) -> None:
        """Raises: JournalBroken, Transient(DISK)."""
        # Workers hand the interpreter to one another many times per file, between short waits for the network: the
        # default of 5 ms makes each of them wait for whoever is computing, and costs a third of the throughput.
        sys.setswitchinterval(SWITCH_S)
        try:
            self._open_control()
        except BaseException:
            self._release()
            raise
        self.supervisor.catch_signals(self._reload_bell.ring)
        self.intake.open()
        self.postman.open()
        # Before anything is sent: the battery may be empty, and only the real-time clock may know the time.
        try:
            self._sensors.pass_once(self.stop)
        except Exception:  # a bug there stops nobody, as in its own thread
            logger.exception("the first samples were not taken")
        self.supervisor.serve("control", self.control.serve)
        self.supervisor.start()

    def _open_control(self) -> None:
        try:
            self.control.open()
        except OSError as error:
            where = self.directories.state_dir
            raise Transient(f"cannot make a socket in {where}: {files.words(error)}", trouble=Trouble.DISK) from error

    def _end(self) -> int:
        survivors = self.supervisor.end()
        if self._is_once and not survivors:
            self.pruner.tidy()
        if not survivors:
            self._mounts.close()
        self.journal.confirmations.close()  # who waits for the next one hears that there is none
        self.control.close()
        if self._web is not None:
            self._web.close()
        self.intake.close(1.0)
        if self._handling is not None:
            self._handling.close()
        for store in self._stores:
            store.close()
        if not survivors:
            with contextlib.suppress(JournalBroken):  # on a full disk the last seconds' traffic goes uncounted
                for meter in self._meters():
                    meter.account(is_last=True)
                self.journal.end()
            self.journal.close()
        if self.journal.is_torn:
            set_journal_aside(self.directories, self.clock)
        self._release()
        return self.supervisor.exit_code

    def _release(self) -> None:
        for hold in reversed(self._holds):
            hold.release()
