"""Addresses with a handler: what it makes is sent instead, and what fails in it holds up nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from syncagent import post
from tests.agent import Agent, puts, sent, write_file
from tests.pictures import jpeg, location_of
from tests.servers import VerifyingS3, wait_until

OWN = """
import os, time

def act(content, path):
    name = os.path.basename(path)
    if "raise" in name:
        raise ValueError("bad picture")
    if "hang" in name:
        time.sleep(600)
    if "drop" in name:
        return None
    with open(path, "rb") as file, open("made.bin", "wb") as made:
        made.write(file.read().upper())
    return {**content, "by": "handler", "disk_path": "made.bin"}

def two(content, path):
    with open("small.bin", "wb") as made:
        made.write(b"small")
    return [content, {"file_name": "small.bin", "disk_path": "small.bin"}]
"""


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url)
        write_file(os.path.join(agent.base_dir, "handlers", "own.py"), OWN.encode())
        yield agent


def handle(agent: Agent, source: str, function: str, **more: Any) -> None:
    agent.put_config("handlers/h", {"source": source, **more})
    document = {"message_type": "image_info", "carrier": "store", "duration": "on_change"}
    ways = {"handler": "h", "handler_function": function, "additional_info": {"sub_path": "$system_id"}}
    agent.put_config("addresses/upload", {**document, **ways})


def test_what_the_handler_makes_is_sent_and_one_that_fails_parks_its_file_and_no_other(
    agent: Agent, verifying: VerifyingS3
) -> None:
    handle(agent, "own", "act", timeout_s=3)
    for name in ("a.bin", "raise.bin", "hang.bin", "drop.bin", "z.bin"):
        agent.write(name, name.encode())
    agent.start()
    wait_until(
        lambda: agent.count("confirmed") == 2 and agent.count("parked") == 2, deadline_s=60, what="all are judged"
    )
    assert sent(verifying) == {agent.key("a.bin"): b"A.BIN", agent.key("z.bin"): b"Z.BIN"}
    reasons = agent.status()["queue"]["parked"]["reasons"]
    assert sorted(reasons) == ["handler: ValueError: bad picture", "handler: still running after 3 s"]
    assert agent.states("drop.bin") == ["gone"]
    event = next(event for event in puts(verifying) if event.key == agent.key("a.bin"))
    assert event.headers["x-amz-meta-by"] == "handler"
    assert agent.stop() == 0


def test_once_outlasts_a_handler_that_hangs_and_sends_what_is_behind_it(agent: Agent, verifying: VerifyingS3) -> None:
    handle(agent, "own", "act")
    agent.write("hang.bin", b"hang")
    os.utime(agent.path("hang.bin"), (1, 1))  # the first one that is shown
    agent.write("z.bin", b"z")
    assert agent.cli("run", "--once").returncode == 1
    assert sent(verifying) == {agent.key("z.bin"): b"Z"}
    assert [(state, reason) for _, state, reason in agent.rows() if state != "confirmed"] == [
        ("parked", "handler: still running after 20 s")
    ]


def test_a_file_that_its_handler_drops_is_asked_about_once(agent: Agent, verifying: VerifyingS3) -> None:
    counting = OWN.replace(
        '    if "drop" in name:\n', '    if "drop" in name:\n        open(path + ".tmp", "a").write("x")\n'
    )
    write_file(os.path.join(agent.base_dir, "handlers", "own.py"), counting.encode())
    handle(agent, "own", "act")
    agent.write("drop.bin", b"d")
    for _ in range(3):
        assert agent.run_once().returncode == 0
    with open(agent.path("drop.bin.tmp")) as file:
        assert file.read() == "x"
    agent.write("drop.bin", b"another version")
    assert agent.run_once().returncode == 0
    with open(agent.path("drop.bin.tmp")) as file:
        assert file.read() == "xx"
    assert sent(verifying) == {}


def test_no_location_leaves_through_the_shipped_handler(agent: Agent, verifying: VerifyingS3) -> None:
    handle(agent, "strip_gps", "strip_gps")
    original = jpeg()
    assert location_of(original)
    agent.write("a.jpg", original)
    assert agent.run_once().returncode == 0
    (found,) = sent(verifying).values()
    assert not location_of(found)
    with open(agent.path("a.jpg"), "rb") as file:
        assert file.read() == original, "the file itself is not touched"


def test_a_further_object_lies_beside_the_first_under_its_own_name(agent: Agent, verifying: VerifyingS3) -> None:
    handle(agent, "own", "two")
    agent.write("day 1/a.bin", b"a")
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("day 1/a.bin"): b"a", agent.key("day 1/small.bin"): b"small"}
    assert agent.run_once().returncode == 0
    assert len(puts(verifying)) == 2


def test_a_kill_between_handler_and_store_sends_what_the_handler_made(agent: Agent, verifying: VerifyingS3) -> None:
    handle(agent, "own", "act")
    port = verifying.endpoint_url
    agent.configure("http://127.0.0.1:9")
    handle(agent, "own", "act")
    agent.write("a.bin", b"a")
    agent.start()
    wait_until(lambda: os.path.isdir(os.path.join(agent.state_dir, "handled", "1")), what="it is handled")
    wait_until(lambda: not agent.status()["facts"]["link"]["ok"], what="the link is known to be down")
    agent.kill()
    agent.configure(port)
    handle(agent, "own", "act")
    os.unlink(os.path.join(agent.base_dir, "handlers", "own.py"))  # it is not asked again
    agent.start()
    wait_until(lambda: len(sent(verifying)) == 1, what="it went")
    assert sent(verifying) == {agent.key("a.bin"): b"A"}
    wait_until(lambda: os.listdir(os.path.join(agent.state_dir, "handled")) == [], what="nothing is kept")
    assert agent.stop() == 0


def test_what_is_kept_and_lost_is_made_again(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure("http://127.0.0.1:9")
    handle(agent, "own", "act")
    agent.write("a.bin", b"a")
    agent.run_once(timeout_s=3)
    os.unlink(os.path.join(agent.state_dir, "handled", "1", "made.bin"))
    agent.configure(verifying.endpoint_url)
    handle(agent, "own", "act")
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("a.bin"): b"A"}


def test_a_handler_sees_the_message_and_its_word_travels(agent: Agent, verifying: VerifyingS3) -> None:
    handle(agent, "own", "act")
    agent.write("a.bin", b"a")
    post("image_info", {"file_name": "a.bin", "cloud_path": "k/a.bin", "note": "n"}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("a.bin"): b"A", "k/a.bin": b"A"}
    event = next(event for event in puts(verifying) if event.key == "k/a.bin")
    assert (event.headers["x-amz-meta-note"], event.headers["x-amz-meta-by"]) == ("n", "handler")
    lines = [json.loads(line) for line in agent.cli("follow", "--from", "0", "--no-wait").stdout.splitlines()]
    assert [line["bytes"] for line in lines] == [1, 1]
