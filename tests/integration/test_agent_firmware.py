"""Firmware with the agent as it is shipped: its process, its configuration, its commands, a store over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from syncagent.cli.main import cli
from syncagent.edges.network import default_interface
from syncagent.posting import post
from tests.agent import Agent
from tests.firmware_publisher import PATH, FirmwarePublisher, into_verifying
from tests.proxy import Proxy
from tests.proxy_rules import Rule
from tests.servers import ACCESS_KEY, SECRET_KEY, Fault, VerifyingS3, wait_until

IMAGE = bytes(range(256)) * 2000  # 512 kB


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        yield agent


@pytest.fixture
def publisher(verifying: VerifyingS3) -> FirmwarePublisher:
    return FirmwarePublisher(into_verifying(verifying), now=datetime.now(UTC).replace(microsecond=0))


def configure(agent: Agent, store_url: str, publisher: FirmwarePublisher | None, **firmware: Any) -> None:
    """The agent of `Agent.configure`, with the original's task and carrier for firmware."""
    agent.configure(store_url, system={"tasks": ["download_new_firmware_image"]})
    os.makedirs(agent.config_dir, exist_ok=True)
    if publisher is not None:
        with open(os.path.join(agent.config_dir, "root.json"), "wb") as file:
            file.write(publisher.trusted_root)
        firmware = {"root": "root.json", **firmware}
    agent.put_config(
        "carriers/s3_firmware_ota",
        {
            "source": "s3",
            "endpoint_url": store_url,
            "region": "us-east-1",
            "bucket_name": "bucket",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "path": PATH,
            "system_id": "$system_id",
            "upload": {"retry_min_s": 0.2, "retry_max_s": 2},
            "firmware": {"component": "cam", **firmware},
        },
    )
    agent.put_config(
        "tasks/download_new_firmware_image",
        {
            "source_type": "carrier",
            "config_name": "s3_firmware_ota",
            "function": "handle_new_firmware_message",
            "arguments": {},
            "duration": "on_message",
            "message_type": "firmware_image",
        },
    )


def dropped(agent: Agent) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for name in ("firmware_images/boot.bin", "latest_firmware.json"):
        path = os.path.join(agent.base_dir, "generated_data", name)
        found[name] = Path(path).read_bytes() if os.path.exists(path) else None
    return found


def receipts(store: VerifyingS3) -> list[str]:
    return [key for key in store.objects() if "/.syncagent/confirm_receipt/" in key]


def polls(store: VerifyingS3) -> list[int]:
    """The status of each request for the timestamp."""
    return [event.status for event in store.requests("GET") if event.key == f"{PATH}/metadata/timestamp.json"]


def test_run_once_drops_the_image_and_sends_the_receipt(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher, mode="0640")
    publisher.publish(IMAGE)
    agent.write("a.jpg", b"picture")
    done = agent.run_once()
    assert done.returncode == 0, done.stderr
    assert dropped(agent) == {"firmware_images/boot.bin": IMAGE, "latest_firmware.json": b"boot"}
    image = os.path.join(agent.base_dir, "generated_data", "firmware_images", "boot.bin")
    assert os.stat(image).st_mode & 0o777 == 0o640
    assert agent.missing(verifying.objects()) == []
    (key,) = receipts(verifying)
    assert key.startswith(f"{PATH}/field-7/.syncagent/confirm_receipt/") and key.endswith("-boot.json")
    content = json.loads(verifying.objects()[key])["msg_content"]
    assert (content["id"], content["confirm_receipt"]) == ("r2", True)
    # Nobody configured the way that receipts go, and yet it is there.
    assert "not active" not in agent.cli("status", "--json").stdout
    again = agent.run_once()
    assert again.returncode == 0 and len(receipts(verifying)) == 1


