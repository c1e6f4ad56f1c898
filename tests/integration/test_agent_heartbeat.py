"""The status in the bucket: it comes by itself, it is the one that people are shown, and nothing depends on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent import Agent, sent
from tests.integration.test_agent_power import BATTERY, Field
from tests.integration.test_agent_power import bus as bus  # a fixture
from tests.policies import allows
from tests.servers import Fault, VerifyingS3, free_port, wait_until

KEY = "camera/field-7/.syncagent/status.json"


@pytest.fixture
def agent(tmp_path: Path, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as made:
        configure(made, verifying.endpoint_url)
        yield made


def configure(agent: Agent, endpoint_url: str, *, heartbeat_s: float = 1, **more: Any) -> None:
    agent.configure(endpoint_url, system={"heartbeat_s": heartbeat_s}, **more)


def told(store: VerifyingS3) -> dict[str, Any]:
    """The last heartbeat; empty before the first."""
    body = store.objects().get(KEY)
    found: dict[str, Any] = json.loads(body) if body is not None else {}
    return found


def beats(store: VerifyingS3) -> int:
    return sum(event.key == KEY for event in store.requests(operation="PutObject"))


def journal_bytes(agent: Agent) -> dict[str, tuple[int, int]]:
    """(size, mtime) of every file of the state directory."""
    found = {}
    for entry in os.scandir(agent.state_dir):
        status = entry.stat()
        found[entry.name] = (status.st_size, status.st_mtime_ns)
    return found


def test_the_heartbeat_is_the_status_and_replaces_the_one_before_it(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    agent.start()
    wait_until(lambda: told(verifying).get("queue", {}).get("confirmed", {}).get("files") == 1, what="a heartbeat")
    status, said = agent.status(), told(verifying)
    assert set(said) == set(status)
    for name in ("version", "system_id", "running", "pid", "healthy", "state", "queue", "addresses"):
        assert said[name] == status[name], name
    assert {name: fact["state"] for name, fact in said["facts"].items()} == {
        name: fact["state"] for name, fact in status["facts"].items()
    }
    first = said["time"]
    wait_until(lambda: told(verifying)["time"] > first, what="the next one")
    assert agent.stop() == 0
    assert set(sent(verifying)) == {agent.key("a.jpg")}
    assert [path for path, _, _ in agent.rows()] == ["generated_data/camera/a.jpg"]


def test_heartbeats_of_an_idle_agent_write_nothing_to_its_state(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    agent.start()
    wait_until(lambda: agent.count("confirmed") == 1, what="the file arrived")
    wait_until(lambda: beats(verifying) >= 1, what="the first heartbeat")
    before, count = journal_bytes(agent), beats(verifying)
    wait_until(lambda: beats(verifying) >= count + 3, what="three more")
    assert journal_bytes(agent) == before


def test_without_a_store_the_agent_goes_on_and_tells_later(tmp_path: Path, verifying: VerifyingS3) -> None:
    port = free_port()
    with Agent(str(tmp_path)) as agent:
        configure(agent, f"http://127.0.0.1:{port}")
        agent.start()
        wait_until(lambda: "heartbeat not sent" in agent.log(), what="a heartbeat that fails")
        wait_until(lambda: any(e["what"] == "heartbeat" for e in agent.status()["last_errors"]), what="an error shown")
        assert agent.status()["facts"]["uploader"]["ok"]
        assert agent.log().count("heartbeat not sent") == 1
        assert agent.stop() == 0
        configure(agent, verifying.endpoint_url)
        agent.start()
        wait_until(lambda: told(verifying) != {}, what="a heartbeat")


def test_a_bucket_that_refuses_heartbeats_gets_its_files(agent: Agent, verifying: VerifyingS3) -> None:
    verifying.faults.append(Fault(prefix=KEY, status=403, code="AccessDenied"))
    agent.start()
    wait_until(lambda: "heartbeat not sent" in agent.log(), what="a heartbeat that is refused")
    agent.write("a.jpg", b"a")
    wait_until(lambda: agent.key("a.jpg") in sent(verifying), what="the file arrives")
    assert agent.status()["healthy"]


def test_a_spent_budget_ends_the_heartbeats(agent: Agent, verifying: VerifyingS3) -> None:
    metered = {"interfaces": ["*"], "budget_bytes_per_month": 20_000}
    configure(agent, verifying.endpoint_url, upload={"metered": metered})
    agent.start()
    wait_until(lambda: agent.status()["wire"]["bytes_month"] >= 20_000, what="the budget is spent", deadline_s=60)
    wait_until(lambda: agent.status()["facts"]["uploader"]["state"] == "paused", what="it is noticed")
    count = beats(verifying)
    assert count > 1
    agent.write("a.jpg", b"a")
    wait_until(lambda: agent.states("a.jpg") == ["ready"], what="a file is recorded")
    assert beats(verifying) == count


def test_never_means_never_and_a_single_run_tells_nothing(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    configure(agent, verifying.endpoint_url, heartbeat_s=0)
    agent.start()
    agent.write("b.jpg", b"b")
    wait_until(lambda: agent.key("b.jpg") in sent(verifying), what="the file arrives")
    assert agent.stop() == 0
    assert beats(verifying) == 0


def test_the_last_heartbeat_before_a_pause_says_why_sending_waits(
    agent: Agent, bus: Field, verifying: VerifyingS3
) -> None:
    configure(agent, verifying.endpoint_url, heartbeat_s=86_400)
    agent.put_config("devices/battery", BATTERY)
    bus.battery(75)
    agent.start()
    agent.write("a.jpg", b"a")
    wait_until(lambda: agent.key("a.jpg") in sent(verifying), what="a full battery sends")
    assert beats(verifying) == 0
    bus.battery(12)
    wait_until(lambda: agent.status()["facts"]["uploader"]["state"] == "paused", what="the battery is low")
    assert beats(verifying) == 1
    assert told(verifying)["facts"]["power"]["reason"] == "battery at 12 %, resumes above 20 %"
    assert told(verifying)["state"] == "degraded"
    bus.battery(21)
    wait_until(lambda: beats(verifying) == 2, what="the word that it goes on")
    assert told(verifying)["facts"]["power"]["state"] == "ok"


def test_the_least_policy_allows_the_heartbeat(agent: Agent) -> None:
    policy = json.loads(agent.cli("iam-policy").stdout)
    assert allows(policy, "s3:PutObject", bucket="bucket", key=KEY)
