"""syncagent firmware check, update, status, rollback, confirm, history: the device's side."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import click

from syncagent.assembly import with_keys
from syncagent.cli.context import Context, fail, print_json, say
from syncagent.cli.parts import Parts
from syncagent.core.errors import AlreadyRunning, Blocked, Refused, SyncagentError, Transient
from syncagent.core.moments import moment_of
from syncagent.core.printable import printable
from syncagent.core.release import UNDER_WAY, Phase, component_of, firmware_carriers
from syncagent.core.settings import Carrier, Firmware, Settings
from syncagent.docks.channel import Look, face_in_trouble, face_of, manifest_of
from syncagent.edges.accounts import become_owner_of
from syncagent.edges.claim import claimed
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.control import ask
from syncagent.edges.files import make_directory
from syncagent.edges.journal import Journal, Release
from syncagent.firmware import Hangar, open_hangar

T = TypeVar("T")

EXIT_AVAILABLE, EXIT_DEFERRED, EXIT_STALE, EXIT_UNVERIFIED, EXIT_UNREACHABLE = 10, 11, 20, 21, 22
_CODES = {
    Phase.UNCHANGED: 0,
    Phase.ROLLED_BACK: 0,
    Phase.ACTIVATED: 0,
    Phase.CONFIRMED: 0,
    Phase.AVAILABLE: EXIT_AVAILABLE,
    Phase.VERIFIED: EXIT_AVAILABLE,  # it waits for the battery
    Phase.INSTALLED: EXIT_AVAILABLE,
    Phase.DEFERRED: EXIT_DEFERRED,
    Phase.STALE: EXIT_STALE,
    Phase.REJECTED: EXIT_UNVERIFIED,
    Phase.FAILED: EXIT_UNVERIFIED,
}
#: The agent may be at work; it is waited for so long, and looked for this often.
BUSY_S, LOOK_S = 15.0, 0.2

_component = click.option("--component", metavar="NAME", help="Needed where the configuration has more than one.")
_json = click.option("--json", "as_json", is_flag=True, help="One document on standard output.")


@dataclass(frozen=True, slots=True)
class _Bench:
    """What a verb works with."""

    context: Context
    settings: Settings
    carrier: Carrier
    journal: Journal

    @property
    def component(self) -> str:
        return component_of(self.carrier)

    def hangar(self, on_news: Callable[[int], None] = lambda _: None) -> Hangar:
        parts = Parts(self.settings, self.context.state_dir)
        return open_hangar(
            self.carrier,
            settings=self.settings,
            directories=self.context.directories,
            journal=self.journal,
            clock=Clock(),
            on_receipt=lambda: ask(self.context.state_dir, "poke"),
            on_news=on_news,
            lower_bound=parts.lower_bound,
            is_power_low=parts.is_power_low,
        )


@contextlib.contextmanager
def _bench(context: Context, component: str | None, *, is_read_only: bool = False) -> Iterator[_Bench]:
    """Ends with 1 where no firmware is configured. `is_read_only`: for a verb that only looks, and makes nothing.

    What root does is done as the agent's user: a file of root's in the state would bar the agent from then on.
    """
    settings = context.settings()
    carriers = firmware_carriers(settings)
    names = [component_of(carrier) for carrier in carriers]
    if not carriers:
        fail("no active task brings firmware: see handle_new_firmware_message in the README")
    if component is None and len(carriers) > 1:
        raise click.UsageError(f"say --component: {', '.join(names)}")
    if component is not None and component not in names:
        raise click.UsageError(f"there is no component {component}: {', '.join(names)}")
    carrier = carriers[0 if component is None else names.index(component)]
    if not is_read_only:
        carrier = with_keys(carrier)  # that user may not read them
        become_owner_of(context.state_dir)
    journal = context.journal(settings, is_read_only=is_read_only)
    try:
        yield _Bench(context, settings, carrier, journal)
    finally:
        journal.close()


def _alone(bench: _Bench, work: Callable[[Hangar], T], on_news: Callable[[int], None] = lambda _: None) -> T:
    """Do something that only one process may do at a time; an agent at work is waited for."""
    hangar, clock, stop = bench.hangar(on_news), Clock(), Stop()
    until = clock.monotonic() + BUSY_S
    try:
        while True:
            try:
                with claimed(hangar.directory):
                    return work(hangar)
            except AlreadyRunning:
                if clock.monotonic() > until:
                    raise
                stop.wait(LOOK_S)
    finally:
        hangar.store.close()
        if bench.context.agent_pid() is None:  # one that runs keeps the count, and would overwrite ours
            hangar.meter.account(is_last=True)


def _told(bench: _Bench, look: Look) -> str:
    release = look.release
    name = f" {release.name}" if release else ""
    reason = f": {look.reason}" if look.reason else ""
    words = "up to date" if look.phase is Phase.UNCHANGED and release else str(look.phase)
    return f"{bench.component}: {words}{name}{reason}"


@click.command()
@_component
@_json
@click.pass_obj
def check(context: Context, component: str | None, as_json: bool) -> None:
    """Look whether the bucket has a release for this device; installs nothing.

    Exits 0 when up to date, 10 when one is available, 11 when its rollout has not come here yet, 20 when the metadata
    is stale, 21 when it does not verify, 22 when it cannot be reached.
    """
    with _bench(context, component) as bench:
        try:
            look = _alone(bench, lambda hangar: hangar.channel.look(is_full=True))
        except AlreadyRunning as error:
            look = _under_way(bench, error)
        except (Transient, Blocked) as error:
            _unreachable(bench, error, as_json=as_json)
        if as_json:
            print_json({"component": bench.component, **face_of(look), "phase": str(look.phase)})
        else:
            click.echo(printable(_told(bench, look)))
        sys.exit(_CODES.get(look.phase, 1))


def _under_way(bench: _Bench, error: AlreadyRunning) -> Look:
    """What the agent is busy with, which may be an image that comes for hours."""
    release = next((each for each in bench.journal.releases(bench.component) if each.phase in UNDER_WAY), None)
    if release is None:
        fail(f"{error}: run it again when that has ended")
    return Look(Phase.AVAILABLE, f"the agent is at it: {release.phase}", release)


def _unreachable(bench: _Bench, error: Transient | Blocked, *, as_json: bool = False) -> NoReturn:
    if as_json:
        reason = f"{error.trouble}: {error}"
        document = {"component": bench.component, "release": None, "state": "unreachable", "reason": reason}
        print_json({**document, "phase": "unreachable"})
    say(f"syncagent: {bench.component}: {error.trouble}: {error}{_remedy(error)}")
    sys.exit(EXIT_UNREACHABLE)


@click.command()
@click.option(
    "--now",
    is_flag=True,
    help="Wait neither for this device's turn nor for the budget nor, after a failure, for the publisher.",
)
@_component
@click.pass_obj
def update(context: Context, now: bool, component: str | None) -> None:
    """Fetch and install what the bucket offers this device. Exits as `check` does, and 0 once it is installed.

    While the month's budget is spent nothing is fetched without --now. On a low battery it is fetched, and installed
    once the battery is charged, also with --now.
    """
    with _bench(context, component) as bench, _progress() as on_news:

        def work(hangar: Hangar) -> Look:
            stop = Stop()
            make_directory(context.directories.data_dir)  # the agent may never have run
            hangar.installer.finish(stop)
            look = hangar.channel.look(is_full=True, is_urgent=now)
            if look.phase is Phase.AVAILABLE and look.release is not None:
                on_news.begin(look.release)
                release = hangar.installer.install(look.release, stop, basis=look.basis, is_urgent=now)
                look = Look(release.phase, release.reason, release)
            bench.journal.set_firmware_face(bench.component, dict(face_of(look)))
            return look

        try:
            look = _alone(bench, work, on_news)
        except AlreadyRunning as error:
            fail(f"{error}: run it again when that has ended")
        except (Transient, Blocked) as error:
            face = face_in_trouble(bench.journal.firmware_face(bench.component), error)
            bench.journal.set_firmware_face(bench.component, dict(face))
            _unreachable(bench, error)
        on_news.end()
        click.echo(printable(_told(bench, look)))
        ask(context.state_dir, "poll")
        sys.exit(_CODES.get(look.phase, 1))


class _Progress:
    """A bar on a terminal, a line per tenth elsewhere."""

    def __init__(self) -> None:
        self._length = 0
        self._tenth = -1
        self._bar: Any = None

    def begin(self, release: Release) -> None:
        self._length = release.length or 0
        if self._length and sys.stderr.isatty():
            self._bar = click.progressbar(length=self._length, label=release.name, file=sys.stderr)
            self._bar.__enter__()

    def __call__(self, size_bytes: int) -> None:
        if self._bar is not None:
            self._bar.update(size_bytes - self._bar.pos)
        elif self._length and size_bytes * 10 // self._length > self._tenth:
            self._tenth = size_bytes * 10 // self._length
            say(f"{size_bytes} of {self._length} bytes")

    def end(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.__exit__(None, None, None)


@contextlib.contextmanager
def _progress() -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.end()


@click.command()
@_json
@_component
@click.pass_obj
def status(context: Context, as_json: bool, component: str | None) -> None:
    """Show what is installed, what was offered last, and what is believed. Asks nobody."""
    with _bench(context, component, is_read_only=True) as bench:
        document = _status(bench)
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        click.echo(printable(f"{name + ':':<18} {value if value not in (None, '') else '-'}"))


def _status(bench: _Bench) -> dict[str, Any]:
    hangar = bench.hangar()
    try:
        memory, security_version = hangar.high_water.memory(), hangar.high_water.security_version()
    finally:
        hangar.store.close()
    current = bench.journal.current_release(bench.component)
    face = bench.journal.firmware_face(bench.component) or {"release": None, "state": str(Phase.IDLE), "reason": ""}
    firmware = bench.carrier.firmware
    return {
        "component": bench.component,
        **face,
        "installed": current.name if current else None,
        "version": manifest_of(current).version if current else None,
        "sha256": current.sha256 if current else None,
        "activated_at": _time(current.activated_at) if current else None,
        "channel": firmware.channel,
        "hardware": firmware.hardware,
        "signatures": _signatures(hangar, firmware),
        "trouble": hangar.why_untrusted,
        "security_version": security_version,
        "versions": {"root": memory.marks.root, **memory.marks.versions} if memory.expires else {},
        "expires": {role: _words(moment) for role, moment in memory.expires.items()},
        "clock_floor": _words(memory.floor.at) if memory.floor.at else None,
    }


def _signatures(hangar: Hangar, firmware: Firmware) -> str:
    if hangar.why_untrusted:
        return "cannot be verified"
    return "verified" if firmware.root else "not verified"


@click.command()
@_component
@click.pass_obj
def rollback(context: Context, component: str | None) -> None:
    """Bring back the release before the installed one, from what is kept on the disk; exits 1 when there is none.

    The release that is left is not installed again: the publisher has to offer another.
    """

    def work(hangar: Hangar) -> Release:
        stop = Stop()
        hangar.installer.finish(stop)
        return hangar.installer.roll_back("asked for by a person", stop)

    with _bench(context, component) as bench:
        release = _acted(bench, work)
        bench.journal.set_firmware_face(
            bench.component, {"release": release.name, "state": str(release.phase), "reason": "rolled back to"}
        )
        click.echo(f"{bench.component}: {release.name} is in use again")
        ask(context.state_dir, "poll")


@click.command()
@_component
@click.pass_obj
def confirm(context: Context, component: str | None) -> None:
    """Say that the installed release works; exits 1 when none is installed."""
    with _bench(context, component) as bench:
        release = _acted(bench, lambda hangar: hangar.installer.confirm())
        face = {"release": release.name, "state": str(release.phase), "reason": release.reason}
        bench.journal.set_firmware_face(bench.component, face)
        click.echo(f"{bench.component}: {release.name} is {release.phase}")
        ask(context.state_dir, "poll")


def _acted(bench: _Bench, work: Callable[[Hangar], Release]) -> Release:
    try:
        return _alone(bench, work)
    except Refused as error:
        fail(str(error))
    except SyncagentError as error:
        fail(f"{bench.component}: {error}{_remedy(error)}")


def _remedy(error: SyncagentError) -> str:
    return f" -- {error.remedy}" if isinstance(error, Blocked) and error.remedy else ""


@click.command()
@_json
@_component
@click.pass_obj
def history(context: Context, as_json: bool, component: str | None) -> None:
    """List what happened to releases, the newest first."""
    with _bench(context, component, is_read_only=True) as bench:
        steps = [
            {"time": _time(step.at), "release": step.release, "state": str(step.phase), "reason": step.reason}
            for step in bench.journal.firmware_steps(bench.component)
        ]
    if as_json:
        print_json(steps)
        return
    for step in steps:
        reason = f"  {step['reason']}" if step["reason"] else ""
        click.echo(printable(f"{step['time']}  {step['release']:<20} {step['state']}{reason}"))
    if not steps:
        say("nothing")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else _words(moment_of(seconds))


def _words(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
