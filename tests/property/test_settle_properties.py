"""Settling against a model that knows the whole past: what is finished was quiet and closed, and not for long."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from syncagent.core.model import Facts
from syncagent.core.settle import LEAST_QUIET_WITHOUT_LEASE_S, QUIET_WITHOUT_LEASE, Settling, Verdict, Writers

TICK_S = 0.05


class Step(NamedTuple):
    """What happens to one file in one moment, after so many ticks."""

    ticks: int
    file: int
    writes: bool
    opens: bool
    closes: bool
    is_heard: bool


STEPS = st.lists(
    st.builds(
        Step,
        ticks=st.integers(0, 60),
        file=st.integers(0, 2),
        writes=st.booleans(),
        opens=st.booleans(),
        closes=st.booleans(),
        is_heard=st.booleans(),
    ),
    max_size=25,
)


class Model:
    """One file and all that ever happened to it, in ticks."""

    def __init__(self, inode: int, *, has_leases: bool) -> None:
        self.inode = inode
        self.has_leases = has_leases
        self.version = 0
        self.changed_at = 0
        self.open = 0
        self.closed_at = 0

    def facts(self) -> Facts:
        return Facts(self.version, self.version, self.version, self.inode)

    def writers(self) -> Writers:
        if not self.has_leases:
            return Writers.UNKNOWN
        return Writers.SOME if self.open else Writers.NONE


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.lists(st.booleans(), min_size=3, max_size=3))
def test_finished_means_quiet_and_closed_and_comes_within_two_seconds_of_it(
    steps: list[Step], settle_s: float, leases: list[bool]
) -> None:
    settling = Settling()
    models = [Model(number, has_leases=has) for number, has in enumerate(leases)]
    moments: dict[int, list[Step]] = {}
    at = 1
    for step in steps:
        at += step.ticks
        moments.setdefault(at, []).append(step)
    end = at + int(40 / TICK_S)
    settled: dict[int, int] = {}

    def see(model: Model, tick: int) -> None:
        settling.see(str(model.inode), model.facts(), now=tick * TICK_S, settle_s=settle_s)

    for model in models:
        see(model, 0)
    for tick in range(end):
        for step in moments.get(tick, ()):
            model = models[step.file]
            if step.writes:
                model.version += 1
                model.changed_at = tick
                settled.pop(model.inode, None)
            if step.opens:
                model.open += 1
            if step.closes and model.open:
                model.open -= 1
                model.closed_at = tick
            # Once it has left, only a hint or a scan brings a changed file back.
            is_told = step.is_heard or (step.writes and str(model.inode) not in settling)
            if is_told and settled.get(model.inode) != model.version:
                see(model, tick)
        for name in settling.due(tick * TICK_S + 1e-9, limit=100):
            model = models[int(name)]
            verdict = settling.judge(name, model.facts(), model.writers(), now=tick * TICK_S)
            assert verdict is not Verdict.UNSETTLED
            if verdict is Verdict.FINISHED:
                quiet_s = (tick - model.changed_at) * TICK_S
                needed_s = settle_s
                if not model.has_leases:
                    needed_s = max(QUIET_WITHOUT_LEASE * settle_s, LEAST_QUIET_WITHOUT_LEASE_S)
                assert model.open == 0 or not model.has_leases
                assert quiet_s >= needed_s - 1e-6
                since_close_s = (tick - max(model.changed_at, model.closed_at)) * TICK_S
                # What was not heard is seen when its look is due: that is inside the two seconds, with a lease.
                assert since_close_s <= needed_s + 2.0
                settled[model.inode] = model.version
    for model in models:
        if not model.open or not model.has_leases:
            assert settled.get(model.inode) == model.version, "a closed, quiet file was not finished"
            assert str(model.inode) not in settling
        elif str(model.inode) not in settling:
            assert settled.get(model.inode) == model.version
