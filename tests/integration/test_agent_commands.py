"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.agent import Agent, environment, is_own, puts, regular_files, sent, write_file
from tests.proxy import Proxy, Rule
from tests.s3_model import Fault
from tests.servers import RcloneS3, VerifyingS3, free_port, wait_until

MIB = 1 << 20
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    """Configured for the strict store, and not started."""
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url, watch={"scan_s": 1})
        yield agent


# -- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "size_mib"), [(signal.SIGTERM, 7), (signal.SIGINT, 12)])
def test_run_ends_within_ten_seconds_with_0_in_the_middle_of_a_slow_upload(
    agent: Agent, verifying: VerifyingS3, number: signal.Signals, size_mib: int
) -> None:
    with Proxy(verifying.endpoint_url) as proxy:
        proxy.rule = Rule(up_bytes_per_s=50_000)
        agent.configure(proxy.endpoint_url)
        content = os.urandom(size_mib * MIB)
        agent.write("big.mp4", content)
        process = agent.start()
        wait_until(
            lambda: any(flight["sent_bytes"] > 0 for flight in agent.ask("flights") or []),
            what="the upload is on its way",
        )
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0, agent.log()
        assert time.monotonic() - begun < 10
        assert agent.states("big.mp4") == ["ready"]
        assert not sent(verifying)
        proxy.rule = Rule()
        assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("big.mp4"): content}


def test_a_second_run_on_the_same_directories_ends_with_1_and_names_the_first(agent: Agent, tmp_path: object) -> None:
    first = agent.start()
    elsewhere = os.path.join(str(tmp_path), "other")
    same_state = agent.cli("run")
    same_base = agent.cli("--state-dir", os.path.join(elsewhere, "state"), "run", timeout_s=30)
    same_state_only = agent.cli("--base-dir", os.path.join(elsewhere, "base"), "run", timeout_s=30)
    for second in (same_state, same_base, same_state_only):
        assert second.returncode == 1, second.stderr
        assert f"PID {first.pid}" in second.stderr
    assert agent.status()["running"]


def test_a_second_run_whose_generated_data_is_a_link_to_that_of_the_first_ends_with_1(
    agent: Agent, tmp_path: object
) -> None:
    first = agent.start()
    base = os.path.join(str(tmp_path), "other")
    os.mkdir(base)
    os.symlink(os.path.join(agent.base_dir, "generated_data"), os.path.join(base, "generated_data"))
    second = agent.cli("--base-dir", base, "--state-dir", os.path.join(base, "state"), "run")
    assert second.returncode == 1, second.stderr
    assert f"PID {first.pid}" in second.stderr


def test_the_agents_own_lock_is_never_sent_whatever_is_watched(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, carrier={"path": None}, watch={"ignore": []})
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    assert os.path.exists(os.path.join(agent.base_dir, "generated_data", ".syncagent.lock"))
    assert sent(verifying) == {"field-7/camera/a.jpg": b"a"}


def test_run_once_ends_with_0_when_there_is_nothing_to_do(agent: Agent, verifying: VerifyingS3) -> None:
    assert agent.run_once().returncode == 0
    assert not sent(verifying)


def test_run_once_twice_sends_once(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"once")
    assert agent.run_once().returncode == 0
    assert agent.run_once().returncode == 0
    assert len(puts(verifying)) == 1


