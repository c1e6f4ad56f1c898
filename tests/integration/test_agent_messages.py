"""Messages through the real agent: three ways in, what each duration does with them, and what becomes of bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from syncagent import post
from syncagent.core.metadata import text_of
from tests.agent import Agent, environment, puts, regular_files, sent, write_file
from tests.servers import MotoS3, RcloneS3, VerifyingS3, wait_until

ORIGINAL = {
    "msg_id": "camera-1",
    "msg_time": "2021-09-01 12:00:00",
    "msg_type": "image_info",
    "msg_content": {"file_name": "a.jpg", "disk_path": "generated_data/camera/a.jpg"},
}
TIMED_S = 3.0


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url, duration="on_message")
        yield agent


def inbox(agent: Agent, message_type: str = "image_info") -> str:
    return os.path.join(agent.base_dir, "generated_data", "messages", message_type)


def drop(agent: Agent, name: str, document: Any, *, message_type: str = "image_info") -> None:
    """Write elsewhere, rename in."""
    os.makedirs(inbox(agent, message_type), exist_ok=True)
    outside = os.path.join(agent.top, name)
    with open(outside, "w") as file:
        file.write(document if isinstance(document, str) else json.dumps(document))
    os.rename(outside, os.path.join(inbox(agent, message_type), name))


def rejected(agent: Agent) -> dict[str, str]:
    """Reasons of rejected messages, by the message's name."""
    top = os.path.join(agent.base_dir, "generated_data", "messages", "rejected")
    found = regular_files(top)
    return {
        name: found[name.removesuffix(".json") + ".reason.txt"].decode().strip()
        for name in found
        if name.endswith(".json")
    }


def metadata(store: VerifyingS3, key: str) -> dict[str, str]:
    """User metadata of the request that made an object."""
    event = next(event for event in puts(store) if event.key == key)
    prefix = "x-amz-meta-"
    return {name[len(prefix) :]: value for name, value in event.headers.items() if name.startswith(prefix)}


