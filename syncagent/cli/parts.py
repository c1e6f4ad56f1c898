"""What the parts on the I2C bus say to a command: as the agent believes it, or read here where none runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from syncagent.core.board import Board
from syncagent.core.devices import devices_of
from syncagent.core.floor import Floor
from syncagent.core.settings import Settings
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.control import ask
from syncagent.edges.i2c import Buses
from syncagent.edges.synchrony import is_synchronised
from syncagent.workers.sensors import Sensors, lower_bound

_AGENT = "agent"


class Parts:
    """See the module. Without a device file nobody is asked, and no bus is opened."""

    def __init__(
        self,
        settings: Settings,
        state_dir: str,
        *,
        clock: Clock | None = None,
        buses: Buses | None = None,
        is_synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        self._is_wanted = bool(settings.devices)
        self._state_dir = state_dir
        self._clock = clock or Clock()
        self._is_synchronised = is_synchronised
        self._floor = Floor()
        self._sensors = Sensors(
            devices_of(settings.devices),
            buses=buses or Buses(),
            clock=self._clock,
            board=Board(self._clock.monotonic),
            floor=self._floor,
            is_synchronised=lambda: False,  # setting a clock is the agent's
        )

    def lower_bound(self) -> datetime | None:
        """The least that the time can be, while the system's clock is not synchronised; None when nothing tells."""
        if self._is_wanted and self._floor.at(self._clock.monotonic()) is None:
            self._look()
        return lower_bound(self._floor, self._clock, self._is_synchronised)

    def is_power_low(self) -> bool:
        """Whether a battery is below its limit."""
        if not self._is_wanted:
            return False
        answer = self._look()
        return self._sensors.is_power_low() if answer is None else bool(answer.get("is_power_low"))

    def _look(self) -> dict[str, Any] | None:
        """The agent's answer; None where no agent gave one, and the parts were read here."""
        answer = ask(self._state_dir, "parts")
        if not isinstance(answer, dict) or "is_power_low" not in answer:  # none runs, or an older one
            self._sensors.pass_once(Stop())
            return None
        if answer.get("least") is not None:
            self._floor.note(_AGENT, datetime.fromisoformat(answer["least"]), self._clock.monotonic())
        return answer
