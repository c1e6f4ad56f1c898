"""`doctor` against a store that misbehaves in one way at a time: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent import Agent
from tests.policies import ACTIONS, allows
from tests.servers import Fault, VerifyingS3, free_port

PROBE = "camera/field-7/.syncagent/probe"


@pytest.fixture
def store() -> Iterator[VerifyingS3]:
    with VerifyingS3("bucket") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, store: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as made:
        made.configure(store.endpoint_url)
        yield made


def examine(agent: Agent, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and each check by its name; of several the worst."""
    done = agent.cli("doctor", "--json", *options)
    order = ["ok", "skipped", "warning", "failed"]
    found: dict[str, dict[str, Any]] = {}
    for check in sorted(json.loads(done.stdout)["checks"], key=lambda each: order.index(each["verdict"])):
        found[check["check"]] = check
    return done.returncode, found


def is_in_good_order(found: dict[str, dict[str, Any]]) -> bool:
    """The machine that tests run on may be short of space or watches: that is not what is tested here."""
    return all(c["verdict"] != "failed" for name, c in found.items() if name not in ("card", "watches", "unit"))


def test_with_everything_right_each_right_is_tried_and_only_the_probe_object_is_left(
    agent: Agent, store: VerifyingS3
) -> None:
    _, found = examine(agent, "--write")
    assert is_in_good_order(found), found
    for right in ("list", "put", "get", "list parts", "abort"):
        assert found[f"store: right to {right}"]["verdict"] == "ok"
    assert list(store.objects()) == [PROBE]
    assert store.uploads == {}
    assert store.requests(operation="DeleteObject") == []


def test_without_write_nothing_is_written(agent: Agent, store: VerifyingS3) -> None:
    _, found = examine(agent)
    assert is_in_good_order(found), found
    assert {event.method for event in store.history} <= {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("operation", "right", "action"),
    [
        ("PutObject", "put", "s3:PutObject"),
        ("GetObject", "get", "s3:GetObject"),
        ("ListParts", "list parts", "s3:ListMultipartUploadParts"),
        ("AbortMultipartUpload", "abort", "s3:AbortMultipartUpload"),
    ],
)
def test_each_missing_right_is_named_and_no_other(
    agent: Agent, store: VerifyingS3, operation: str, right: str, action: str
) -> None:
    store.faults.append(Fault.denied(operation=operation))
    code, found = examine(agent, "--write")
    failed = [name for name, check in found.items() if check["verdict"] == "failed" and name.startswith("store: right")]
    assert failed == [f"store: right to {right}"]
    assert action in found[f"store: right to {right}"]["remedy"]
    assert code == 1


def test_where_firmware_only_comes_from_no_right_is_asked_for_that_the_policy_does_not_give(
    agent: Agent, store: VerifyingS3
) -> None:
    agent.configure(store.endpoint_url, system={"tasks": ["ota"], "addresses": ["upload", "receipts"]})
    with open(os.path.join(agent.config_dir, "carriers/store.json")) as file:
        carrier = json.load(file)
    agent.put_config("carriers/ota", {**carrier, "path": "firmware_images"})
    agent.put_config(
        "addresses/receipts", {"message_type": "confirm_receipt", "carrier": "store", "duration": "on_message"}
    )
    task = {"source_type": "carrier", "config_name": "ota", "function": "handle_new_firmware_message"}
    agent.put_config("tasks/ota", {**task, "message_type": "firmware_image"})
    policy = json.loads(agent.cli("iam-policy").stdout)
    store.history.clear()
    _, found = examine(agent, "--write")
    assert is_in_good_order(found), found
    assert found["ota: answer"]["verdict"] == "ok"
    writes = [event for event in store.history if event.method != "GET"]
    assert writes
    for event in writes:
        assert allows(policy, ACTIONS[event.operation], bucket="bucket", key=event.key), event


def test_a_missing_right_to_list_is_only_a_warning(agent: Agent, store: VerifyingS3) -> None:
    store.faults.append(Fault.denied(operation="ListObjectsV2"))
    _, found = examine(agent, "--write")
    assert found["store: right to list"]["verdict"] == "warning"
    assert is_in_good_order(found), found


