"""Samples the devices of the I2C bus: battery, clock, temperature, identity.

Promises that no device ever stops the agent: one that is missing, stuck, busy or lying is "not there", with a reason,
and is looked for again at each sample. Decides from batteries and thermometers whether sending waits; watching and
recording go on. Keeps real-time clocks right, and has them tell the least that the time can be while the system's
clock is not synchronised; the system's clock is never set.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from syncagent.core.board import Board, Fact
from syncagent.core.devices import Device
from syncagent.core.errors import Absence, NotThere
from syncagent.core.floor import Floor
from syncagent.core.parts import Reading, Role
from syncagent.core.parts.base import Blocks
from syncagent.core.sensing import NOT_THERE, PAUSED, Belief, rounded
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.i2c import Buses

logger = logging.getLogger(__name__)

#: A real-time clock that is off by more is set, and how often at most: it drifts by seconds a week.
OFF_S = 2.0
SET_EVERY_S = 86_400.0
#: How the reason begins for which sending waits.
POWER = "power: "


class Sensors:
    """See the module.

    `on_pause` is told why, before sending waits; `on_resume` is called after it goes on; `on_identity` is told each new
    identity of this device.
    """

    name = "sensors"

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        buses: Buses,
        clock: Clock,
        board: Board,
        floor: Floor,
        is_synchronised: Callable[[], bool],
        on_pause: Callable[[str], None] = lambda _: None,
        on_resume: Callable[[], None] = lambda: None,
        on_identity: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._beliefs = [Belief(device) for device in devices]
        self._due = {device.name: clock.monotonic() for device in devices}
        self._set_at: dict[str, float] = {}
        self._stuck_at: dict[str, float] = {}
        self._states: dict[str, str] = {}
        self._identity = ""
        self._buses = buses
        self._clock = clock
        self._board = board
        self._floor = floor
        self._is_synchronised = is_synchronised
        self._on_pause = on_pause
        self._on_resume = on_resume
        self._on_identity = on_identity
        # Read by other threads: each is replaced as a whole.
        self._held = ""
        self._is_power_low = False
        self._attached: Mapping[str, str] = {}

    def pass_once(self, stop: Stop) -> float:
        """Sample what is due; returns after how many seconds the next is."""
        stuck: set[int] = set()
        # Whoever held its bus up comes last, or those behind it would never be asked.
        for belief in sorted(self._beliefs, key=lambda each: self._stuck_at.get(each.device.name, float("-inf"))):
            device = belief.device
            if stop.is_set():
                break
            if self._due[device.name] > self._clock.monotonic():
                continue
            self._due[device.name] = self._clock.monotonic() + device.sample_s
            self._sample(belief, stuck)
            self._show(belief)
        self._decide()
        now = self._clock.monotonic()
        return max(0.0, min(self._due.values(), default=now) - now)

    # -- what others ask ----------------------------------------------------------------------------------------------

    def held(self) -> str:
        """Why nothing may be sent; empty when it may."""
        return self._held

    def is_power_low(self) -> bool:
        """Whether a battery is below its limit: nothing may be begun that must not be cut short."""
        return self._is_power_low

    def attached(self) -> Mapping[str, str]:
        """Metadata for the objects that are sent now."""
        return self._attached

    # -- one device ---------------------------------------------------------------------------------------------------

    def _sample(self, belief: Belief, stuck: set[int]) -> None:
        """Read one device. `stuck`: buses that did not move in this pass; each further part would wait as long."""
        device = belief.device
        try:
            if device.bus in stuck:
                raise NotThere(f"{device.place}: the bus is stuck", why=Absence.STUCK)
            reading, blocks = self._buses.sample(device.bus, device.address, device.part, device.options)
        except NotThere as error:
            if error.why is Absence.STUCK and device.bus not in stuck:
                stuck.add(device.bus)
                self._stuck_at[device.name] = self._clock.monotonic()
            belief.missed(error)
            return
        self._stuck_at.pop(device.name, None)
        belief.saw(reading)
        if device.part.role is Role.CLOCK:
            self._compare(device, reading, blocks)
        if reading.eui and reading.eui != self._identity:
            self._identity = reading.eui
            self._on_identity(reading.eui)

    def _compare(self, device: Device, reading: Reading, blocks: Blocks) -> None:
        """What a clock says is kept, and its time set, if that is due."""
        if reading.moment is not None and not reading.doubt:
            self._floor.note(device.name, reading.moment, self._clock.monotonic())
        else:
            self._floor.forget(device.name)
        if device.part.set_time is None or not self._is_synchronised():
            return
        now, monotonic_s = self._clock.now(), self._clock.monotonic()
        is_off = reading.moment is None or abs((reading.moment - now).total_seconds()) > OFF_S
        set_at = self._set_at.get(device.name)
        if not (is_off or reading.doubt) or (set_at is not None and monotonic_s - set_at < SET_EVERY_S):
            return
        self._set_at[device.name] = monotonic_s
        try:
            self._buses.write(device.bus, device.address, device.part.set_time(now, blocks))
        except NotThere as error:
            logger.warning("clock not set device=%s reason=%s", device.name, error)
            return
        self._floor.forget(device.name)  # a leap is not followed, and this one is ours
        self._due[device.name] = monotonic_s  # to see what came of it
        logger.info("clock set device=%s was=%s", device.name, reading.doubt or reading.moment)

    # -- what comes of it ---------------------------------------------------------------------------------------------

    def _show(self, belief: Belief) -> None:
        device = belief.device
        self._board.set_device(device.name, belief.face(self._clock.now()))
        is_ok, state, reason = belief.verdict()
        for name in [f"{word}/{device.name}" for word in _facts_of(device)]:
            if is_ok and state != PAUSED and name.startswith("clock/"):
                self._board.drop_fact(name)  # the store's word on our clock says more
            else:
                values = rounded(belief.reading.values) if belief.reading is not None else {}
                said = reason if state == PAUSED or not reason else f"{device.name}: {reason}"
                self._board.set_fact(name, Fact(is_ok and state != PAUSED, state, said, values))
        if state == NOT_THERE and belief.fault is not None:
            self._board.complain(f"devices/{device.name}", NOT_THERE, reason, belief.fault.remedy)
        else:
            self._board.settle_complaint(f"devices/{device.name}", NOT_THERE)
        if self._states.get(device.name) != state:
            self._states[device.name] = state
            logger.log(
                logging.INFO if is_ok else logging.WARNING,
                "device %s name=%s source=%s reason=%s",
                state,
                device.name,
                device.part.source,
                reason,
            )

    def _decide(self) -> None:
        """Whether sending waits, by all devices together."""
        self._attached = self._metadata()
        self._is_power_low = any(belief.is_power_low for belief in self._beliefs)
        reasons = [reason for belief in self._beliefs for reason in belief.pauses()]
        held = POWER + "; ".join(reasons) if reasons else ""
        had = self._held
        if held and not had:
            logger.warning("sending waits reason=%s", held)
            try:
                self._on_pause(held)
            except Exception:
                logger.exception("the last word before the pause was not said")
        self._held = held
        if held:
            self._board.set_fact("uploader/power", Fact(True, "paused", held))
        elif had:
            logger.info("sending goes on after=%s", had)
            self._board.drop_fact("uploader/power")
            self._on_resume()

    def _metadata(self) -> dict[str, str]:
        metadata: dict[str, str] = {}
        for belief in self._beliefs:
            reading = belief.reading
            if not belief.device.attach or reading is None:
                continue
            prefix = f"syncagent-{_header_name(belief.device.name)}"
            for quantity, value in rounded(reading.values).items():
                metadata[f"{prefix}-{quantity}"] = f"{value:g}"
            if reading.eui:
                metadata[f"{prefix}-eui"] = reading.eui
        return metadata


def lower_bound(floor: Floor, clock: Clock, is_synchronised: Callable[[], bool]) -> datetime | None:
    """The least that the time can be, while the system's clock is not synchronised; None when nothing tells."""
    least = floor.at(clock.monotonic())
    return None if least is None or is_synchronised() else least


def _facts_of(device: Device) -> tuple[str, ...]:
    """Which facts of the status this device speaks for."""
    if device.part.role is Role.CLOCK:
        return ("clock", "power") if device.limits else ("clock",)
    return ("power",) if device.part.role is Role.BATTERY or device.limits else ()


def _header_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"
