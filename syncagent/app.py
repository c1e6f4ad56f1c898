"""The composition root: settings become edges, edges become workers, workers get threads.

The only place that constructs edges. What it builds is torn down in reverse order by `close`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from syncagent import __version__
from syncagent.core.board import Board, Fact
from syncagent.core.errors import Stopping, Transient
from syncagent.core.model import OWED, State
from syncagent.core.places import GENERATED, Places
from syncagent.core.settings import Carrier, SendAddress, Settings
from syncagent.core.status import Cell, Snapshot, build
from syncagent.core.territory import Territory
from syncagent.edges import files
from syncagent.edges.clock import Bell, Clock, Stop
from syncagent.edges.control import Control
from syncagent.edges.files import Hold
from syncagent.edges.journal import Journal
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.systemd import Notifier
from syncagent.edges.watch import Doorbell, Hints
from syncagent.supervisor import Crew, Supervisor
from syncagent.workers.intake import Intake
from syncagent.workers.rechecker import Rechecker
from syncagent.workers.uploader import Dock, Uploader

logger = logging.getLogger(__name__)

STATE_LOCK = "agent.lock"
BASE_LOCK = ".syncagent.lock"
RATE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Directories:
    """Where everything is; absolute."""

    config_dir: str
    base_dir: str
    state_dir: str

    @property
    def data_dir(self) -> str:
        return os.path.join(self.base_dir, GENERATED)


def places_of(settings: Settings, directories: Directories) -> Places:
    roots = {root for address in settings.addresses for root in address.carrier.upload.allowed_roots}
    data_root = os.path.realpath(directories.data_dir)
    return Places(directories.base_dir, data_root, tuple(sorted(os.path.realpath(root) for root in roots)))


def territory_of(settings: Settings, directories: Directories, places: Places) -> Territory:
    reserved = {task.carrier.path for task in settings.tasks if task.carrier.path}
    state = places.heard(os.path.realpath(directories.state_dir))
    if state:
        reserved.add(state)
    return Territory(settings.addresses, reserved=reserved)


def store_name(carrier: Carrier) -> str:
    """What keys are unique within: the journal's name of the store."""
    return f"{carrier.endpoint_url or 'aws'} {carrier.bucket_name}"


def open_store(carrier: Carrier, clock: Clock, *, progress: Callable[[Any], None] | None = None) -> S3Store:
    upload = carrier.upload
    return S3Store(
        StoreSettings(
            bucket=carrier.bucket_name or "",
            endpoint_url=carrier.endpoint_url,
            region=carrier.region,
            access_key_id=carrier.access_key_id,
            secret_access_key=carrier.secret_access_key,
            addressing_style=carrier.store.addressing_style,
            connect_timeout_s=upload.connect_timeout_s,
            stall_s=upload.stall_s,
            max_connections=upload.workers + 1,
            reads_back=upload.verify == "read_back",
        ),
        clock=clock.now,
        progress=progress,
    )


def open_journal(settings: Settings, directories: Directories, clock: Clock) -> Journal:
    """Raises: JournalBroken, Transient(DISK)."""
    files.make_directory(directories.state_dir, mode=0o750)
    journal = Journal(directories.state_dir, clock)
    journal.set_stores({address.name: store_name(address.carrier) for address in settings.addresses})
    return journal


