"""Notices that the configuration was edited, and puts in force what can change in a running agent.

Limits, order, budget, retries: at once. What decides which files are sent, and where to, needs a restart, and status
says so. A mistake changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import attrs

from syncagent.core.board import Board
from syncagent.core.errors import ConfigError
from syncagent.core.settings import Carrier, Settings
from syncagent.edges.clock import Stop

logger = logging.getLogger(__name__)

LOOK_S = 10.0
CONFIGURATION = "configuration"
#: Keys of `upload` that shape connections and threads, which are made once.
_FIXED = ("workers", "connect_timeout_s", "stall_s", "verify", "allowed_roots")


def lasting(settings: Settings) -> object:
    """What must be the same for an edit to be taken over by the running agent."""

    def fixed(carrier: Carrier) -> object:
        upload = tuple(getattr(carrier.upload, name) for name in _FIXED)
        bare = attrs.evolve(carrier, upload=type(carrier.upload)(), retention=type(carrier.retention)())
        return upload, bare, carrier.access_key_id, carrier.secret_access_key

    addresses = [(attrs.evolve(a, carrier=Carrier(name="")), fixed(a.carrier)) for a in settings.addresses]
    tasks = [(attrs.evolve(t, carrier=Carrier(name="")), fixed(t.carrier)) for t in settings.tasks]
    system = attrs.evolve(settings.system, health=type(settings.system.health)(), log_level="info")
    return system, addresses, tasks, settings.devices, settings.messages


class Reloader:
    """See the module. `fingerprint` tells whether a file changed, `on_settings` takes over what may change."""

    name = "reload"

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings],
        fingerprint: Callable[[], Hashable],
        on_settings: Callable[[Settings], None],
        board: Board,
    ) -> None:
        self._settings = settings
        self._load = load
        self._fingerprint = fingerprint
        self._on_settings = on_settings
        self._board = board
        self._seen = fingerprint()

    def pass_once(self, _stop: Stop) -> float:
        """Look whether a file changed; cheap when none did."""
        seen = self._fingerprint()
        if seen != self._seen:
            self._seen = seen
            self._take_over()
        return LOOK_S

    def _take_over(self) -> None:
        try:
            settings = self._load()
        except ConfigError as error:
            logger.warning("configuration not taken over problems=%d first=%s", len(error.problems), error.problems[0])
            self._board.complain(
                CONFIGURATION, "reload", str(error.problems[0]), "mend it; until then the old one is in force"
            )
            return
        if lasting(settings) != lasting(self._settings):
            logger.warning("configuration edited, a restart is needed")
            self._board.complain(
                CONFIGURATION, "reload", "edited keys need a restart", "restart the agent: systemctl restart syncagent"
            )
            return
        self._settings = settings
        self._on_settings(settings)
        self._board.settle_complaint(CONFIGURATION, "reload")
        logger.info("configuration taken over")