def test_run_once_ends_with_1_when_a_file_is_still_being_written(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("done.jpg", b"done")
    with open(agent.path("open.mp4"), "wb") as file:
        file.write(b"half")
        file.flush()
        result = agent.run_once(timeout_s=2)
    assert result.returncode == 1
    assert sent(verifying) == {agent.key("done.jpg"): b"done"}
    assert agent.run_once().returncode == 0
    assert sent(verifying)[agent.key("open.mp4")] == b"half"


def test_run_once_ends_with_1_when_the_watched_directory_is_a_link(agent: Agent, tmp_path: object) -> None:
    elsewhere = os.path.join(str(tmp_path), "usb")
    os.rename(agent.data_dir, elsewhere)
    os.symlink(elsewhere, agent.data_dir)
    agent.write("a.jpg", b"a")
    assert agent.run_once(timeout_s=2).returncode == 1


def test_run_once_ends_with_1_when_a_directory_cannot_be_read(agent: Agent, verifying: VerifyingS3) -> None:
    agent = Agent(agent.top, without=("dac_override", "dac_read_search", "fowner"))
    agent.write("locked/a.jpg", b"a")
    agent.write("b.jpg", b"b")
    os.chown(agent.path("locked"), 1000, 1000)
    os.chmod(agent.path("locked"), 0)
    assert agent.run_once(timeout_s=2).returncode == 1
    assert sent(verifying) == {agent.key("b.jpg"): b"b"}
    os.chmod(agent.path("locked"), 0o755)
    assert agent.run_once(timeout_s=2).returncode == 0
    assert len(sent(verifying)) == 2


def test_run_once_ends_with_1_when_the_store_is_down(agent: Agent) -> None:
    agent.configure(f"http://127.0.0.1:{free_port()}")
    agent.write("a.jpg", b"waits")
    assert agent.run_once(timeout_s=2).returncode == 1
    assert agent.states("a.jpg") == ["waiting"] or agent.states("a.jpg") == ["ready"]


def test_run_once_ends_with_1_when_a_file_is_parked(agent: Agent) -> None:
    agent.write("/".join(["d" * 200] * 6) + "/far.jpg", b"far")
    assert agent.run_once(timeout_s=2).returncode == 1


def test_the_log_holds_no_noise_of_the_libraries_however_much_it_is_to_say(
    agent: Agent, verifying: VerifyingS3
) -> None:
    content = os.urandom(9 * MIB)
    verifying.faults.append(Fault(operation="PutObject", status=503, times=1))
    agent.configure(verifying.endpoint_url, system={"log_level": "debug"})
    agent.write("a.jpg", b"a")
    agent.write("b.mp4", content)
    result = agent.run_once()
    assert result.returncode == 0
    assert "INFO upload-store" in result.stderr
    noise = ("botocore", "urllib3", "boto3", "Starting new", "Event ", "Found cred", "Traceback", "AWS4-HMAC")
    for line in result.stderr.splitlines():
        assert not any(word in line for word in noise), line
    said = (
        "import logging; from syncagent.cli.run import set_up_log; set_up_log('debug')\n"
        "for name in ('boto3.resources', 'botocore.hooks', 'urllib3.connectionpool', 's3transfer', 'watchdog.tools'):\n"
        "    logging.getLogger(name).warning('noise')\n"
        "logging.getLogger('syncagent.x').debug('ours')\n"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, env=environment())
    assert "noise" not in done.stderr
    assert "ours" in done.stderr


def test_a_name_with_control_characters_makes_no_line_of_the_log_or_of_a_table(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.configure(verifying.endpoint_url, system={"log_level": "debug"})
    agent.write("Köln\n2025 ERROR forged\x1b[31m\udcff.jpg", b"a")
    shown = "Köln\\n2025 ERROR forged\\x1b[31m\\udcff.jpg"
    listed = agent.cli("verify")
    assert [line.split("camera/")[1].split("  ")[0] for line in listed.stdout.splitlines()] == [shown]
    done = agent.run_once()
    assert done.returncode == 0 and shown in done.stderr
    listed = agent.cli("ls")
    assert listed.stdout.count("\n") == 1 and f"generated_data/camera/{shown}  " in listed.stdout
    for text in (done.stderr, listed.stdout):
        assert "\x1b" not in text and not any(line.startswith("2025 ERROR") for line in text.splitlines())


def break_configuration(agent: Agent) -> None:
    with open(os.path.join(agent.config_dir, "carriers", "store.json"), "a") as file:
        file.write("x")


def test_status_ls_and_retry_of_a_running_agent_need_no_configuration(agent: Agent) -> None:
    agent.write("/".join(["d" * 200] * 6) + "/far.jpg", b"far")
    agent.start()
    wait_until(lambda: agent.count("parked") == 1, what="a file is parked")
    break_configuration(agent)
    result = agent.cli("status", "--json")
    assert result.returncode == 0, result.stderr
    status = json.loads(result.stdout)
    assert status["running"] and status["system_id"] == agent.system_id
    result = agent.cli("ls", "--json")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)
    result = agent.cli("retry", row["path"])
    assert (result.returncode, result.stdout) == (0, "1 released\n"), result.stderr
    result = agent.cli("retry", agent.path(row["path"].partition("camera/")[2]))
    assert result.returncode == 0, result.stderr
    assert agent.cli("send", agent.path("x")).returncode == 78


def test_status_without_an_agent_and_without_a_configuration_that_can_be_read_says_what_the_journal_says(
    agent: Agent,
) -> None:
    agent.configure(f"http://127.0.0.1:{free_port()}")
    agent.write("a.jpg", b"waits")
    assert agent.run_once(timeout_s=1).returncode == 1
    break_configuration(agent)
    result = agent.cli("status", "--json")
    assert result.returncode == 3, result.stderr
    assert "store.json" in result.stderr
    status = json.loads(result.stdout)
    assert (status["running"], status["state"]) == (False, "stopped")
    assert status["addresses"]["upload"]["oldest_unsent_s"] is not None
    assert status["oldest_unsent_s"] is not None
    assert "not active" not in result.stdout
    assert any("configuration" in warning for warning in status["warnings"])
    assert agent.cli("status").returncode == 3


def test_a_bad_configuration_ends_with_78_and_names_the_key(agent: Agent) -> None:
    agent.put_config("system/system", {"id": "x", "adresses": ["upload"]})
    result = agent.cli("run")
    assert result.returncode == 78
    assert "adresses" in result.stderr


# -- status, ls, retry ------------------------------------------------------------------------------------------------

STATES = {"settling", "ready", "sending", "confirmed", "removed", "waiting", "parked", "superseded", "gone", "lost"}
FACTS = {"watcher", "uploader", "link", "store", "disk", "clock", "power", "firmware"}
FIELDS = {
    *("version", "system_id", "time", "running", "pid", "uptime_s", "healthy", "state", "reason", "oldest_unsent_s"),
    *("queue", "facts", "addresses", "wire", "rates", "firmware", "losses", "last_errors"),
}


def read_status(agent: Agent, *, code: int) -> dict[str, object]:
    result = agent.cli("status", "--json")
    assert result.returncode == code, result.stdout + result.stderr
    document: dict[str, object] = json.loads(result.stdout)
    return document


def check_fields(status: dict[str, object]) -> None:
    assert set(status) >= FIELDS
    queue, facts, addresses = status["queue"], status["facts"], status["addresses"]
    assert isinstance(queue, dict) and set(queue) == STATES
    assert all(set(entry) >= {"files", "bytes", "reasons"} for entry in queue.values())
    assert isinstance(facts, dict) and set(facts) >= FACTS
    assert all({"ok", "state", "reason"} <= set(fact) and isinstance(fact["ok"], bool) for fact in facts.values())
    assert isinstance(addresses, dict) and set(addresses) == {"upload"}
    assert all({"queue", "oldest_unsent_s"} <= set(address) for address in addresses.values())
    wire = status["wire"]
    assert isinstance(wire, dict) and set(wire) >= {"bytes_today", "bytes_month"}
    assert isinstance(status["losses"], int) and isinstance(status["last_errors"], list)
    assert status["state"] in ("ok", "degraded", "broken", "stopped")


def test_status_has_every_field_and_tells_by_its_exit_code(agent: Agent, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    stopped = read_status(agent, code=3)
    check_fields(stopped)
    assert stopped["running"] is False and stopped["state"] == "stopped" and stopped["pid"] is None
    process = agent.start()
    wait_until(lambda: agent.count("confirmed") == 1, what="the file is confirmed")
    running = read_status(agent, code=0)
    check_fields(running)
    assert running["running"] is True and running["pid"] == process.pid and running["healthy"] is True
    verifying.faults.append(Fault.denied())
    agent.write("b.jpg", b"b")
    wait_until(lambda: not agent.status()["healthy"], what="the refusal shows")
    refused = read_status(agent, code=1)
    check_fields(refused)
    assert refused["state"] == "broken" and refused["oldest_unsent_s"] is not None
    assert refused["last_errors"]


def test_an_agent_that_hangs_is_not_healthy(agent: Agent) -> None:
    process = agent.start()
    process.send_signal(signal.SIGSTOP)
    try:
        status = read_status(agent, code=1)
    finally:
        process.send_signal(signal.SIGCONT)
    check_fields(status)
    assert (status["running"], status["pid"], status["state"]) == (True, process.pid, "broken")
    facts = status["facts"]
    assert isinstance(facts, dict)
    silent = {"ok": False, "state": "silent", "reason": f"PID {process.pid} does not answer"}
    assert facts["watcher"] == facts["uploader"] == silent
    wait_until(lambda: read_status(agent, code=0)["healthy"] is True, what="it answers again")


def test_status_for_people_names_the_state(agent: Agent) -> None:
    agent.start()
    result = agent.cli("status")
    assert result.returncode == 0
    assert "files get through" in result.stdout


def test_status_for_people_says_each_warning_once_whether_the_agent_runs_or_not(agent: Agent) -> None:
    agent.put_config("carriers/mqtt_status", {"source": "mqtt"})
    stopped = agent.cli("status")
    agent.start()
    running = agent.cli("status")
    assert (stopped.returncode, running.returncode) == (3, 0)
    for said in (stopped.stdout, running.stdout):
        assert said.count("mqtt_status.json") == 1


def test_ls_lists_the_rows_and_takes_a_state(agent: Agent) -> None:
    agent.write("a.jpg", b"abc")
    agent.write("café.jpg", b"x")
    agent.write(os.fsdecode(b"caf\xe9.jpg"), b"y")
    assert agent.run_once().returncode == 0
    result = agent.cli("ls", "--json")
    assert result.returncode == 0
    rows = {row["path"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {f"generated_data/camera/{name}" for name in ("a.jpg", "café.jpg", "caf\udce9.jpg")}
    row = rows["generated_data/camera/a.jpg"]
    assert (row["state"], row["bytes"], row["key"], row["address"]) == ("confirmed", 3, agent.key("a.jpg"), "upload")
    assert json.loads(agent.cli("ls", "--json", "--state", "parked").stdout) == []
    table = agent.cli("ls")
    assert table.returncode == 0 and agent.key("a.jpg") in table.stdout


def test_retry_releases_a_parked_file(agent: Agent, verifying: VerifyingS3) -> None:
    verifying.buckets["bucket"] = {}
    agent.write("/".join(["d" * 200] * 6) + "/far.jpg", b"far")
    agent.start()
    wait_until(lambda: agent.count("parked") == 1, what="the file is parked")
    assert agent.stop() == 0
    agent.configure(verifying.endpoint_url, carrier={"default_cloud_path": "flat/{file_name}"})
    agent.start()
    assert agent.count("parked") == 1
    result = agent.cli("retry", "--all")
    assert (result.returncode, result.stdout.strip()) == (0, "1 released")
    wait_until(lambda: sent(verifying) == {"flat/far.jpg": b"far"}, what="the file arrives")
    assert agent.cli("retry").returncode == 2


# -- send -------------------------------------------------------------------------------------------------------------


def test_send_wait_ends_when_the_file_is_confirmed(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, duration="as_needed")
    path = agent.write("wanted.jpg", b"wanted")
    agent.write("unwanted.jpg", b"unwanted")
    agent.start()
    result = agent.cli("send", path, "--wait", timeout_s=30)
    assert result.returncode == 0, result.stderr
    assert sent(verifying) == {agent.key("wanted.jpg"): b"wanted"}
    again = agent.cli("send", path, "--wait", timeout_s=30)
    assert again.returncode == 0, again.stderr
    assert len(puts(verifying)) == 1, "a version goes once per address and key"
    named = agent.cli("send", path, "--cloud-path", "other/key.jpg", "--wait", timeout_s=30)
    assert named.returncode == 0, named.stderr
    assert sent(verifying)["other/key.jpg"] == b"wanted"


def test_a_file_that_is_sent_to_a_key_of_its_own_also_goes_where_its_address_sends_it(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.configure(verifying.endpoint_url, watch={"settle_s": 3, "scan_s": 1})
    agent.start()
    path = agent.write("both.jpg", b"both")
    result = agent.cli("send", path, "--cloud-path", "asked/for.jpg", "--wait", timeout_s=30)
    assert result.returncode == 0, result.stderr
    both = {"asked/for.jpg": b"both", agent.key("both.jpg"): b"both"}
    wait_until(lambda: sent(verifying) == both, what="both keys have it")


def test_a_file_that_is_rewritten_before_it_is_sent_goes_to_the_key_that_was_asked_for(
    agent: Agent, verifying: VerifyingS3
) -> None:
    verifying.faults.append(Fault.denied())
    path = agent.write("asked.jpg", b"first")
    agent.start()
    assert agent.cli("send", path, "--cloud-path", "asked/for.jpg").returncode == 0
    wait_until(lambda: agent.count("waiting") == 2, what="both keys are refused")
    agent.write("asked.jpg", b"second")
    wait_until(lambda: agent.states("asked.jpg").count("superseded") == 2, what="the second version is known")
    verifying.faults.clear()
    both = {"asked/for.jpg": b"second", agent.key("asked.jpg"): b"second"}
    wait_until(lambda: sent(verifying) == both, deadline_s=45, what="both keys have it")


def test_send_refuses_what_it_cannot_queue(agent: Agent, tmp_path: object) -> None:
    outside = write_file(os.path.join(str(tmp_path), "outside.jpg"), b"outside")
    os.symlink(outside, agent.path("link.jpg"))
    for name in (outside, agent.path("missing.jpg"), agent.path("link.jpg"), agent.data_dir):
        result = agent.cli("send", name)
        assert result.returncode == 1, name
        assert os.path.basename(name) in result.stderr
    good = agent.write("good.jpg", b"good")
    assert agent.cli("send", good, "--cloud-path", "a//b").returncode == 1
    assert agent.cli("send", good, "--wait").returncode == 1, "nobody is there to wait for"


def test_send_refuses_what_is_the_agents_own_on_the_disk_and_in_the_bucket(agent: Agent) -> None:
    generated = os.path.dirname(agent.data_dir)
    own = [write_file(os.path.join(generated, "messages", "image_info", "m.json"), b"{}")]
    assert agent.run_once().returncode == 0
    own.append(os.path.join(generated, ".syncagent.lock"))
    for path in own:
        result = agent.cli("send", path)
        assert result.returncode == 1, path
        assert "agent's own" in result.stderr
    good = agent.write("good.jpg", b"good")
    for key in ("camera/field-7/.syncagent/status.json", "camera/field-7/.syncagent"):
        result = agent.cli("send", good, "--cloud-path", key)
        assert result.returncode == 1, key
        assert "agent's own" in result.stderr
    assert agent.rows() == []
    assert agent.cli("send", good, "--cloud-path", "camera/field-7/.syncagents/x").returncode == 0


def test_a_file_whose_own_key_lies_in_the_agents_corner_is_parked_and_replaces_nothing(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.configure(
        verifying.endpoint_url, watch={"ignore": []}, carrier={"default_cloud_path": "camera/{relative_path}"}
    )
    agent.write("field-7/.syncagent/probe", b"mine")
    agent.write("field-7/a.jpg", b"a")
    assert agent.run_once(timeout_s=2).returncode == 1
    assert sent(verifying) == {"camera/field-7/a.jpg": b"a"}
    assert b"mine" not in verifying.objects().values()
    assert agent.states("field-7/.syncagent/probe") == ["parked"]


@pytest.mark.parametrize(
    "arguments", [["FILE", "--address", "nope"], ["missing.jpg", "--address", "nope"], [""], ["FILE", ""], []]
)
def test_send_ends_with_2_when_it_is_used_wrongly(agent: Agent, arguments: list[str]) -> None:
    good = agent.write("good.jpg", b"good")
    result = agent.cli("send", *(good if argument == "FILE" else argument for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert not os.path.exists(os.path.join(agent.state_dir, "journal.db")) or agent.rows() == []


def test_what_was_sent_while_the_agent_was_down_goes_when_it_runs(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, duration="as_needed")
    path = agent.write("asked.jpg", b"asked")
    assert agent.cli("send", path).returncode == 0
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("asked.jpg"): b"asked"}


def test_a_command_after_an_edit_does_not_change_where_the_running_agent_sends(
    agent: Agent, verifying: VerifyingS3
) -> None:
    def stores() -> list[object]:
        with closing(sqlite3.connect(os.path.join(agent.state_dir, "journal.db"))) as connection:
            return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("address", "residence")]

    agent.start()
    path = agent.write("a.jpg", b"a")
    before = stores()
    agent.configure(verifying.endpoint_url, bucket="moved")
    for command in (("ls",), ("retry", "--all"), ("send", path), ("status",)):
        assert agent.cli(*command).returncode == 0
    assert stores() == before
    agent.kill()
    assert agent.cli("ls").returncode == 0
    assert agent.cli("status").returncode == 3
    assert stores() == before
    assert agent.run_once().returncode == 0
    assert stores() != before


def test_looking_makes_no_journal(agent: Agent) -> None:
    assert agent.cli("ls").returncode == 0
    assert read_status(agent, code=3)["oldest_unsent_s"] is None
    assert not os.path.exists(agent.state_dir)


# -- the examples -----------------------------------------------------------------------------------------------------


def configure_example(agent: Agent, example: str, store: RcloneS3, bucket: str) -> None:
    """The repository's example, but for the store and its keys."""
    shutil.rmtree(agent.config_dir)
    shutil.copytree(os.path.join(REPOSITORY, example), agent.config_dir, ignore=shutil.ignore_patterns("demo"))
    folder = os.path.join(agent.config_dir, "carriers")
    for name in os.listdir(folder):
        with open(os.path.join(folder, name)) as file:
            carrier = json.load(file)
        carrier |= {"endpoint_url": store.endpoint_url, "bucket_name": bucket}
        carrier |= {"access_key_id": "TESTACCESSKEY", "secret_access_key": "test-secret-key"}
        with open(os.path.join(folder, name), "w") as file:
            json.dump(carrier, file)


def stored(store: RcloneS3, bucket: str) -> dict[str, bytes]:
    return {key: body for key, body in regular_files(store.bucket_dir(bucket)).items() if not is_own(key)}


def test_the_examples_of_the_original_send_every_file_that_is_asked_for(
    agent: Agent, rclone: RcloneS3, rclone_bucket: str
) -> None:
    configure_example(agent, "configs", rclone, rclone_bucket)
    contents = {f"day/img_{number}.jpg": os.urandom(10_000 + number) for number in range(5)}
    contents["big.mp4"] = os.urandom(12 * MIB)
    agent.start()
    for name, content in contents.items():
        result = agent.cli("send", agent.write(name, content), "--wait")
        assert result.returncode == 0, result.stderr
    assert agent.stop() == 0
    found = stored(rclone, rclone_bucket)
    assert found == {f"camera/field-7/{name}": content for name, content in contents.items()}


def test_the_examples_of_the_demo_send_every_file_that_appears(
    agent: Agent, rclone: RcloneS3, rclone_bucket: str
) -> None:
    configure_example(agent, "configs/demo", rclone, rclone_bucket)
    contents = {f"day_{number % 3}/img_{number}.jpg": os.urandom(10_000 + number) for number in range(30)}
    agent.start()
    for name, content in contents.items():
        agent.write(name, content)
    wait_until(lambda: agent.count("confirmed") == len(contents), deadline_s=40, what="all are confirmed")
    assert agent.stop() == 0
    found = stored(rclone, rclone_bucket)
    assert found == {f"camera/demo-camera/{name}": content for name, content in contents.items()}


# -- outages ----------------------------------------------------------------------------------------------------------


def all_arrive(agent: Agent, store: VerifyingS3, *, deadline_s: float) -> None:
    wait_until(lambda: not agent.missing(sent(store)), deadline_s=deadline_s, what="all files arrive")
    wait_until(lambda: agent.status()["healthy"], what="all is well again")
    assert not agent.count("parked")


def test_a_store_that_is_down_at_the_start_fails_no_file(agent: Agent, verifying: VerifyingS3) -> None:
    with Proxy(verifying.endpoint_url) as proxy:
        proxy.rule = Rule(mode="refuse")
        agent.configure(proxy.endpoint_url)
        for number in range(20):
            agent.write(f"img_{number}.jpg", b"%d" % number)
        agent.start()
        wait_until(lambda: not agent.status()["facts"]["link"]["ok"], what="the link is known to be down")
        proxy.rule = Rule()
        all_arrive(agent, verifying, deadline_s=30)


def test_a_bucket_that_refuses_everything_for_a_while_fails_no_file(agent: Agent, verifying: VerifyingS3) -> None:
    verifying.faults.append(Fault.denied())
    for number in range(20):
        agent.write(f"img_{number}.jpg", b"%d" % number)
    agent.start()
    wait_until(lambda: not agent.status()["facts"]["store"]["ok"], what="the refusal is known")
    assert len(puts(verifying)) <= 20, "each key at most once"
    verifying.faults.clear()
    all_arrive(agent, verifying, deadline_s=45)


def test_a_page_of_html_with_status_200_is_never_success(agent: Agent, verifying: VerifyingS3) -> None:
    verifying.faults.append(Fault.portal())
    for number in range(10):
        agent.write(f"img_{number}.jpg", b"%d" % number)
    agent.write("big.mp4", os.urandom(9 * MIB))
    agent.start()
    wait_until(
        lambda: not all(agent.status()["facts"][fact]["ok"] for fact in ("link", "store")), what="the portal is known"
    )
    assert agent.count("confirmed") == 0
    assert not sent(verifying)
    verifying.faults.clear()
    all_arrive(agent, verifying, deadline_s=45)


def test_an_outage_in_the_middle_of_many_files_fails_none(agent: Agent, verifying: VerifyingS3) -> None:
    with Proxy(verifying.endpoint_url) as proxy:
        agent.configure(proxy.endpoint_url)
        agent.start()
        for number in range(60):
            agent.write(f"img_{number}.jpg", os.urandom(5000))
            if number == 20:
                wait_until(lambda: len(sent(verifying)) > 0, what="some have arrived")
                proxy.rule = Rule(mode="refuse")
            if number == 40:
                wait_until(lambda: not agent.status()["facts"]["link"]["ok"], what="the outage shows")
        proxy.rule = Rule()
        all_arrive(agent, verifying, deadline_s=30)


def test_no_secret_is_printed_by_any_command(agent: Agent) -> None:
    agent.put_config("system/system", {"id": "field-7", "addresses": ["upload"], "tasks": [], "log_level": "debug"})
    agent.write("a.jpg", b"a")
    outputs = [agent.run_once(), agent.cli("ls", "--json"), agent.cli("status", "--json"), agent.cli("check-config")]
    assert environment()
    for result in outputs:
        assert "test-secret-key" not in result.stdout + result.stderr
    with open(os.path.join(agent.state_dir, "journal.db"), "rb") as file:
        assert b"test-secret-key" not in file.read()
