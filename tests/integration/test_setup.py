"""`setup` without and with a terminal: what it writes, what it keeps, and that it runs the checks."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.cli import setup
from syncagent.cli.setup import _as_unit_word, drop_in_for
from syncagent.edges import accounts
from tests.agent import Agent, environment
from tests.servers import ACCESS_KEY, SECRET_KEY, VerifyingS3

KEYS = ("--access-key-id", ACCESS_KEY, "--secret-access-key", SECRET_KEY)


@pytest.fixture
def store() -> Iterator[VerifyingS3]:
    with VerifyingS3("bucket") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as made:
        yield made


def carrier_file(agent: Agent) -> str:
    return os.path.join(agent.config_dir, "carriers/bucket.yaml")


def test_from_nothing_to_a_file_in_the_bucket(agent: Agent, store: VerifyingS3) -> None:
    done = agent.cli(
        "setup", "--bucket", "bucket", "--endpoint-url", store.endpoint_url, "--system-id", "field-7", *KEYS
    )
    assert "right to put: granted" in done.stdout, done.stderr
    assert SECRET_KEY not in done.stdout + done.stderr
    agent.write("a.jpg", b"picture")
    assert agent.run_once().returncode == 0
    assert store.objects()[agent.key("a.jpg")] == b"picture"


def test_keys_in_a_file_are_its_owners_alone(agent: Agent) -> None:
    agent.cli("setup", "--bucket", "b", "--endpoint-url", "http://127.0.0.1:1", "--no-check", *KEYS)
    assert stat.S_IMODE(os.stat(carrier_file(agent)).st_mode) == 0o600


def test_what_is_not_named_stays_as_it_is(agent: Agent) -> None:
    agent.cli("setup", "--bucket", "b", "--endpoint-url", "http://127.0.0.1:1", "--no-check", *KEYS)
    with open(carrier_file(agent), "a") as file:
        file.write("upload: {workers: 2}\n")
    done = agent.cli("setup", "--region", "eu-central-1", "--no-check")
    assert done.returncode == 0, done.stderr
    shown = agent.cli("check-config").stdout
    for line in ('bucket_name: "b"', 'region: "eu-central-1"', "workers: 2", "min_free_percent: 10.0"):
        assert line in shown
    with open(carrier_file(agent)) as file:
        assert SECRET_KEY in file.read()


OFFLINE = ("--bucket", "b", "--endpoint-url", "http://127.0.0.1:1", "--no-check", "--no-start")


@pytest.mark.parametrize("name", ["system.json", "gateway.yaml"])
def test_a_new_name_keeps_the_rest_of_the_system_file_whatever_that_is_called(agent: Agent, name: str) -> None:
    os.makedirs(os.path.join(agent.config_dir, "system"))
    path = os.path.join(agent.config_dir, "system", name)
    with open(path, "w") as file:
        file.write('{"id": "old", "heartbeat_s": 61, "web": {"listen": "127.0.0.1:9000", "password": "open sesame"}}')
    done = agent.cli("setup", *OFFLINE, "--system-id", "field-8")
    assert done.returncode == 0, done.stderr
    shown = agent.cli("check-config").stdout
    for line in ('id: "field-8"', "heartbeat_s: 61", 'listen: "127.0.0.1:9000"'):
        assert line in shown
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, "it holds a password"


@pytest.mark.parametrize(
    "odd", [("--path", "../../outside"), ("--endpoint-url", "not a store"), ("--system-id", "$nobody")]
)
def test_an_answer_that_cannot_be_leaves_everything_as_it_is(
    agent: Agent, odd: tuple[str, str], tmp_path: Path
) -> None:
    assert agent.cli("setup", *OFFLINE).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = agent.cli("setup", *OFFLINE, *odd)
    assert done.returncode == 78
    assert "nothing was written" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.rglob("outside"))


def test_an_empty_endpoint_is_amazons(agent: Agent) -> None:
    agent.cli("setup", *OFFLINE)
    done = agent.cli("setup", "--no-check", "--no-start", "--endpoint-url", "")
    assert done.returncode == 0, done.stderr
    assert "endpoint_url: null" in agent.cli("check-config").stdout


def test_the_directory_is_made_below_the_data_however_the_path_is_written(agent: Agent, tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    assert agent.cli("setup", *OFFLINE, "--path", str(stray)).returncode == 0
    assert not stray.exists()
    assert agent.cli("setup", *OFFLINE, "--path", "📷 vorn").returncode == 0
    assert os.path.isdir(os.path.join(os.path.dirname(agent.data_dir), "📷 vorn"))


def test_it_says_so_when_nothing_sends_to_what_was_set_up(agent: Agent) -> None:
    agent.configure("http://127.0.0.1:1")
    done = agent.cli("setup", *OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "no address sends to carriers/bucket" in done.stderr


@pytest.mark.parametrize("inside", ["generated_data/disk", "."])
def test_a_disk_for_the_data_is_neither_in_nor_around_them(agent: Agent, inside: str) -> None:
    assert agent.cli("setup", *OFFLINE).returncode == 0
    done = agent.cli("setup", *OFFLINE, "--data-dir", os.path.join(agent.base_dir, inside))
    assert done.returncode == 1
    assert "lie within the other" in done.stderr
    assert os.path.isdir(agent.data_dir)


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/mnt/usb disk/100%", ['ReadWritePaths="-/mnt/usb disk/100%%"']),
        ("/home/pi/pictures", ['ReadWritePaths="-/home/pi/pictures"', "ProtectHome=read-only"]),
    ],
)
def test_the_sandbox_is_opened_for_just_that_disk(target: str, lines: list[str]) -> None:
    assert drop_in_for(target).splitlines()[1:] == ["[Service]", *lines]


def test_a_disk_that_keeps_no_owners_is_told_how_to_be_mounted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(path: str, *, user: str | None, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(accounts, "give", refuse)
    monkeypatch.setattr(setup, "_service_user", lambda: "syncagent")
    setup._give_shared(str(tmp_path))
    assert "uid=syncagent,gid=syncagent" in capsys.readouterr().err


def test_without_a_bucket_and_a_terminal_nothing_is_written(agent: Agent) -> None:
    done = agent.cli("setup")
    assert done.returncode == 2
    assert "--bucket" in done.stderr
    assert os.listdir(agent.config_dir) == []


def test_half_a_key_is_refused(agent: Agent) -> None:
    assert agent.cli("setup", "--bucket", "b", "--access-key-id", "A").returncode == 2


def test_a_store_that_refuses_ends_with_1_and_the_configuration_is_there(agent: Agent, store: VerifyingS3) -> None:
    done = agent.cli("setup", "--bucket", "nobodys", "--endpoint-url", store.endpoint_url, *KEYS)
    assert done.returncode == 1
    assert "wrong bucket" in done.stdout
    assert agent.cli("check-config").returncode == 0


def test_data_may_lie_on_another_disk_but_nothing_is_moved(agent: Agent, tmp_path: Path) -> None:
    disk = str(tmp_path / "disk/pictures")
    agent.write("a.jpg", b"picture")
    options = ("--bucket", "b", "--endpoint-url", "http://127.0.0.1:1", "--no-check", "--data-dir", disk)
    done = agent.cli("setup", *options)
    assert done.returncode == 1
    assert "holds files" in done.stderr
    os.unlink(agent.path("a.jpg"))
    assert agent.cli("setup", *options).returncode == 0
    assert os.path.realpath(agent.data_dir) == f"{disk}/camera"
    assert agent.cli("setup", *options).returncode == 0  # again is no different


def test_a_directory_of_any_name_is_one_word_of_the_unit() -> None:
    assert _as_unit_word('-/mnt/usb disk/50% "a') == '"-/mnt/usb disk/50%% \\"a"'


def test_on_a_terminal_it_asks_and_does_not_show_the_secret(agent: Agent, store: VerifyingS3) -> None:
    answers = {
        "Bucket": "bucket",
        "Address of the store": store.endpoint_url,
        "Region": "us-east-1",
        "Access key": ACCESS_KEY,
        "Secret key": SECRET_KEY,
        "Directory below": "",
        "User whose": "-",
    }
    master, slave = pty.openpty()
    command = agent.command("setup", "--no-start")
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment(), start_new_session=True
    )
    os.close(slave)
    shown, said = "", 0
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(master, 4096).decode(errors="replace"):
            shown += piece
            for question, answer in answers.items():
                if question in shown[said:] and shown.rstrip(" ").endswith(":"):
                    said = len(shown)
                    os.write(master, f"{answer}\n".encode())
                    break
    process.wait(60)
    os.close(master)
    assert "right to put: granted" in shown
    assert SECRET_KEY not in shown
    assert 'path: "camera"' in agent.cli("check-config").stdout