def test_a_wrong_key_a_wrong_bucket_and_a_wrong_clock_are_told_apart(agent: Agent, store: VerifyingS3) -> None:
    agent.configure(store.endpoint_url, carrier={"secret_access_key": "another"})
    code, found = examine(agent)
    assert code == 1
    assert found["store: answer"]["what"].startswith("wrong key: ")
    agent.configure(store.endpoint_url, bucket="nobodys")
    code, found = examine(agent)
    assert code == 1
    assert found["store: answer"]["what"].startswith("wrong bucket: ")
    agent.configure(store.endpoint_url)
    store.clock_offset_s = 7200
    code, found = examine(agent)
    assert code == 1
    assert re.search(r"clock is (7199|7200) s behind the store's", found["store: clock"]["what"])
    assert "timedatectl" in found["store: clock"]["remedy"]


def test_a_captive_portal_is_called_one(agent: Agent, store: VerifyingS3) -> None:
    store.faults.append(Fault.portal())
    code, found = examine(agent)
    assert code == 1
    assert found["store: answer"]["what"].startswith("captive portal: ")
    store.faults[:] = [Fault(status=302, body=b"<html></html>", headers={"Location": "http://login.example/"})]
    assert examine(agent)[1]["store: answer"]["what"].startswith("captive portal: ")


def test_a_store_that_fails_is_no_captive_portal(agent: Agent, store: VerifyingS3) -> None:
    store.faults.append(Fault(status=500, code="InternalError"))
    code, found = examine(agent)
    assert code == 1
    assert "portal" not in found["store: answer"]["what"]


def test_names_links_and_tls_that_fail_are_told_apart(agent: Agent, store: VerifyingS3) -> None:
    agent.configure("https://no-such-host.invalid")
    _, found = examine(agent)
    assert "no DNS" in found["store: name"]["what"]
    agent.configure(f"http://127.0.0.1:{free_port()}")
    _, found = examine(agent)
    assert "refused" in found["store: connection"]["what"]
    agent.configure(f"https://127.0.0.1:{store.port}")  # it speaks no TLS
    _, found = examine(agent)
    assert "TLS" in found["store: connection"]["what"]


def test_a_rule_that_ends_unfinished_uploads_is_looked_for(agent: Agent, store: VerifyingS3) -> None:
    _, found = examine(agent)
    assert found["store: lifecycle"]["verdict"] == "warning"
    rule = "<Rule><Status>Enabled</Status><Filter><Prefix>{}</Prefix></Filter>{}</Rule>"
    ends = (
        "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
    )
    for prefix, action, verdict in (("camera/", ends, "ok"), ("other/", ends, "warning"), ("", "", "warning")):
        store.lifecycle = rule.format(prefix, action)
        assert examine(agent)[1]["store: lifecycle"]["verdict"] == verdict, (prefix, action)
    store.faults.append(Fault.denied(operation="GetBucketLifecycleConfiguration"))
    assert examine(agent)[1]["store: lifecycle"]["verdict"] == "skipped"


def test_mistakes_of_the_configuration_are_findings_each_with_its_remedy(agent: Agent) -> None:
    agent.put_config("carriers/store", {"source": "s3", "bucket_nam": "x"})
    done = agent.cli("doctor")
    assert done.returncode == 1
    assert "FAIL  configuration: " in done.stdout
    assert " -- " in done.stdout


def test_no_secret_is_in_what_it_says(agent: Agent, store: VerifyingS3) -> None:
    store.faults.append(Fault.denied())
    done = agent.cli("doctor", "--write")
    assert "test-secret-key" not in done.stdout + done.stderr


def test_a_host_that_does_not_answer_ends_in_time(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent.configure(f"http://127.0.0.1:{silent.getsockname()[1]}", upload={"connect_timeout_s": 1, "stall_s": 1})
        code, found = examine(agent)
    assert code == 1
    assert found["store: answer"]["verdict"] == "failed"
