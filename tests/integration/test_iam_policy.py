"""The least policy, compared with what the agent asked of a strict store in a run that meets every kind of trouble."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.agent import Agent
from tests.policies import ACTIONS, allows
from tests.servers import Fault, VerifyingS3, wait_until

MIB = 1024 * 1024


def _run(agent: Agent, store: VerifyingS3) -> None:
    """A small file, a large one cut in the middle, one that is rewritten meanwhile, and an answer that is lost."""
    agent.write("a.jpg", os.urandom(1000))
    agent.run_once()
    # Cut after its first part: the next run asks which parts are there.
    for name in ("large.bin", "changing.bin"):
        store.faults.append(Fault(operation="UploadPart", prefix=agent.key(name), skip=1, status=503, code="SlowDown"))
        agent.write(name, os.urandom(12 * MIB))
    agent.start()
    wait_until(lambda: len(store.uploads) == 2, what="two uploads begun")
    wait_until(lambda: all(upload.parts for upload in store.uploads.values()), what="a part of each")
    agent.kill()
    store.faults[:] = []
    # Its upload is an orphan now.
    agent.write("changing.bin", os.urandom(11 * MIB))
    # The answer to the next Complete is lost, so that the object must be looked at.
    store.faults.append(Fault(operation="CompleteMultipartUpload", times=1, drop=True, act_first=True))
    agent.start()
    wait_until(lambda: not agent.missing(store.objects()), deadline_s=60, what="everything is in the bucket")
    wait_until(lambda: not store.uploads, deadline_s=60, what="no upload is left")
    wait_until(lambda: agent.count("ready") + agent.count("sending") == 0, deadline_s=60, what="all is confirmed")
    agent.stop()


def test_every_request_of_a_run_is_allowed_and_no_allowed_action_is_superfluous(tmp_path: Path) -> None:
    with VerifyingS3("bucket") as store, Agent(str(tmp_path)) as agent:
        agent.configure(store.endpoint_url, upload={"verify": "read_back", "workers": 2})
        _run(agent, store)
        printed = agent.cli("iam-policy")
        assert printed.returncode == 0, printed.stderr
        policy = json.loads(printed.stdout)
    used = set()
    for event in store.history:
        action = ACTIONS[event.operation]
        assert allows(policy, action, bucket="bucket", key=event.key, prefix=event.query.get("prefix", "")), event
        used.add(action)
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed == used
    assert not any("Delete" in action or action.endswith("*") for action in allowed)


def test_a_policy_reaches_no_further_than_the_configuration(tmp_path: Path) -> None:
    with Agent(str(tmp_path)) as agent:
        agent.configure("http://127.0.0.1:1")
        policy = json.loads(agent.cli("iam-policy").stdout)
    assert allows(policy, "s3:PutObject", bucket="bucket", key="camera/field-7/a.jpg")
    for key in ("camera/field-8/a.jpg", "camera/a.jpg", "other", "camera/field-77/a.jpg"):
        assert not allows(policy, "s3:PutObject", bucket="bucket", key=key)
    assert not allows(policy, "s3:PutObject", bucket="bucket2", key="camera/field-7/a.jpg")
    assert not allows(policy, "s3:ListBucket", bucket="bucket", prefix="")
    assert not allows(policy, "s3:DeleteObject", bucket="bucket", key="camera/field-7/a.jpg")
