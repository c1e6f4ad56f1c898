"""Hints: which paths are worth a look, and which roots only a scan can tell about.

Promises to stay small, never to fail and never to wait, whoever calls from whichever thread.
What a hint means is the intake's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


def _ring_nobody() -> None:
    """The intake looks every second anyway."""


class Hints:
    """The bounded set of paths that something happened to; a full set becomes one rescan flag per root.

    A hinted directory means: scan it, with all below. A rescan of "" means of every root: it stands there
    only when the set ran full before anybody named the roots.
    """

    def __init__(self, limit: int = 20_000, on_ring: Callable[[], None] = _ring_nobody) -> None:
        self._limit = limit
        self._on_ring = on_ring
        self._lock = threading.Lock()
        self._roots: tuple[str, ...] = ()
        self._paths: set[str] = set()
        self._suspects: dict[str, str] = {}
        self._is_full = False

    def know(self, roots: Sequence[str]) -> None:
        """Names the roots that a full set is reduced to."""
        with self._lock:
            self._roots = tuple(roots)

    def add(self, path: str) -> None:
        """Something happened to `path`. Rings when it is the first news since the last `take`."""
        with self._lock:
            if self._is_full:
                return  # the scan that was asked for will find it
            is_first = not self._paths and not self._suspects
            self._paths.add(path)
            if len(self._paths) > self._limit:
                self._is_full = True
                self._paths = set()
                for root in self._roots or ("",):
                    self._suspects.setdefault(root, f"more than {self._limit} changes at once")
        if is_first:
            self._ring()

    def suspect(self, root: str, why: str) -> None:
        """Asks for a rescan of `root`; the first reason is kept."""
        with self._lock:
            is_first = not self._paths and not self._suspects
            self._suspects.setdefault(root, why)
        if is_first:
            self._ring()

    def take(self) -> tuple[set[str], dict[str, str]]:
        """Empties the set: (paths, {root: why to rescan}). Look at the disk after it, never before."""
        with self._lock:
            taken = self._paths, self._suspects
            self._paths, self._suspects, self._is_full = set(), {}, False
        return taken

    def _ring(self) -> None:
        try:
            self._on_ring()
        except Exception:  # whoever rings must live on: it is the thread that hears the disk
            logger.exception("hints rang in vain")