def test_a_message_polls_now_and_a_poll_that_finds_nothing_is_one_request(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher, poll_s=3600)
    agent.start()
    wait_until(lambda: len(polls(verifying)) == 1, what="the first poll")
    publisher.publish(IMAGE)
    post("firmware_image", {"id": "look"}, base_dir=agent.base_dir)
    wait_until(lambda: dropped(agent)["latest_firmware.json"] == b"boot", what="the image is dropped")
    wait_until(lambda: len(receipts(verifying)) == 1, what="the receipt")
    assert agent.status()["firmware"] == {"cam": {"release": "r2", "state": "activated", "reason": ""}}
    assert agent.status()["facts"]["firmware"]["ok"]
    before = len(verifying.requests("GET"))
    post("firmware_image", {"id": "look again"}, base_dir=agent.base_dir)
    wait_until(lambda: polls(verifying)[-1] == 304, what="the next poll")
    events = verifying.requests("GET")[before:]
    assert [(event.key, event.status) for event in events] == [(f"{PATH}/metadata/timestamp.json", 304)]


def test_the_poller_goes_on_when_uploads_are_blocked(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher, poll_s=3600)
    verifying.faults = [Fault(operation="PutObject", status=403, code="AccessDenied")]
    agent.write("a.jpg", b"picture")
    publisher.publish(IMAGE)
    agent.start()
    wait_until(lambda: dropped(agent)["latest_firmware.json"] == b"boot", what="the image is dropped")
    assert agent.missing(verifying.objects()) == ["a.jpg"]
    verifying.faults = []
    wait_until(lambda: len(receipts(verifying)) == 1, what="the receipt")
    wait_until(lambda: not agent.missing(verifying.objects()), deadline_s=60, what="the picture")


def test_uploads_go_on_when_the_poller_is_blocked(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher, poll_s=3600)
    verifying.faults = [Fault(operation="GetObject", prefix=PATH, status=403, code="AccessDenied")]
    agent.start()
    agent.write("a.jpg", b"picture")
    wait_until(lambda: not agent.missing(verifying.objects()), what="the picture")
    status = agent.status()
    assert not status["facts"]["firmware"]["ok"] and "403" in status["facts"]["firmware"]["reason"]
    assert status["healthy"] and status["state"] == "degraded"