def test_the_originals_own_message_sends_its_file_under_the_key_that_the_original_gave(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.write("a.jpg", b"a")
    agent.write("b.jpg", b"b, which nobody asked for")
    assert agent.cli("post", "image_info", json.dumps(ORIGINAL)).returncode == 0
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {"camera/field-7/a.jpg": b"a"}


def test_with_a_cloud_path_the_file_goes_there(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    content = {**ORIGINAL["msg_content"], "cloud_path": "elsewhere/renamed.jpg"}  # type: ignore[dict-item]
    post("image_info", {**ORIGINAL, "msg_content": content}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {"elsewhere/renamed.jpg": b"a"}


def test_each_way_in_is_taken_by_a_running_agent_and_by_one_that_starts_later(
    agent: Agent, verifying: VerifyingS3
) -> None:
    for name in ("posted", "dropped", "called", "piped", "early"):
        agent.write(f"{name}.jpg", name.encode())
    drop(agent, "early.json", {"file_name": "early.jpg"})
    agent.start()
    drop(agent, "dropped.json", {"file_name": "dropped.jpg"})
    assert agent.cli("post", "image_info", '{"file_name": "posted.jpg"}').returncode == 0
    post("image_info", {"file_name": "called.jpg"}, base_dir=agent.base_dir)
    piped = subprocess.run(
        agent.command("post", "image_info", "-"),
        input=b'{"file_name": "piped.jpg"}',
        env=environment(),
        capture_output=True,
    )
    assert piped.returncode == 0, piped.stderr
    wait_until(lambda: len(sent(verifying)) == 5, what="all five are there")
    assert sent(verifying) == {
        agent.key(f"{name}.jpg"): name.encode() for name in ("posted", "dropped", "called", "piped", "early")
    }
    assert regular_files(os.path.join(agent.base_dir, "generated_data", "messages")) == {}
    assert agent.stop() == 0


def test_post_finds_the_agents_directory_in_the_environment(agent: Agent) -> None:
    program = "import syncagent; print(syncagent.post('image_info', {'file_name': 'a.jpg'}))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment(), "SYNCAGENT_BASE_DIR": agent.base_dir},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    (name,) = regular_files(inbox(agent))
    assert name.removesuffix(".json") and found.stdout.strip().startswith(name.removesuffix(".json"))


def test_a_message_is_acted_on_once_however_often_it_comes(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    for _ in range(2):
        agent.cli("post", "image_info", json.dumps(ORIGINAL))
        assert agent.run_once().returncode == 0
    agent.write("a.jpg", b"other")
    drop(agent, "again.json", ORIGINAL)
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}
    drop(agent, "later.json", {**ORIGINAL, "msg_time": "2021-09-01 12:05:00"})
    assert agent.run_once().returncode == 0
    assert sorted(sent(verifying).values()) == [b"a", b"other"]


@pytest.mark.parametrize(
    ("message_type", "text", "words"),
    [
        ("nonsense", '{"file_name": "a.jpg"}', "no active address"),
        ("image_info", "{", "line 1"),
        ("image_info", "{}", "file_name is missing"),
        ("image_info", '{"msg_type": "other", "msg_content": {"file_name": "a.jpg"}}', "msg_type"),
        ("image_info", '{"file_name": "a.jpg", "disk_path": "/etc/passwd"}', "lies neither"),
        ("image_info", '{"file_name": "a.jpg", "disk_path": "generated_data/../../x"}', "lies neither"),
        ("image_info", '{"file_name": "a.jpg", "cloud_path": "../x"}', "segment"),
        ("image_info", '{"file_name": "a.jpg", "cloud_path": "camera/field-7/.syncagent/status.json"}', "own"),
        ("image_info", '{"file_name": "a.jpg", "disk_path": "generated_data/messages/a.jpg"}', "own"),
    ],
)
def test_what_is_invalid_is_refused_at_once_and_set_aside_when_it_is_dropped(
    agent: Agent, verifying: VerifyingS3, message_type: str, text: str, words: str
) -> None:
    agent.write("a.jpg", b"a")
    said = agent.cli("post", message_type, text)
    assert said.returncode == 1 and words in said.stderr
    drop(agent, "bad.json", text, message_type=message_type)
    drop(agent, "good.json", {"file_name": "a.jpg"})
    assert agent.run_once().returncode == 0
    assert list(sent(verifying).values()) == [b"a"]
    assert words in rejected(agent)["bad.json"]


def test_once_ends_with_1_when_messages_could_not_be_read_and_sends_the_others(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.without = ("dac_override", "dac_read_search")
    agent.write("a.jpg", b"a")
    drop(agent, "x.json", {"file_name": "x.jpg"}, message_type="aaa")
    os.chown(inbox(agent, "aaa"), 65534, 65534)
    os.chmod(inbox(agent, "aaa"), 0o700)
    drop(agent, "m.json", {"file_name": "a.jpg"})
    assert agent.run_once().returncode == 1
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}


def test_rejected_messages_of_one_name_are_all_kept(agent: Agent) -> None:
    for number in range(3):
        drop(agent, "bad.json", f"{{ {number}")
        agent.run_once()
    assert sorted(rejected(agent)) == ["bad.2.json", "bad.3.json", "bad.json"]


def test_no_link_leads_out(agent: Agent, verifying: VerifyingS3) -> None:
    secret = write_file(os.path.join(agent.top, "secret"), b"secret")
    os.symlink(secret, os.path.join(agent.data_dir, "link.jpg"))
    os.symlink(agent.top, os.path.join(agent.data_dir, "out"))
    for name in ("link.jpg", "out/secret"):
        refused = agent.cli("post", "image_info", json.dumps({"file_name": name}))
        assert refused.returncode == 1 and name in refused.stderr
    drop(agent, "leaf.json", {"file_name": "link.jpg"})
    drop(agent, "way.json", {"file_name": "out/secret"})
    agent.start()
    wait_until(lambda: len(rejected(agent)) == 2, what="both are rejected")
    assert sent(verifying) == {}
    assert sorted(reason.partition(" ")[0] for reason in rejected(agent).values()) == ["link.jpg", "out/secret"]
    assert agent.stop() == 0


def test_a_cloud_path_that_is_too_long_parks_as_any_key_does_and_the_others_pass(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.write("a.jpg", b"a")
    assert agent.cli("post", "image_info", json.dumps({"file_name": "a.jpg", "cloud_path": "k" * 1025})).returncode == 0
    drop(agent, "near.json", {"file_name": "a.jpg", "cloud_path": "k" * 1024})
    assert agent.run_once().returncode == 1
    assert sent(verifying) == {"k" * 1024: b"a"}
    assert [(state, reason) for _, state, reason in agent.rows() if state == "parked"] == [("parked", "key too long")]
    assert rejected(agent) == {}


def test_a_link_that_is_swapped_in_while_the_message_waits_leaks_nothing(agent: Agent, verifying: VerifyingS3) -> None:
    secret = os.path.dirname(write_file(os.path.join(agent.top, "secret", "a.jpg"), b"secret"))
    drop(agent, "early.json", {"file_name": "day/a.jpg"})
    agent.start()
    wait_until(lambda: agent.count("waiting") == 1, what="the message waits")
    os.symlink(secret, os.path.join(agent.data_dir, "day"))
    agent.write("b.jpg", b"b")
    drop(agent, "next.json", {"file_name": "b.jpg"})
    wait_until(lambda: len(sent(verifying)) == 1, what="the other one is there")
    assert agent.count("waiting") == 1
    assert agent.stop() == 0
    assert sent(verifying) == {agent.key("b.jpg"): b"b"}


def test_a_message_that_comes_before_its_file_waits_for_it(agent: Agent, verifying: VerifyingS3) -> None:
    drop(agent, "early.json", {"file_name": "day/a.jpg"})
    agent.start()
    wait_until(lambda: agent.status()["queue"]["waiting"]["reasons"] == {"file": 1}, what="it waits for its file")
    assert agent.status()["healthy"] and agent.status()["oldest_unsent_s"] is None
    assert agent.cli("retry", "--all").returncode == 0
    assert agent.status()["queue"]["waiting"]["reasons"] == {"file": 1}
    agent.kill()
    agent.start()
    os.makedirs(os.path.dirname(agent.path("day/a.jpg")))
    with open(agent.path("day/a.jpg"), "wb") as file:
        file.write(b"first half, ")
        file.flush()
        wait_until(lambda: agent.ask("settling") != [], what="it is seen")
        file.write(b"second half")
    wait_until(lambda: len(sent(verifying)) == 1, what="it is there")
    assert sent(verifying) == {agent.key("day/a.jpg"): b"first half, second half"}
    assert agent.stop() == 0


def test_a_message_whose_file_never_comes_is_rejected_with_its_reason(agent: Agent) -> None:
    agent.put_config("system/system", {"id": "field-7", "addresses": ["upload"], "messages": {"wait_file_s": 1}})
    drop(agent, "early.json", ORIGINAL)
    agent.start()
    wait_until(lambda: bool(rejected(agent)), what="it is rejected")
    ((name, reason),) = rejected(agent).items()
    assert "generated_data/camera/a.jpg did not come" in reason
    with open(os.path.join(agent.base_dir, "generated_data", "messages", "rejected", name)) as file:
        assert json.load(file) == ORIGINAL
    wait_until(lambda: (agent.count("waiting"), agent.count("gone")) == (0, 1), what="its row knows")
    assert agent.stop() == 0


def test_a_message_that_was_rejected_for_its_file_is_taken_again_when_it_is_put_back(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.put_config("system/system", {"id": "field-7", "addresses": ["upload"], "messages": {"wait_file_s": 1}})
    drop(agent, "early.json", ORIGINAL)
    agent.start()
    wait_until(lambda: bool(rejected(agent)), what="it is rejected")
    wait_until(lambda: agent.count("waiting") == 0, what="its row knows")
    agent.write("a.jpg", b"a")
    (name,) = rejected(agent)
    aside = os.path.join(agent.base_dir, "generated_data", "messages", "rejected", name)
    os.rename(aside, os.path.join(inbox(agent), "again.json"))
    wait_until(lambda: sent(verifying) == {agent.key("a.jpg"): b"a"}, what="its file is there")
    assert agent.stop() == 0


def test_a_message_that_is_written_in_place_is_taken_when_it_is_whole(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    agent.start()
    with open(os.path.join(inbox(agent), "slow.json"), "w") as file:
        file.write('{"file_name":')
        file.flush()
        drop(agent, "other.json", "{")
        wait_until(lambda: list(rejected(agent)) == ["other.json"], what="a finished one is judged")
        file.write('"a.jpg"}')
    wait_until(lambda: len(sent(verifying)) == 1, what="it is there")
    assert list(rejected(agent)) == ["other.json"]
    assert agent.stop() == 0


def test_fields_travel_as_metadata_and_what_has_no_room_lies_beside(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    content = {
        "file_name": "a.jpg",
        "id": 17,
        "time": "2021-09-01T12:00:00Z",
        "Ort": "Grüße aus Köln",
        "gps": {"lat": 1.5},
        "long": "x" * 3000,
        "odd name": "y",
    }
    post("image_info", content, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    found = metadata(verifying, agent.key("a.jpg"))
    assert (found["id"], found["time"]) == ("17", "2021-09-01T12:00:00Z")
    assert text_of(found["ort"]) == "Grüße aus Köln"
    assert json.loads(found["gps"]) == {"lat": 1.5}
    assert "long" not in found and sum(len(name) + len(value) for name, value in found.items()) <= 2048
    beside = json.loads(verifying.objects()[found["syncagent-sidecar"]])
    assert beside == {"key": agent.key("a.jpg"), "content": content}


def test_the_date_in_a_key_is_the_messages_own_else_the_files(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(
        verifying.endpoint_url,
        duration="on_message",
        carrier={"default_cloud_path": "{system_id}/{year}/{month}/{day}/{file_name}"},
    )
    for name in ("said.jpg", "unsaid.jpg"):
        os.utime(agent.write(name, name.encode()), (86400.0 * 365, 86400.0 * 365))
    post("image_info", {"file_name": "said.jpg", "time": "2024-05-01T23:30:00-02:00"}, base_dir=agent.base_dir)
    post("image_info", {"file_name": "unsaid.jpg"}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {
        "field-7/2024/05/02/said.jpg": b"said.jpg",
        "field-7/1971/01/01/unsaid.jpg": b"unsaid.jpg",
    }


def test_a_file_from_an_allowed_directory_goes_by_the_name_that_the_message_gives_it(
    agent: Agent, verifying: VerifyingS3
) -> None:
    outside = os.path.join(agent.top, "usb")
    path = write_file(os.path.join(outside, "dcim", "DSC1.jpg"), b"d")
    agent.configure(verifying.endpoint_url, duration="on_message", upload={"allowed_roots": [outside]})
    post("image_info", {"file_name": "first.jpg", "disk_path": path}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("first.jpg"): b"d"}


def test_four_durations_side_by_side_on_one_carrier(agent: Agent, verifying: VerifyingS3) -> None:
    durations = {"watches": "on_change", "waits": "on_message", "timed": TIMED_S, "asked": "as_needed"}
    agent.put_config("system/system", {"id": "field-7", "addresses": list(durations)})
    for name, duration in durations.items():
        document = {"message_type": f"type_{name}", "carrier": "store", "duration": duration}
        agent.put_config(f"addresses/{name}", {**document, "additional_info": {"sub_path": name}})
    agent.start()
    agent.write("a.jpg", b"a")
    wait_until(lambda: "camera/watches/a.jpg" in sent(verifying), what="the watching address sends it by itself")
    wait_until(lambda: "camera/timed/a.jpg" in sent(verifying), what="the timed one sends it at its tick")
    assert sorted(sent(verifying)) == ["camera/timed/a.jpg", "camera/watches/a.jpg"]
    post("type_waits", {"file_name": "a.jpg"}, base_dir=agent.base_dir)
    wait_until(lambda: "camera/waits/a.jpg" in sent(verifying), what="a message sends it")
    assert agent.cli("post", "type_asked", '{"file_name": "a.jpg"}').returncode == 1
    assert agent.cli("send", agent.path("a.jpg"), "--address", "asked", "--wait").returncode == 0
    assert sent(verifying) == {f"camera/{name}/a.jpg": b"a" for name in durations}
    assert len(puts(verifying)) == 4
    assert agent.stop() == 0


def test_what_is_gathered_goes_together_at_the_tick_and_not_before(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, duration=TIMED_S)
    agent.start()
    for number in range(5):
        agent.write(f"{number}.jpg", b"%d" % number)
    post("image_info", {"file_name": "0.jpg", "cloud_path": "asked/0.jpg"}, base_dir=agent.base_dir)
    wait_until(lambda: agent.count("ready") == 6, what="all are gathered")
    assert sent(verifying) == {}
    wait_until(lambda: len(sent(verifying)) == 6, what="all went")
    times = [event.at for event in puts(verifying)]
    assert max(times) - min(times) < TIMED_S
    # What a person asks for does not wait.
    agent.write("now.jpg", b"now")
    assert agent.cli("send", agent.path("now.jpg"), "--wait").returncode == 0
    assert agent.stop() == 0


def test_what_an_earlier_run_gathered_goes_at_once(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, duration=3600)
    agent.start()
    agent.write("a.jpg", b"a")
    wait_until(lambda: agent.count("ready") == 1, what="it is gathered")
    agent.kill()
    assert sent(verifying) == {}
    agent.start()
    wait_until(lambda: len(sent(verifying)) == 1, what="it went")
    assert agent.stop() == 0


def test_one_file_asked_for_by_two_addresses_goes_once_per_address_and_key(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.put_config("system/system", {"id": "field-7", "addresses": ["one", "two"]})
    for name in ("one", "two"):
        document = {"message_type": "image_info", "carrier": "store", "duration": "on_message"}
        agent.put_config(f"addresses/{name}", {**document, "additional_info": {"sub_path": name}})
    agent.write("a.jpg", b"a")
    for number in range(3):
        post("image_info", {"file_name": "a.jpg", "id": number}, base_dir=agent.base_dir)
    post("image_info", {"file_name": "a.jpg", "cloud_path": "k/a.jpg"}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {"camera/one/a.jpg": b"a", "camera/two/a.jpg": b"a", "k/a.jpg": b"a"}
    assert len(puts(verifying)) == 3


def test_a_file_that_is_rewritten_before_its_second_message_is_sent_again(agent: Agent, verifying: VerifyingS3) -> None:
    agent.start()
    for number in range(3):
        agent.write("a.jpg", b"%d" % number)
        post("image_info", {"file_name": "a.jpg", "id": number}, base_dir=agent.base_dir)
        wait_until(lambda wanted=number + 1: len(sent(verifying)) == wanted, what="this version is there")  # type: ignore[misc]
    assert sorted(sent(verifying).values()) == [b"0", b"1", b"2"]
    assert agent.stop() == 0


def test_a_receipt_goes_through_the_firmware_carrier_as_an_object_of_its_own(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.put_config("system/system", {"id": "field-7"})
    agent.put_config(
        "carriers/ota",
        {
            "inheritance": ["store"],
            "path": "firmware_images",
        },
    )
    agent.put_config(
        "tasks/firmware",
        {
            "source_type": "carrier",
            "config_name": "ota",
            "function": "handle_new_firmware_message",
            "duration": "on_message",
            "message_type": "firmware_image",
        },
    )
    receipt = {"id": "r1", "file_name": "boot", "confirm_receipt": True, "time": "2026-01-01T00:00:00Z"}
    other = {**receipt, "id": "r2"}
    post("confirm_receipt", receipt, base_dir=agent.base_dir)
    post("firmware_image", {"id": "now"}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 0
    post("confirm_receipt", other, base_dir=agent.base_dir)
    post("confirm_receipt", {**receipt, "file_name": "y" * 1100}, base_dir=agent.base_dir)
    assert agent.run_once().returncode == 1
    assert [(state, reason) for _, state, reason in agent.rows() if state == "parked"] == [("parked", "key too long")]
    top = "firmware_images/field-7/.syncagent/confirm_receipt/2026-01-01T00:00:00Z-boot"
    found = {key: json.loads(body) for key, body in verifying.objects().items() if key.startswith(top)}
    assert found.pop(f"{top}.json")["msg_content"] == receipt
    assert [each["msg_content"] for each in found.values()] == [other], "one replaced the other"
    assert rejected(agent) == {}
    agent.run_once()
    assert len(regular_files(os.path.join(agent.state_dir, "outbox"))) == 1, "kept although the store has them"


def test_a_burst_of_ten_thousand_messages_is_taken_without_loss(agent: Agent) -> None:
    top = inbox(agent)
    os.makedirs(top)
    for number in range(10_000):
        with open(os.path.join(top, f"{number}.json"), "w") as file:
            file.write(json.dumps({"file_name": f"{number}.jpg"}))
    agent.start()
    wait_until(lambda: not os.listdir(top), deadline_s=120, what="the inbox is empty")
    assert agent.status()["queue"]["waiting"] == {"files": 10_000, "bytes": 0, "reasons": {"file": 10_000}}
    with open(f"/proc/{agent.process.pid if agent.process else 0}/status") as file:
        peak_kb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert peak_kb < 100 * 1024
    assert agent.stop() == 0


NOTED = {**ORIGINAL, "msg_content": {"file_name": "a.jpg", "note": "é", "camera_no": 7}}


@pytest.mark.parametrize("kind", ["rclone", "moto"])
def test_the_message_goes_into_a_store_that_verifies_signatures_and_into_one_that_keeps_metadata(
    tmp_path: object, request: pytest.FixtureRequest, kind: str
) -> None:
    server: RcloneS3 | MotoS3 = request.getfixturevalue(kind)
    bucket: str = request.getfixturevalue(f"{kind}_bucket")
    with Agent(str(tmp_path)) as agent:
        agent.configure(server.endpoint_url, bucket=bucket, duration="on_message")
        agent.write("a.jpg", b"a")
        post("image_info", NOTED, base_dir=agent.base_dir)
        assert agent.run_once().returncode == 0
        found = server.client().get_object(Bucket=bucket, Key="camera/field-7/a.jpg")
        assert found["Body"].read() == b"a"
        if kind == "moto":
            assert (text_of(found["Metadata"]["note"]), found["Metadata"]["camera_no"]) == ("é", "7")


def test_send_does_not_take_from_another_carriers_directories(agent: Agent, verifying: VerifyingS3) -> None:
    outside = os.path.join(agent.top, "usb")
    path = write_file(os.path.join(outside, "a.jpg"), b"a")
    agent.put_config(
        "carriers/second", {"inheritance": ["store"], "path": "other", "upload": {"allowed_roots": [outside]}}
    )
    agent.put_config("addresses/second", {"message_type": "other", "carrier": "second", "duration": "on_message"})
    agent.put_config("system/system", {"id": "field-7", "addresses": ["upload", "second"]})
    refused = agent.cli("send", path, "--address", "upload")
    assert refused.returncode == 1 and "allowed_roots of store" in refused.stderr
    assert agent.cli("send", path, "--address", "second").returncode == 0
    assert agent.run_once().returncode == 0
    assert list(sent(verifying)) == ["other/a.jpg"]
