"""What happens in a demo, in its order, and how it ends.

Promises: every wait has a deadline; Ctrl-C ends the show in good order, a second one ends it at once; whichever way it
ends, no process and (but for `keep`) no file of it is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live

from syncagent.core.errors import SyncagentError
from syncagent.core.model import State
from syncagent.demo.audit import Bucket, Verdict, compare
from syncagent.demo.camp import Camp, configuration, free_page
from syncagent.demo.children import Child, leashed
from syncagent.demo.link import Link, Weather
from syncagent.demo.office import Office
from syncagent.demo.scenes import Lookout, Scene
from syncagent.demo.view import Lines, Page, clock_words, counted, draw_svg, richness
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.control import ask
from syncagent.edges.journal import Journal

LOOK_S = 0.2
#: Importing moto takes many seconds on a small board.
START_S = 90.0
CAMERA_END_S = 20.0
#: The last files: given up after so long without progress, or altogether.
DRAIN_QUIET_S = 60.0
DRAIN_S = 600.0
COMPARE_S = 900.0
#: When the release is published: the files had their say, and the show is seldom over.
PUBLISH_AFTER_S = 6.0
#: The agent promises 10 s.
AGENT_END_S = 15.0
EXIT_AT_ONCE = 130
FAULTS_SHOWN = 30

_SHOWING = "Ctrl-C stops the camera, waits for the rest, and compares"


class Failed(Exception):
    """The demo cannot go on; says why."""


class AtOnce(BaseException):
    """The second wish to end: passes through everything."""


class Wishes:
    """Counts wishes to end. The first is looked at between two steps, the next one interrupts whatever runs."""

    def __init__(self) -> None:
        self.count = 0
        self.is_closed = False
        self._is_held = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Wishes:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        # A terminal that is gone, or a service that stops us, does not ask twice.
        self.count += 1 if number == signal.SIGINT else 2
        if not self._is_held:
            self._interrupt()

    def _interrupt(self) -> None:
        if self.count > 1 and not self.is_closed:
            self.is_closed = True  # what is left is clearing up, and nothing may interrupt that
            raise AtOnce

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For what must not be left between its making and its being known: a process, a directory."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._interrupt()


class Story:
    """One run of the demo. `seconds` None: until Ctrl-C."""

    def __init__(self, *, seconds: float | None, keep: bool, svg_path: str | None) -> None:
        self._seconds = seconds
        self._keep = keep
        self._svg_path = svg_path
        self._clock = Clock()
        self._never = Stop()
        self._wishes = Wishes()
        self._console = Console(highlight=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._lines = Lines()
        self._best: tuple[int, Scene] | None = None
        self._camp: Camp | None = None
        self._page = free_page()
        self._children: list[Child] = []
        self._link: Link | None = None
        self._journal: Journal | None = None
        self._office: Office | None = None
        self._faults: list[str] = []
        self._began = 0.0

    def tell(self) -> int:
        """Run it. Returns the exit code."""
        with self._wishes:
            try:
                with self._wishes.held():
                    self._camp = camp = Camp()
                return self._tell(camp)
            except AtOnce:
                self._say("ended at once; nothing was compared")
                return EXIT_AT_ONCE
            except (Failed, SyncagentError, OSError) as error:
                self._say(f"the demo failed: {error}")
                return 1
            finally:
                self._wishes.is_closed = True
                self._clear_up()

    def _tell(self, camp: Camp) -> int:
        endpoint_url = self._start_store(camp)
        bucket = Bucket(endpoint_url)
        bucket.create()
        self._link = link = Link(int(endpoint_url.rpartition(":")[2]))
        link.open()
        documents = configuration(link.endpoint_url)
        documents["system/system.json"]["web"] = {"listen": self._page}
        camp.configure(documents)
        self._open_office(camp, endpoint_url)
        agent = self._start_agent(camp)
        self._say(f"the agent's page: http://{self._page}/")
        self._journal = Journal(camp.state_dir, self._clock)
        lookout = Lookout(camp, self._journal)
        camera = self._start(camp, "camera", ["-m", "syncagent.demo.camera", camp.directory, camp.record_path])
        self._began = self._clock.monotonic()
        with self._shown() as show:
            self._show(lookout, link, show)
            self._stop_camera(camera, lookout, link, show)
            link.mend()
            self._drain(lookout, link, show)
        self._stop_agent(agent)
        verdict = self._compare(camp, lookout, bucket)
        self._draw()
        return self._report(verdict, lookout, link)

    # -- beginning ----------------------------------------------------------------------------------------------------

    def _start(self, camp: Camp, name: str, arguments: list[str]) -> Child:
        with self._wishes.held():
            child = Child(
                name, arguments, log_path=camp.log_path(name), directory=camp.directory, scratch=camp.scratch_dir
            )
            self._children.append(child)
        return child

    def _start_store(self, camp: Camp) -> str:
        """The store's address, once it answers."""
        self._say("starting the embedded store …")
        store = self._start(camp, "store", ["-m", "syncagent.demo.store", camp.address_path])
        self._await(store, lambda: os.path.exists(camp.address_path))
        with open(camp.address_path, encoding="ascii") as file:
            return file.read()

    def _start_agent(self, camp: Camp) -> Child:
        self._say("starting the agent …")
        directories = ["--config-dir", camp.config_dir, "--base-dir", camp.directory, "--state-dir", camp.state_dir]
        agent = self._start(camp, "agent", leashed(["-m", "syncagent", *directories, "run"]))
        self._await(agent, lambda: ask(camp.state_dir, "status", timeout_s=1.0) is not None)
        return agent

    def _open_office(self, camp: Camp, endpoint_url: str) -> None:
        """The publisher of firmware. Without it the rest is shown all the same."""
        self._say("making a publisher's keys, and a firmware repository …")
        try:
            self._office = office = Office(camp, endpoint_url)
            office.begin()
        except (SyncagentError, OSError) as error:
            self._close_office(f"no firmware in this demo: {error}")

    def _publish(self) -> None:
        if self._office is None or self._office.sha256:
            return
        try:
            self._office.publish()
        except (SyncagentError, OSError) as error:
            self._close_office(f"no release in this demo: {error}")

    def _close_office(self, why: str) -> None:
        self._faults.append(why)
        if self._office is not None:
            self._office.close()
        self._office = None

    def _await(self, child: Child, is_ready: Callable[[], bool]) -> None:
        end = self._clock.monotonic() + START_S
        while not is_ready():
            if child.exit_code() is not None:
                raise Failed(f"the {child.name} ended: {child.last_words()}")
            if self._clock.monotonic() > end:
                raise Failed(f"the {child.name} did not start within {START_S:.0f} s: {child.last_words()}")
            if self._wishes.count:
                raise AtOnce  # nothing was written yet: there is nothing to wait for
            self._never.wait(0.05)

    # -- the show -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[Scene], None]]:
        """How a scene is shown: on the whole terminal, or as lines."""
        if not self._is_live:
            yield self._show_lines
            return
        with Live(console=self._console, screen=True, auto_refresh=False) as live:

            def show(scene: Scene) -> None:
                if self._svg_path and (self._best is None or richness(scene) >= self._best[0]):
                    self._best = (richness(scene), scene)
                live.update(Page(scene), refresh=True)

            yield show

    def _show_lines(self, scene: Scene) -> None:
        if self._svg_path and (self._best is None or richness(scene) >= self._best[0]):
            self._best = (richness(scene), scene)
        for line in self._lines.news(scene):
            self._say(line)

    def _look(self, lookout: Lookout, link: Link, stage: str) -> Scene:
        elapsed_s = self._clock.monotonic() - self._began
        return lookout.look(stage=stage, elapsed_s=elapsed_s, is_link_up=link.is_up, link_cuts=link.cuts)

    def _show(self, lookout: Lookout, link: Link, show: Callable[[Scene], None]) -> None:
        """Until Ctrl-C, or the seconds are over, or somebody left the stage."""
        weather = Weather(link, self._clock.monotonic)
        end = self._began + self._seconds if self._seconds is not None else float("inf")
        stage = f"http://{self._page}/ has pictures; {_SHOWING}"
        while not self._wishes.count and self._clock.monotonic() < end:
            weather.pass_once()
            if self._clock.monotonic() - self._began > PUBLISH_AFTER_S:
                self._publish()
            show(self._look(lookout, link, stage))
            if self._has_lost("store", "agent", "camera"):
                return
            if any(child.exit_code() == 0 for child in self._children):
                stage = "the camera's card is full; Ctrl-C compares"
            self._never.wait(LOOK_S)

    def _has_lost(self, *names: str) -> bool:
        """Whether one of these players ended that should not have; noted as a fault, once."""
        # The camera may end by itself, when its card is full.
        lost = [
            child
            for child in self._children
            if child.name in names
            and child.exit_code() is not None
            and (child.name, child.exit_code()) != ("camera", 0)
        ]
        for child in lost:
            fault = f"the {child.name} ended with {child.exit_code()}: {child.last_words()}".rstrip(": ")
            if fault not in self._faults:
                self._faults.append(fault)
        return bool(lost)

    def _stop_camera(self, camera: Child, lookout: Lookout, link: Link, show: Callable[[Scene], None]) -> None:
        camera.dismiss()
        end = self._clock.monotonic() + CAMERA_END_S
        while camera.exit_code() is None and self._clock.monotonic() < end:
            show(self._look(lookout, link, "the camera finishes its file; Ctrl-C ends at once"))
            self._never.wait(LOOK_S)
        if camera.exit_code() is None:
            camera.end()
            self._faults.append("the camera had to be killed")

    def _drain(self, lookout: Lookout, link: Link, show: Callable[[Scene], None]) -> None:
        """Until everything that the camera finished last is confirmed."""
        started = moved_at = self._clock.monotonic()
        best = (-1, 0)
        while True:
            left = missing(lookout)
            stage = f"waiting for {counted(left, 'file')}; Ctrl-C ends at once" if left else "everything arrived"
            scene = self._look(lookout, link, stage)
            show(scene)
            if not left and not scene.owed:
                return
            now = self._clock.monotonic()
            # Only what never was before: a file that is tried again and again is no progress.
            score = (len(scene.arrived), sum(card.sent_bytes for card in scene.owed))
            if score > best:
                best, moved_at = score, now
            if self._has_lost("store", "agent"):
                return
            if now - moved_at > DRAIN_QUIET_S or now - started > DRAIN_S:
                self._faults.append(f"gave up after {now - started:.0f} s: {counted(left, 'file')} not confirmed")
                return
            self._never.wait(LOOK_S)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _stop_agent(self, agent: Child) -> None:
        if agent.exit_code() is not None:
            return
        self._say("stopping the agent …")
        agent.tell(signal.SIGTERM)
        if not agent.has_ended(AGENT_END_S):
            agent.end()
            self._faults.append(f"the agent did not end within {AGENT_END_S:.0f} s, and was killed")
        elif agent.exit_code() != 0:
            self._faults.append(f"the agent ended with {agent.exit_code()}: {agent.last_words()}")

    def _compare(self, camp: Camp, lookout: Lookout, bucket: Bucket) -> Verdict:
        self._say("comparing every file with its object, byte for byte …")
        began = last_s = self._clock.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal last_s
            if self._clock.monotonic() - began > COMPARE_S:
                raise Failed(f"the comparison took longer than {COMPARE_S:.0f} s")
            if self._clock.monotonic() - last_s > 2.0:
                last_s = self._clock.monotonic()
                self._say(f"  {done} of {total}")

        return compare(camp.directory, lookout.rows(), lookout.written(), bucket, progress)

    def _report(self, verdict: Verdict, lookout: Lookout, link: Link) -> int:
        rewritten = (
            f"of rewritten files, {counted(verdict.earlier, 'earlier version')} arrived as well"
            if verdict.earlier
            else ""
        )
        replaced = f"{counted(verdict.replaced, 'version')} rewritten before being sent" if verdict.replaced else ""
        beside = "; ".join(part for part in (rewritten, replaced) if part)
        if beside:
            self._say(beside)
        self._say(
            f"the link was cut {counted(link.cuts, 'time')} in {clock_words(self._clock.monotonic() - self._began)}"
        )
        if self._office is not None and self._office.sha256:
            self._say(
                "the firmware that was published arrived, verified and whole"
                if self._office.dropped()
                else "the firmware that was published did not arrive before the end"
            )
        faults = self._faults + verdict.faults
        if faults:
            for fault in faults[:FAULTS_SHOWN]:
                self._say(f"  {fault}")
            if len(faults) > FAULTS_SHOWN:
                self._say(f"  and {len(faults) - FAULTS_SHOWN} more")
            self._say(
                f"{counted(verdict.files, 'file')}, {decimal(verdict.size_bytes)}: {counted(len(faults), 'fault')}"
            )
            return 1
        self._say(f"{counted(verdict.files, 'file')}, {verdict.size_bytes:,} bytes: all identical")
        return 0

    def _draw(self) -> None:
        if self._svg_path and self._best:
            with open(self._svg_path, "w", encoding="utf-8") as file:
                file.write(draw_svg(self._best[1]))

    def _clear_up(self) -> None:
        for child in reversed(self._children):
            child.end()
        if self._link is not None:
            self._link.close()
        if self._journal is not None:
            self._journal.close()
        if self._office is not None:
            self._office.close()
        if self._camp is not None and self._keep:
            self._say(f"kept: {self._camp.directory}")
        elif self._camp is not None:
            self._camp.remove()

    def _say(self, line: str) -> None:
        """One plain line; a reader that is gone does not end the demo."""
        with contextlib.suppress(OSError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def missing(lookout: Lookout) -> int:
    """How many files are not confirmed as the camera left them."""
    arrived = {
        (row.path, row.digest.sha256.hex())
        for row in lookout.rows()
        if row.digest and row.state in (State.CONFIRMED, State.REMOVED)
    }
    newest = {version.path: version.sha256 for version in lookout.written()}
    return sum(pair not in arrived for pair in newest.items())