def test_the_commands_tell_and_act_with_their_exit_codes(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher)
    assert agent.cli("firmware", "confirm").returncode == 1
    assert agent.cli("firmware", "rollback").returncode == 1
    assert agent.cli("firmware", "check").returncode == 0
    publisher.publish(b"one", id="first")
    assert agent.cli("firmware", "check").returncode == 10
    assert dropped(agent)["latest_firmware.json"] is None
    updated = agent.cli("firmware", "update")
    assert updated.returncode == 0, updated.stderr
    assert agent.cli("firmware", "check").returncode == 0
    assert agent.cli("firmware", "confirm").returncode == 0
    later = (publisher.now + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    publisher.publish(b"two", id="second", rollout={"salt": "s", "waves": [{"percent": 100, "not_before": later}]})
    assert agent.cli("firmware", "check").returncode == 11
    assert agent.cli("firmware", "update").returncode == 11
    assert agent.cli("firmware", "update", "--now").returncode == 0
    assert dropped(agent)["firmware_images/boot.bin"] == b"two"
    status = json.loads(agent.cli("firmware", "status", "--json").stdout)
    assert (status["installed"], status["state"], status["component"]) == ("second", "activated", "cam")
    assert agent.cli("firmware", "rollback").returncode == 0
    assert dropped(agent)["firmware_images/boot.bin"] == b"one"
    assert agent.cli("firmware", "check").returncode == 0
    steps = json.loads(agent.cli("firmware", "history", "--json").stdout)
    assert next(step["state"] for step in steps if step["release"] == "first") == "confirmed"
    assert next(step["state"] for step in steps if step["release"] == "second") == "rolled_back"
    publisher.timestamp.expires = publisher.now - timedelta(days=1)
    publisher.bump()
    assert agent.cli("firmware", "check").returncode == 20
    publisher.tamper("metadata/timestamp.json", lambda data: data.replace(b"snapshot", b"snopshat", 1))
    assert agent.cli("firmware", "check").returncode == 21
    verifying.faults = [Fault(operation="GetObject", status=403, code="AccessDenied")]
    assert agent.cli("firmware", "check").returncode == 22


def test_firmware_is_installed_by_hand_where_no_agent_ever_ran(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher)
    shutil.rmtree(os.path.join(agent.base_dir, "generated_data"))
    publisher.publish(b"one", id="first")
    updated = agent.cli("firmware", "update")
    assert updated.returncode == 0, updated.stderr
    assert dropped(agent)["firmware_images/boot.bin"] == b"one"


def in_child(agent: Agent, *arguments: str) -> int:
    """A command in a copy of this process: another user may not be allowed to read this Python's modules."""
    import syncagent.edges.sender  # noqa: F401
    from syncagent.edges.trust import parse_root, verifier

    parse_root(Path(agent.config_dir, "root.json").read_bytes())
    verifier()
    directories = ("--config-dir", agent.config_dir, "--base-dir", agent.base_dir, "--state-dir", agent.state_dir)
    pid = os.fork()
    if pid == 0:
        try:
            result = CliRunner().invoke(cli, [*directories, *arguments])
            os.write(2, (result.output + result.stderr).encode())
            if result.exc_info is not None and result.exit_code not in (0, 10):
                traceback.print_exception(*result.exc_info)
            os._exit(result.exit_code)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_what_root_does_by_hand_leaves_the_agent_s_user_everything(
    verifying: VerifyingS3, publisher: FirmwarePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as top, Agent(os.path.join(top, "field")) as agent:
        os.chmod(top, 0o755)
        configure(agent, verifying.endpoint_url, publisher)
        os.makedirs(agent.state_dir, exist_ok=True)
        for place, *_ in os.walk(agent.base_dir):
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
        edit_carrier(agent, access_key_id=None, secret_access_key=None)
        for name, key in (("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)):
            Path(top, name).touch(0o600)
            Path(top, name).write_text(key)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", top)
        publisher.publish(b"one", id="first")
        for verb, code in (("check", 10), ("update", 0), ("confirm", 0)):
            assert in_child(agent, "firmware", verb) == code, verb
        for folder in (agent.state_dir, os.path.join(agent.base_dir, "generated_data")):
            for place, folders, names in os.walk(folder):
                for name in [*folders, *names]:
                    assert os.stat(os.path.join(place, name)).st_uid == nobody.pw_uid, name


@pytest.mark.parametrize("place", [".syncagent.lock", ".syncagent-cam/x", "messages/x", "camera/x"])
def test_what_is_the_agent_s_or_the_camera_s_is_no_place_for_firmware(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher, place: str
) -> None:
    configure(agent, verifying.endpoint_url, publisher)
    publisher.publish(b"one", config_path=place)
    updated = agent.cli("firmware", "update")
    assert updated.returncode == 21 and place in updated.stdout, updated.stderr
    assert dropped(agent)["firmware_images/boot.bin"] is None


def test_the_place_of_another_component_is_no_place(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    configure(agent, verifying.endpoint_url, publisher)
    carrier = json.loads(Path(agent.config_dir, "carriers", "s3_firmware_ota.json").read_text())
    carrier["firmware"] = {**carrier["firmware"], "component": "lens"}
    agent.put_config("carriers/lens_ota", carrier)
    task = json.loads(Path(agent.config_dir, "tasks", "download_new_firmware_image.json").read_text())
    agent.put_config("tasks/lens", {**task, "config_name": "lens_ota"})
    agent.put_config("system/system", {"id": "field-7", "tasks": ["download_new_firmware_image", "lens"]})
    publisher.publish(b"camera")
    publisher.publish(b"lens", component="lens", file_name="lens")
    assert agent.cli("firmware", "update", "--component", "cam").returncode == 0
    updated = agent.cli("firmware", "update", "--component", "lens")
    assert updated.returncode == 21 and "latest_firmware.json belongs to the component cam" in updated.stdout
    assert dropped(agent) == {"firmware_images/boot.bin": b"camera", "latest_firmware.json": b"boot"}
    publisher.publish(b"lens", component="lens", file_name="lens", config_path="lens.json")
    updated = agent.cli("firmware", "update", "--component", "lens")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    publisher.publish(b"camera 2", config_path="firmware_images")
    assert agent.cli("firmware", "update", "--component", "cam").returncode == 21


def test_verbs_that_only_look_make_nothing(agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher) -> None:
    configure(agent, verifying.endpoint_url, publisher)
    for verb in ("status", "history"):
        looked = agent.cli("firmware", verb, "--json")
        assert looked.returncode == 0, looked.stderr
    assert not os.path.exists(agent.state_dir) and polls(verifying) == []


def test_without_a_root_of_trust_the_agent_works_and_says_what_is_missing(agent: Agent, verifying: VerifyingS3) -> None:
    configure(agent, verifying.endpoint_url, None)
    agent.write("a.jpg", b"picture")
    done = agent.run_once()
    assert done.returncode == 0, done.stderr
    stopped = json.loads(agent.cli("status", "--json").stdout)["facts"]["firmware"]
    assert (stopped["ok"], "firmware.root" in stopped["reason"]) == (False, True), "also while no agent runs"
    agent.start()
    wait_until(lambda: not agent.status()["facts"]["firmware"]["ok"], what="the fact")
    assert "firmware.root" in agent.status()["facts"]["firmware"]["reason"]
    assert agent.status()["healthy"]
    assert json.loads(agent.cli("firmware", "status", "--json").stdout)["signatures"] == "cannot be verified"


#: As the original's publisher wrote it.
UNSIGNED = {
    "id": "7",
    "time": "2026-01-01T00:00:00Z",
    "file_name": "boot",
    "cloud_path": f"{PATH}/boot.bin",
    "disk_path": "generated_data/firmware_images/boot.bin",
    "config_path": "generated_data/latest_firmware.json",
    "confirm_receipt": True,
}


def test_an_unsigned_manifest_is_taken_only_where_it_is_allowed_and_that_is_loud(
    agent: Agent, verifying: VerifyingS3
) -> None:
    into = into_verifying(verifying)
    into(f"{PATH}/firmware_image.json", json.dumps(UNSIGNED).encode())
    into(f"{PATH}/boot.bin", IMAGE)
    configure(agent, verifying.endpoint_url, None)
    assert agent.run_once().returncode == 0
    assert dropped(agent) == {"firmware_images/boot.bin": None, "latest_firmware.json": None}
    configure(agent, verifying.endpoint_url, None, allow_unsigned=True)
    assert agent.run_once().returncode == 0
    assert dropped(agent) == {"firmware_images/boot.bin": IMAGE, "latest_firmware.json": b"boot"}
    assert len(receipts(verifying)) == 1
    stopped = json.loads(agent.cli("status", "--json").stdout)["facts"]["firmware"]
    assert (stopped["ok"], stopped["state"]) == (False, "unsigned"), "also while no agent runs"
    agent.start()
    wait_until(lambda: agent.status()["facts"]["firmware"]["state"] == "unsigned", what="the warning")
    assert agent.status()["state"] == "degraded" and "signature" in agent.status()["reason"]


def test_an_unsigned_manifest_of_the_image_that_is_there_already_needs_no_download(
    agent: Agent, verifying: VerifyingS3
) -> None:
    into = into_verifying(verifying)
    into(f"{PATH}/firmware_image.json", json.dumps(UNSIGNED).encode())
    into(f"{PATH}/boot.bin", IMAGE)
    configure(agent, verifying.endpoint_url, None, allow_unsigned=True)
    assert agent.cli("firmware", "update").returncode == 0
    # Only now does the manifest say which image it means, and nobody says how long that is.
    named = {**UNSIGNED, "id": "8", "file_name": "same", "sha256": hashlib.sha256(IMAGE).hexdigest()}
    into(f"{PATH}/firmware_image.json", json.dumps(named).encode())
    done = agent.cli("firmware", "update")
    assert (done.returncode, done.stdout) == (0, "cam: activated 8\n"), done.stderr
    assert dropped(agent) == {"firmware_images/boot.bin": IMAGE, "latest_firmware.json": b"same"}
    assert len([event for event in verifying.requests("GET") if event.key == f"{PATH}/boot.bin"]) == 1


def test_a_spent_budget_holds_images_back_and_not_polls_and_a_person_may_pay(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    assert default_interface(), "which link costs money is told by the default route, and this machine has none"
    metered = {"interfaces": ["*"], "budget_bytes_per_month": 700_000, "allow": ["urgent*"]}
    configure(agent, verifying.endpoint_url, publisher, poll_s=1)
    edit_carrier(agent, upload={"metered": metered})
    publisher.publish(IMAGE, id="one")
    agent.start()
    wait_until(lambda: dropped(agent)["firmware_images/boot.bin"] == IMAGE, what="the budget lasts for one")
    publisher.publish(IMAGE[::-1], id="two")
    wait_until(lambda: "budget" in agent.status()["firmware"]["cam"]["reason"], what="the second waits on its way")
    face = agent.status()["firmware"]["cam"]
    assert (face["release"], face["state"]) == ("two", "available"), face
    assert agent.status()["facts"]["firmware"]["ok"]
    assert 700_000 <= agent.status()["wire"]["bytes_month"] < 1_100_000, "it is held back on its way, and counted"
    count = len(polls(verifying))
    wait_until(lambda: len(polls(verifying)) > count + 1, what="polls go on")
    publisher.publish(b"urgent", id="three", file_name="urgent")
    wait_until(lambda: dropped(agent)["latest_firmware.json"] == b"urgent", what="what is allowed goes")
    publisher.publish(IMAGE[::-1], id="four")
    done = agent.cli("firmware", "update")
    assert done.returncode == 10 and "budget" in done.stdout, done
    assert agent.cli("firmware", "update", "--now").returncode == 0
    assert dropped(agent)["firmware_images/boot.bin"] == IMAGE[::-1]
    publisher.publish(IMAGE, id="five")
    wait_until(lambda: "budget" in agent.status()["firmware"]["cam"]["reason"], what="the next waits")
    edit_carrier(agent, upload={"metered": {**metered, "budget_bytes_per_month": 50_000_000}})
    wait_until(lambda: agent.status()["firmware"]["cam"]["release"] == "five", what="a greater budget", deadline_s=30)
    wait_until(lambda: dropped(agent)["firmware_images/boot.bin"] == IMAGE, what="and its image")
    assert agent.stop() == 0


def edit_carrier(agent: Agent, **keys: Any) -> None:
    path = os.path.join(agent.config_dir, "carriers", "s3_firmware_ota.json")
    document = json.loads(Path(path).read_bytes())
    agent.put_config("carriers/s3_firmware_ota", {**document, **keys})


def test_a_check_beside_an_agent_that_is_busy_for_hours_says_with_what(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    publisher.publish(os.urandom(3_000_000), id="slow")
    with Proxy(verifying.endpoint_url) as proxy:
        configure(agent, proxy.endpoint_url, publisher)
        proxy.rule = Rule(down_bytes_per_s=60_000)
        agent.start()
        wait_until(lambda: agent.status()["firmware"]["cam"]["state"] == "downloading", what="the download")
        checked = agent.cli("firmware", "check", "--json")
        assert checked.returncode == 10, checked.stderr
        told = json.loads(checked.stdout)
        assert (told["release"], told["reason"]) == ("slow", "the agent is at it: downloading")
        assert agent.stop(within_s=10) == 0


def test_an_agent_that_is_stopped_while_an_image_comes_ends_soon_and_goes_on_there(
    agent: Agent, verifying: VerifyingS3, publisher: FirmwarePublisher
) -> None:
    image = os.urandom(3_000_000)
    publisher.publish(image)
    with Proxy(verifying.endpoint_url) as proxy:
        configure(agent, proxy.endpoint_url, publisher)
        proxy.rule = Rule(down_bytes_per_s=400_000)
        agent.start()
        part = os.path.join(agent.state_dir, "firmware", "cam", "staging", f"{hashlib.sha256(image).hexdigest()}.part")
        wait_until(lambda: os.path.exists(part) and os.path.getsize(part) > 300_000, what="a part of the image")
        assert agent.stop(within_s=10) == 0
        assert dropped(agent)["firmware_images/boot.bin"] is None
        size = os.path.getsize(part)
        proxy.rule = Rule()
        agent.start()
        wait_until(lambda: dropped(agent)["firmware_images/boot.bin"] == image, what="the image is dropped")
        ranges = [event.headers.get("range") for event in verifying.requests("GET") if event.key.endswith(".image")]
        assert ranges == [None, f"bytes={size}-"]
        assert agent.stop(within_s=10) == 0
