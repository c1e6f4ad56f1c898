"""`verify`: what the bucket lacks, file by file, found by one listing, and nothing changed by looking."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent import Agent, regular_files
from tests.s3_model import StoredObject
from tests.servers import ACCESS_KEY, Fault, RcloneS3, VerifyingS3, wait_until

MIB = 1 << 20


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url, upload={"multipart_bytes": 5 * MIB})
        yield agent


def verify(agent: Agent) -> tuple[int, Any]:
    done = agent.cli("verify", "--json")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def found(agent: Agent) -> set[tuple[str, str]]:
    """(kind, last part of the path or key) of each finding."""
    _, document = verify(agent)
    return {(each["kind"], os.path.basename(each["path"] or each["key"])) for each in document["findings"]}


def put(store: VerifyingS3, key: str, body: bytes, etag: str) -> None:
    store.buckets["bucket"][key] = StoredObject(body, etag, {}, "image/jpeg")


def test_all_is_there_after_a_listing_and_no_other_request(agent: Agent, verifying: VerifyingS3) -> None:
    for number in range(20):
        agent.write(f"day/{number}.jpg", f"{number}".encode())
    agent.write("film.mp4", os.urandom(6 * MIB))
    agent.write("ä b\udcff.jpg", b"strange")
    assert agent.run_once().returncode == 0
    before = len(verifying.history)
    files = regular_files(agent.base_dir)
    code, document = verify(agent)
    assert (code, document["ok"], document["findings"]) == (0, True, [])
    assert (document["files"], document["read_back"]) == (22, 0)
    assert {event.operation for event in verifying.history[before:]} == {"ListObjectsV2"}
    assert regular_files(agent.base_dir) == files, "looking changed something"


def test_each_kind_of_difference_is_named(agent: Agent, verifying: VerifyingS3) -> None:
    for name in ("missing", "other", "shorter", "kept", "removed"):
        agent.write(f"{name}.jpg", name.encode())
    assert agent.run_once().returncode == 0
    os.unlink(agent.path("removed.jpg"))
    assert agent.run_once().returncode == 0
    objects = verifying.buckets["bucket"]
    del objects[agent.key("missing.jpg")], objects[agent.key("removed.jpg")]
    put(verifying, agent.key("other.jpg"), b"OTHER", "0" * 32)
    put(verifying, agent.key("shorter.jpg"), b"short", "1" * 32)
    put(verifying, agent.key("stranger.jpg"), b"?", "2" * 32)
    agent.write("new.jpg", b"new")
    agent.write("kept.jpg", b"KEPT")
    code, document = verify(agent)
    assert code == 1 and not document["ok"]
    assert found(agent) == {
        ("missing in the bucket", "missing.jpg"),
        ("missing in the bucket", "removed.jpg"),
        ("different bytes", "other.jpg"),
        ("different bytes", "shorter.jpg"),
        ("object without journal row", "stranger.jpg"),
        ("unsent", "new.jpg"),
        ("unsent", "kept.jpg"),
    }
    said = agent.cli("verify")
    assert said.returncode == 1 and said.stdout.count("\n") == 7 and "6 faults" in said.stderr


def test_what_others_put_below_the_prefix_is_named_and_no_fault(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    put(verifying, agent.key("stranger.jpg"), b"?", "2" * 32)
    code, document = verify(agent)
    assert (code, len(document["findings"])) == (0, 1)


def add_films(agent: Agent, **carrier: str) -> None:
    """A second carrier that sends to the same bucket."""
    with open(f"{agent.config_dir}/carriers/store.json") as file:
        document = json.load(file)
    agent.put_config("carriers/films", {**document, "path": "films", **carrier})
    more = {"message_type": "film", "carrier": "films", "duration": "on_change"}
    agent.put_config("addresses/films", {**more, "additional_info": {"sub_path": "$system_id"}})
    agent.put_config("system/system", {"id": agent.system_id, "addresses": ["upload", "films"], "tasks": []})


def test_the_corner_of_each_carrier_of_a_bucket_is_the_agents_own(agent: Agent, verifying: VerifyingS3) -> None:
    add_films(agent)
    agent.write("a.jpg", b"a")
    agent.write("../films/b.mp4", b"b")
    assert agent.run_once().returncode == 0
    for path in (agent.watched, "films"):
        put(verifying, f"{path}/{agent.system_id}/.syncagent/status.json", b"{}", "2" * 32)
    assert verify(agent) == (0, {"ok": True, "files": 2, "objects": 6, "read_back": 0, "findings": []})


def test_each_carrier_of_a_bucket_looks_with_its_own_access_key(agent: Agent, verifying: VerifyingS3) -> None:
    add_films(agent, access_key_id="FILMS", secret_access_key="films-secret")
    verifying.credentials["FILMS"] = "films-secret"
    verifying.etag_is_md5 = False  # so that each object is read back as well
    agent.write("a.jpg", b"a")
    agent.write("../films/b.mp4", b"b")
    assert agent.run_once().returncode == 0
    verifying.buckets["bucket"].pop(agent.key("a.jpg"))
    before = len(verifying.history)
    assert found(agent) == {("missing in the bucket", "a.jpg")}
    asked = {
        ((event.key or event.query["prefix"]).split("/")[0], event.headers["authorization"].split("/")[0].split("=")[1])
        for event in verifying.history[before:]
    }
    assert asked == {("camera", ACCESS_KEY), ("films", "FILMS")}


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("ListObjectsV2", "may not list camera/field-7/* (s3:ListBucket)"),
        ("HeadObject", "may not look at camera/field-7/* (s3:GetObject)"),
        ("GetObject", "may not read camera/field-7/* (s3:GetObject)"),
    ],
)
def test_of_a_right_that_is_missing_it_says_which_whose_and_where_from(
    agent: Agent, verifying: VerifyingS3, operation: str, right: str
) -> None:
    verifying.etag_is_md5 = False
    for name in ("a.jpg", "missing.jpg"):
        agent.write(name, name.encode())
    assert agent.run_once().returncode == 0
    if operation == "HeadObject":
        verifying.buckets["bucket"].pop(agent.key("missing.jpg"))
    verifying.faults.append(Fault.denied(operation=operation))
    done = agent.cli("verify")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "403" in done.stderr and f"the access key of the carrier store {right}" in done.stderr
    assert "`syncagent iam-policy`" in done.stderr


def test_where_the_etag_proves_nothing_the_object_is_read_back(agent: Agent, verifying: VerifyingS3) -> None:
    verifying.etag_is_md5 = False
    agent.write("a.jpg", b"a")
    agent.write("b.jpg", b"b")
    assert agent.run_once().returncode == 0
    code, document = verify(agent)
    assert (code, document["read_back"]) == (0, 2)
    was = verifying.buckets["bucket"][agent.key("b.jpg")]
    put(verifying, agent.key("b.jpg"), b"B", was.etag)
    assert found(agent) == {("different bytes", "b.jpg")}


def test_a_chmod_is_no_difference_and_a_parked_file_is_unsent(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    os.chmod(agent.path("a.jpg"), 0o600)
    assert found(agent) == set()
    agent.write("deep/" * 5 + "x" * 200 + ".jpg", b"x")
    with open(f"{agent.config_dir}/carriers/store.json") as file:
        document = json.load(file)
    agent.put_config("carriers/store", {**document, "default_cloud_path": "k" * 1000 + "/{relative_path}"})
    assert agent.run_once().returncode == 1
    assert found(agent) >= {("unsent", "x" * 200 + ".jpg")}


def test_it_runs_beside_an_agent(agent: Agent, verifying: VerifyingS3) -> None:
    agent.start()
    for number in range(30):
        agent.write(f"{number}.jpg", f"{number}".encode())
        if number % 10 == 0:
            kinds = {kind for kind, _ in found(agent)}
            assert kinds <= {"unsent", "object without journal row"}
    wait_until(lambda: agent.count("confirmed") == 30, what="all are confirmed")
    assert verify(agent)[0] == 0
    assert agent.stop() == 0


def test_without_a_journal_every_file_is_unsent(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    shutil.rmtree(agent.state_dir)
    assert found(agent) == {("unsent", "a.jpg"), ("object without journal row", "a.jpg")}
    assert not os.path.exists(os.path.join(agent.state_dir, "journal.db"))


def test_a_store_that_lists_in_an_order_of_its_own_is_compared_all_the_same(
    tmp_path: object, rclone: RcloneS3, rclone_bucket: str
) -> None:
    with Agent(str(tmp_path)) as agent:
        agent.configure(rclone.endpoint_url, bucket=rclone_bucket)
        for name in ("a/b.jpg", "a.jpg", "a-b.jpg", "Z.jpg", "a/.x/c.jpg", "ä.jpg"):
            agent.write(name, name.encode())
        assert agent.run_once().returncode == 0
        assert verify(agent)[0] == 0


def test_a_store_that_is_not_there_is_one_line(agent: Agent) -> None:
    agent.configure("http://127.0.0.1:9")
    done = agent.cli("verify")
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1, done.stderr


def test_the_document_says_why_it_is_not_whole_when_the_store_does_not_answer(agent: Agent) -> None:
    agent.configure("http://127.0.0.1:9")
    agent.write("a.jpg", b"a")
    code, document = verify(agent)
    assert code == 1
    assert not document["ok"] and "connection refused" in document["error"]
    assert [each["kind"] for each in document["findings"]] == ["unsent"]
