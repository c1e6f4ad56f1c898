"""What the plots show: a few numbers now and then, in memory, of the last hour and of the last day."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

#: A sample each so often, and how many are kept.
HOUR_STEP_S, DAY_STEP_S, KEPT = 10.0, 240.0, 360
#: A step is a little early rather than left out.
_SLACK_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """At one monotonic moment: files that the bucket does not have, and all that went since the start."""

    at: float
    unsent_files: int
    sent_files: int
    wire_bytes: int


class Samples:
    """Thread-safe; never more than so many, however long the agent runs."""

    def __init__(self, step_s: float, kept: int = KEPT) -> None:
        self.step_s = step_s
        self.span_s = step_s * kept
        self._lock = threading.Lock()
        # One more than there are steps: each rate is between two.
        self._samples: deque[Sample] = deque(maxlen=kept + 1)

    def add(self, sample: Sample) -> None:
        """Kept when the last one is a step old."""
        with self._lock:
            if not self._samples or sample.at - self._samples[-1].at >= self.step_s - _SLACK_S:
                self._samples.append(sample)

    def all(self) -> Sequence[Sample]:
        """The oldest first."""
        with self._lock:
            return list(self._samples)


class History:
    """The last hour closely, the last day roughly."""

    def __init__(self) -> None:
        self.hour = Samples(HOUR_STEP_S)
        self.day = Samples(DAY_STEP_S)

    def add(self, sample: Sample) -> None:
        self.hour.add(sample)
        self.day.add(sample)
