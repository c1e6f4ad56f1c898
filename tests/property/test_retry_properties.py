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


WORKERS = 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "unused", "passed", "failed"]),
            st.floats(0, 100),
            ERRORS,
            st.integers(0, WORKERS - 1),
        )
    )
)
def test_one_at_a_time_asks_a_closed_gate_and_whoever_does_gets_through_within_thirty_seconds(
    calls: list[tuple[str, float, Transient | Blocked, int]],
) -> None:
    gate, now = Gate(), 0.0
    out: set[int] = set()  # with a request on its way
    asking: set[int] = set()  # of those, since the gate closed
    for what, wait_s, error, who in calls:
        now += wait_s
        if what == "ask" and who not in out:
            was_open = gate.is_open
            if gate.wait_s(now, who) == 0:
                out.add(who)
                if not was_open:
                    asking.add(who)
                assert len(asking) <= 1
        elif what != "ask" and who in out:
            out.remove(who)
            asking.discard(who)
            if what == "unused":
                gate.unused(who)
            elif what == "passed":
                gate.passed(now, who)
                asking.clear()
            else:
                gate.failed(error, now, who)
    # Everybody who is still out comes back without news; then the world is well.
    for who in out:
        gate.unused(who)
    until = now + 30.0 + 1e-3
    while True:
        wait_s = gate.wait_s(now, 0)
        if wait_s == 0:
            break
        now += wait_s + 1e-6
        assert now <= until
    gate.passed(now, 0)
    assert gate.is_open
    assert gate.wait_s(now, 0) == 0.0
