"""SIGHUP: an edit is looked at by the running agent at once, and what came of it is shown."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent import Agent
from tests.servers import VerifyingS3, wait_until

#: Without the signal an edit that follows a look is noticed 10 s later.
NOTICED_S = 9.5
#: Each question takes the agent's time, too.
ASKED_S = 0.1


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url)
        agent.start()
        yield agent


def edited(agent: Agent) -> None:
    assert agent.process is not None
    os.kill(agent.process.pid, signal.SIGHUP)


def reload_errors(agent: Agent) -> list[Any]:
    return [entry["reason"] + entry["remedy"] for entry in agent.status()["last_errors"] if entry["what"] == "reload"]


@pytest.mark.timeout(60)
def test_sighup_makes_the_agent_take_over_an_edit_or_say_why_not(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, upload={"max_bytes_per_s": 0})
    edited(agent)
    wait_until(
        lambda: "max_bytes_per_s" in str(reload_errors(agent)),
        deadline_s=NOTICED_S,
        every_s=ASKED_S,
        what="the mistake is said",
    )
    agent.configure(verifying.endpoint_url, upload={"workers": 2})
    edited(agent)
    wait_until(
        lambda: "restart" in str(reload_errors(agent)),
        deadline_s=NOTICED_S,
        every_s=ASKED_S,
        what="a restart is asked for",
    )
    agent.configure(verifying.endpoint_url, upload={"metadata": {"site": "north"}})
    edited(agent)
    wait_until(lambda: not reload_errors(agent), deadline_s=NOTICED_S, every_s=ASKED_S, what="the edit is taken over")
    agent.write("a.jpg", b"a")
    wait_until(lambda: agent.count("confirmed") == 1, deadline_s=20, what="it is sent")
    assert verifying.buckets["bucket"][agent.key("a.jpg")].metadata["site"] == "north"
    assert agent.stop() == 0