class Reporter:
    """Builds the status of a running agent, or of one that is not."""

    def __init__(self, *, settings: Settings, journal: Journal, clock: Clock, board: Board, pid: int | None) -> None:
        self._settings = settings
        self._journal = journal
        self._clock = clock
        self._board = board
        self._pid = pid
        self._started = clock.monotonic()
        self._samples: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])

    def status(self, *, settling: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """`settling`: how many files, and bytes, are not recorded because they are not finished."""
        now = self._clock.monotonic()
        cells = [
            Cell(address, state, reason, tally.files, tally.bytes)
            for (address, state, reason), tally in self._journal.tally().items()
        ]
        if settling[0]:
            cells.append(Cell("", State.SETTLING, "", *settling))
        names = [address.name for address in self._settings.addresses]
        owed = any(cell.state in OWED for cell in cells)
        return build(
            Snapshot(
                version=__version__,
                system_id=self._settings.system.id,
                time=self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
                is_running=self._pid is not None,
                pid=self._pid,
                uptime_s=round(now - self._started, 1) if self._pid is not None else None,
                max_unsent_s=self._settings.system.health.max_unsent_s,
                cells=cells,
                facts=self._board.facts(),
                addresses=names,
                oldest_unsent_s=self._journal.oldest_owed() if owed else None,
                oldest_by_address={name: self._journal.oldest_owed(name) if owed else None for name in names},
                complaints=self._board.complaints(),
                monotonic=now,
                rates=self._rates(now),
                warnings=self._settings.warnings,
            )
        )

    def _rates(self, now: float) -> dict[str, float]:
        """Files and bytes per second over the last minute or so."""
        sent = (now, self._board.count("sent_files"), self._board.count("sent_bytes"))
        while len(self._samples) > 1 and self._samples[1][0] <= now - RATE_WINDOW_S:
            self._samples.popleft()
        if now - self._samples[-1][0] >= 1.0:
            self._samples.append(sent)
        first = self._samples[0]
        span_s = max(now - first[0], 1.0)
        return {
            "files_per_s": round((sent[1] - first[1]) / span_s, 3),
            "bytes_per_s": round((sent[2] - first[2]) / span_s, 1),
        }


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
        self._holds = [Hold(os.path.join(directories.state_dir, STATE_LOCK))]
        try:
            self._holds.append(Hold(os.path.join(directories.base_dir, BASE_LOCK)))
            self.journal = open_journal(settings, directories, self.clock)
        except BaseException:
            self._release()
            raise
        self.places = places_of(settings, directories)
        self.territory = territory_of(settings, directories, self.places)
        self.directories = directories
        self.notifier = Notifier.from_environment()
        self.supervisor = Supervisor(stop=self.stop, board=self.board, clock=self.clock, notifier=self.notifier)
        self.reporter = Reporter(
            settings=settings, journal=self.journal, clock=self.clock, board=self.board, pid=os.getpid()
        )
        self._is_once = is_once
        self._upload_bells: list[Bell] = []
        self._stores: list[S3Store] = []
        self._build()

    def _build(self) -> None:
        recheck_bell, intake_bell = self.stop.bell(), self.stop.bell()
        hints = Hints(on_ring=intake_bell.ring)
        self.rechecker = Rechecker(
            journal=self.journal, places=self.places, is_busy=self._is_sending, on_ready=self._ring_uploaders
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
        for carrier in {address.carrier.name: address.carrier for address in self.settings.addresses}.values():
            self._build_dock(carrier)
        self.supervisor.add(Crew(self.rechecker, recheck_bell, "uploader/recheck", is_essential=False))
        self.control = Control(
            self.directories.state_dir,
            {"status": self.status, "settling": self._settling, "flights": self._flights, "poke": self._poke},
        )
        self.board.set_fact("uploader", Fact(True, "ok"))

    def _doorbell(self, hints: Hints) -> Doorbell:
        owners = [] if self._is_once else [owner for owner in self.territory.owners if owner.has_events]
        roots = [os.path.join(self.places.data_root, owner.path).rstrip("/") for owner in owners]
        never = [os.path.join(self.places.data_root, directory) for directory in self.territory.reserved]
        return Doorbell(roots, hints, events=bool(roots), never=never)

    def _build_dock(self, carrier: Carrier) -> None:
        addresses: dict[str, SendAddress] = {
            address.name: address for address in self.settings.addresses if address.carrier.name == carrier.name
        }
        store = open_store(carrier, self.clock, progress=self._on_progress)
        self._stores.append(store)
        dock = Dock(
            carrier=carrier,
            addresses=addresses,
            store=store,
            journal=self.journal,
            places=self.places,
            board=self.board,
            clock=self.clock,
            on_look_again=self.intake.look_again,
            on_open=self._ring_uploaders,
        )
        for number in range(1, carrier.upload.workers + 1):
            bell = self.stop.bell()
            self._upload_bells.append(bell)
            name = f"upload-{carrier.name}-{number}"
            worker = Uploader(name, dock, system_id=self.settings.system.id, is_nimble=number == 1)
            # A request may wait for the store as long as `stall_s` says, and more than one may be made in a pass.
            self.supervisor.add(Crew(worker, bell, f"uploader/{name}", max_silence_s=3600.0))

    # -- bells --------------------------------------------------------------------------------------------------------

    def _ring_uploaders(self) -> None:
        for bell in self._upload_bells:
            bell.ring()

    def _is_sending(self) -> bool:
        return any(
            state in (State.READY, State.SENDING) and tally.files
            for (_, state, _), tally in self.journal.tally().items()
        )

    def _on_progress(self, flight: Any) -> None:
        """Called by the store while a body is on its way."""
        self.board.move_flight(threading.current_thread().name, flight.acknowledged_bytes)
        if self.stop.is_set():
            raise Stopping

    # -- answers ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        self.board.set_fact("disk", disk_fact(self.directories))
        return self.reporter.status(settling=(len(self.intake.settling), self.intake.settling.size_bytes()))

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
        self.intake.poke()
        self._intake_bell.ring()
        self._ring_uploaders()
        return {"ok": True}

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
        last: tuple[Any, ...] = ()
        moved_at, done = self.clock.monotonic(), False

        def look() -> bool:
            nonlocal last, moved_at, done
            now = self.clock.monotonic()
            done = self.intake.is_idle() and self.rechecker.is_idle() and self._left() == 0
            progress = self._progress()
            if progress != last:
                last, moved_at = progress, now
            return done or now - moved_at >= timeout_s

        self._start()
        self.supervisor.watch(look, every_s=0.05)
        parked = sum(tally.files for (_, state, _), tally in self.journal.tally().items() if state is State.PARKED)
        code = self._end()
        return code or (0 if done and not parked else 1)

    def _left(self) -> int:
        return sum(tally.files for (_, state, _), tally in self.journal.tally().items() if state in OWED)

    def _progress(self) -> tuple[Any, ...]:
        """Changes whenever a file got nearer to the bucket."""
        states = sorted(
            (str(state), tally.files)
            for (_, state, _), tally in self.journal.tally().items()
            if state in (State.CONFIRMED, State.REMOVED, State.SUPERSEDED, State.GONE, State.PARKED)
        )
        settled = len(self.intake.settling), self.intake.full_scans
        return (tuple(states), settled, self.board.count("moved"))

    def _start(self) -> None:
        recovered = self.journal.recover()
        if recovered:
            logger.info("recovered rows=%d", recovered)
        self.supervisor.catch_signals()
        self.intake.open()
        self.control.open()
        self.supervisor.serve("control", self.control.serve)
        self.supervisor.start()

    def _end(self) -> int:
        survivors = self.supervisor.end()
        self.control.close()
        self.intake.close(1.0)
        for store in self._stores:
            store.close()
        if not survivors:
            self.journal.close()
        self._release()
        return self.supervisor.exit_code

    def _release(self) -> None:
        for hold in reversed(self._holds):
            hold.release()


def is_running(directories: Directories) -> int | None:
    """PID of the agent that runs on this state directory."""
    return files.is_held(os.path.join(directories.state_dir, STATE_LOCK))


def disk_fact(directories: Directories) -> Fact:
    """How full the disk under the data is."""
    try:
        free, total, inodes = files.space_of(directories.data_dir)
    except Transient as error:
        return Fact(False, "away", str(error))
    percent = 100.0 * free / total if total else 100.0
    more = {"free_bytes": free, "free_percent": round(percent, 1), "free_inodes_percent": round(inodes, 1)}
    if free == 0 or inodes == 0:
        return Fact(False, "full", "no space left: recording stops", more)
    return Fact(True, "ok", "", more)
