"""No order of calls leaves a gate closed once the world is well."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.errors import Blocked, Transient, Trouble
from syncagent.core.retry import Gate

ERRORS = st.one_of(
    st.builds(
        Transient,
        st.just("t"),
        trouble=st.sampled_from(Trouble),
        retry_after_s=st.none() | st.floats(allow_nan=True, min_value=None),
    ),
    st.builds(Blocked, st.just("b"), trouble=st.sampled_from(Trouble)),
)


@given(st.lists(st.tuples(st.sampled_from(["ask", "unused", "passed", "failed"]), st.floats(0, 100), ERRORS)))
def test_whoever_asks_and_gives_back_gets_through_within_thirty_seconds(
    calls: list[tuple[str, float, Transient | Blocked]],
) -> None:
    gate, now, out = Gate(), 0.0, 0
    for what, wait_s, error in calls:
        now += wait_s
        if what == "ask":
            was_open = gate.is_open
            if gate.wait_s(now) == 0:
                out += 1
                assert was_open or out >= 1
        elif out:
            out -= 1
            if what == "unused":
                gate.unused()
            elif what == "passed":
                gate.passed(now)
            else:
                gate.failed(error, now)
    # Everybody who is still out comes back without news; then the world is well.
    for _ in range(out):
        gate.unused()
    until = now + 30.0 + 1e-3
    while True:
        wait_s = gate.wait_s(now)
        if wait_s == 0:
            break
        now += wait_s + 1e-6
        assert now <= until
    gate.passed(now)
    assert gate.is_open
    assert gate.wait_s(now) == 0.0
