"""One address, one large file or one root in trouble never holds up the others: guarantee 9."""

from __future__ import annotations

import json
import os
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
