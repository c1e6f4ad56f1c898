"""One address, one large file or one root in trouble never holds up the others: guarantee 9."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from tests.agent import Agent, sent, write_file
from tests.servers import VerifyingS3, wait_until


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url, watch={"scan_s": 1})
        yield agent


def add_address(agent: Agent, name: str, **carrier: object) -> None:
    """A second address, of a carrier like the first one's but for what is said here."""
    for kind, own in (("carriers/store", carrier), ("addresses/upload", {"carrier": name})):
        with open(os.path.join(agent.config_dir, f"{kind}.json")) as file:
            document = json.load(file)
        agent.put_config(f"{kind.partition('/')[0]}/{name}", {**document, **own})
    agent.put_config("system/system", {"id": agent.system_id, "addresses": ["upload", name], "tasks": []})


def test_a_file_rewritten_under_its_size_and_mtime_is_sent_while_another_address_has_no_store(
    agent: Agent, verifying: VerifyingS3
) -> None:
    add_address(agent, "other", path="other", bucket_name="no-such-bucket")
    path = agent.write("a.bin", b"A" * 100)
    for number in range(20):
        write_file(os.path.join(agent.base_dir, f"generated_data/other/{number}.bin"), b"b")
    agent.start()
    wait_until(lambda: agent.key("a.bin") in sent(verifying), what="the first version")
    wait_until(lambda: agent.status()["addresses"]["other"]["queue"]["ready"]["files"] > 10, what="the others wait")
    old = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"B" * 100)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    wait_until(lambda: b"B" * 100 in sent(verifying).values(), deadline_s=30, what="the second version")


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_store_that_is_away_does_not_hold_up_the_same_file_on_its_way_to_another(
    agent: Agent, verifying: VerifyingS3, is_silent: bool
) -> None:
    with socket.socket() as away:
        away.bind(("127.0.0.1", 0))
        if is_silent:
            away.listen()
        add_address(agent, "other", endpoint_url=f"http://127.0.0.1:{away.getsockname()[1]}")
        agent.start()
        for number in range(5):
            agent.write(f"{number}.jpg", b"picture")
            wait_until(lambda: agent.key(f"{number}.jpg") in sent(verifying), what="it is sent")  # noqa: B023
            assert agent.status()["addresses"]["other"]["oldest_unsent_s"] > 0
        agent.kill()


@pytest.mark.parametrize("is_by_message", [False, True])
def test_what_was_asked_for_in_a_directory_that_is_not_allowed_any_more_is_parked_until_it_is_again(
    agent: Agent, verifying: VerifyingS3, tmp_path: object, is_by_message: bool
) -> None:
    root = os.path.join(str(tmp_path), "elsewhere")
    path = write_file(os.path.join(root, "asked.jpg"), b"asked")
    duration = "on_message" if is_by_message else "as_needed"
    agent.configure(verifying.endpoint_url, duration=duration, upload={"allowed_roots": [root]})
    if is_by_message:
        os.rename(path, path + ".away")
        message = {"id": "1", "time": "2025-06-01T12:00:00Z", "file_name": "asked.jpg", "disk_path": path}
        assert agent.cli("post", "image_info", json.dumps(message)).returncode == 0
        assert agent.run_once(timeout_s=2).returncode == 1
        os.rename(path + ".away", path)
    else:
        assert agent.cli("send", path).returncode == 0
    agent.configure(verifying.endpoint_url, duration=duration)
    agent.write("x.jpg", b"x")
    assert agent.run_once(timeout_s=2).returncode == 1
    assert [(found, state) for found, state, _ in agent.rows()] == [(path, "parked")]
    assert "allowed_roots" in agent.rows()[0][2]
    assert agent.cli("retry", "--all").stdout == "1 released\n"
    assert agent.run_once(timeout_s=2).returncode == 1
    agent.configure(verifying.endpoint_url, duration=duration, upload={"allowed_roots": [root]})
    assert agent.cli("retry", path).stdout == "1 released\n"
    assert agent.run_once(timeout_s=5).returncode == 0
    assert list(sent(verifying).values()) == [b"asked"]
