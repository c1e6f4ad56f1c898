"""The publisher's verbs against every store, as a person types them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from syncagent.cli.firmware import FIRMWARE_VERBS
from syncagent.cli.main import cli
from syncagent.core.manifest import parse_manifest
from syncagent.publish import changes, repository
from tests.agent import Agent, environment
from tests.publishing import PASSPHRASE, PATH, Device
from tests.servers import ACCESS_KEY, SECRET_KEY, Fault, VerifyingS3, s3_client

COMPONENT = "s3_firmware_ota"
IMAGE = os.urandom(300_000)


@dataclass
class Desk:
    """A publisher's machine: configuration, keys, and the bucket that it reaches."""

    top: str
    endpoint_url: str
    bucket: str
    agent: Agent = field(init=False)
    environment: dict[str, str | None] = field(default_factory=lambda: {"SYNCAGENT_KEY_PASSPHRASE": PASSPHRASE})

    def __post_init__(self) -> None:
        self.agent = Agent(self.top)
        self.configure()

    def configure(self, **keys: Any) -> None:
        put = self.agent.put_config
        put("system/system", {"id": "office", "addresses": [], "tasks": ["download_new_firmware_image"]})
        put(
            "carriers/s3_firmware_ota",
            {
                "source": "s3",
                "endpoint_url": self.endpoint_url,
                "region": "us-east-1",
                "bucket_name": self.bucket,
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
                "path": PATH,
                "system_id": "$system_id",
                **keys,
            },
        )
        put(
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

    @property
    def keys_dir(self) -> str:
        return os.path.join(self.agent.base_dir, "firmware-keys")

    def path(self, name: str, content: bytes | None = None) -> str:
        path = os.path.join(self.top, name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        return path

    def do(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Result:
        """One verb in this process; its exit code must be the expected one, and nothing may look like a bug."""
        directories = ("--config-dir", self.agent.config_dir, "--base-dir", self.agent.base_dir)
        result = CliRunner().invoke(cli, [*directories, "firmware", *arguments], env=self.environment, input=stdin)
        assert result.exit_code == code, (arguments, result.output, result.exception)
        assert PASSPHRASE not in result.output and SECRET_KEY not in result.output
        return result

    def refuse(self, *arguments: str) -> str:
        """A verb that must be refused with one clear line."""
        result = self.do(*arguments, code=1)
        (line,) = result.stderr.splitlines()[-1:]
        assert line.startswith("syncagent: "), result.stderr
        return line

    def json(self, *arguments: str) -> Any:
        return json.loads(self.do(*arguments, "--json").stdout)

    def json_of_failure(self, *arguments: str) -> Any:
        return json.loads(self.do(*arguments, "--json", code=1).stdout)

    def begin(self, *channels: str) -> None:
        channels = channels or ("stable", "canary")
        self.do("keygen", "root", "targets", "snapshot", "timestamp", *channels)
        self.do("init", *(word for channel in channels for word in ("--channel", channel)))

    def publish(self, version: str, content: bytes = IMAGE, *more: str, code: int = 0) -> Result:
        return self.do("publish", self.path("camera.bin", content), "--version", version, *more, code=code)

    def objects(self) -> dict[str, bytes]:
        client = s3_client(self.endpoint_url)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def device(self, name: str = "device") -> Device:
        with open(os.path.join(self.keys_dir, "root.json"), "rb") as file:
            return Device(self.path(name), file.read(), self.objects)

    def look(self, channel: str = "stable", name: str = "device") -> tuple[str, bytes] | None:
        return self.device(name).look(channel, COMPONENT)


@pytest.fixture
def desk(verifying: VerifyingS3, tmp_path: os.PathLike[str]) -> Desk:
    verifying.may_delete = True
    return Desk(str(tmp_path), verifying.endpoint_url, "bucket")


@pytest.fixture(params=["verifying", "rclone", "moto"])
def any_desk(request: pytest.FixtureRequest, tmp_path: os.PathLike[str]) -> Iterator[Desk]:
    server = request.getfixturevalue(request.param)
    if request.param == "verifying":
        server.may_delete = True
    bucket = "bucket" if request.param == "verifying" else request.getfixturevalue(f"{request.param}_bucket")
    yield Desk(str(tmp_path), server.endpoint_url, bucket)


def test_every_verb_at_work_on_every_store(any_desk: Desk, request: pytest.FixtureRequest) -> None:
    desk = any_desk
    is_careless = "rclone" in request.node.name
    desk.do("keygen", "root", "targets", "snapshot", "timestamp", "stable", "canary")
    begun = desk.do("init", "--channel", "stable", "--channel", "canary")
    assert ("no conditional writes" in begun.stderr) == is_careless
    desk.publish("1.0.0", IMAGE, "--channel", "canary", "--percent", "10", "--hardware", "cam-v2", "--keep", "2")
    assert desk.look("canary") == ("1.0.0", IMAGE) and desk.look() is None
    assert "to the whole fleet" in desk.do("promote").stdout
    assert desk.look() == ("1.0.0", IMAGE)
    desk.do("rollout", "--channel", "stable", "--percent", "0.25")
    desk.do("rollout", "--halt")
    assert [(row["channel"], row["percent"], row["halted"]) for row in desk.json("list")] == [
        ("canary", 10, False),
        ("stable", "0.25", True),
    ]
    desk.do("rollout", "--resume")
    desk.do("keygen", "beta")
    desk.do("channel", "add", "beta")
    desk.do("keygen", "timestamp", "--name", "timestamp-2")
    desk.do("rotate-key", "timestamp")
    assert desk.look() == ("1.0.0", IMAGE)
    desk.do("withdraw", "--channel", "canary")
    assert desk.look("canary") is None
    desk.do("channel", "remove", "beta")
    assert desk.do("renew").stdout == "nothing is due\n"
    desk.do("renew", "--if-less-than", "100%")
    desk.publish("1.1.0", b"another image")
    assert all(finding["ok"] for finding in desk.json("verify"))
    before = set(desk.objects())
    assert desk.do("gc", "--keep", "1", code=1).stderr.endswith("say --yes\n")
    assert set(desk.objects()) == before
    desk.do("gc", "--keep", "1", "--yes")
    left = set(desk.objects())
    assert left < before and len([key for key in left if key.endswith(".image")]) == 1
    assert f"{PATH}/metadata/1.root.json" in left
    assert all(finding["ok"] for finding in desk.json("verify"))
    for name in ("device", "fresh"):
        assert desk.look("stable", name) == ("1.1.0", b"another image")


def test_a_release_is_what_devices_read(desk: Desk) -> None:
    desk.begin()
    desk.configure(firmware={"channel": "canary", "component": "camera", "hardware": "cam-v2"})
    desk.publish(
        "2.0",
        IMAGE,
        *("--percent", "25", "--security-version", "7", "--disk-path", "fw/camera.bin", "--config-path", "fw/now.json"),
        *("--config-format", "json", "--requires-agent", "1.2", "--requires-free-bytes", "1000000", "--keep", "3"),
        *("--file-name", "camera-2", "--id", "r-2", "--no-receipt"),
    )
    shown = json.loads(desk.do("show", "canary", "camera").stdout)
    sha256 = hashlib.sha256(IMAGE).hexdigest()
    assert (shown["key"], shown["sha256"]) == (f"{PATH}/targets/canary/camera/{sha256}.image", sha256)
    manifest = parse_manifest(shown["custom"])
    assert (manifest.id, manifest.version, manifest.hardware, manifest.security_version) == ("r-2", "2.0", "cam-v2", 7)
    assert (manifest.disk_path, manifest.config_path, manifest.config_format) == (
        "fw/camera.bin",
        "fw/now.json",
        "json",
    )
    assert (manifest.requires_agent, manifest.requires_free_bytes, manifest.keep) == ("1.2", 1_000_000, 3)
    assert (manifest.file_name, manifest.confirm_receipt, manifest.cloud_path) == ("camera-2", False, shown["key"])
    assert [wave.cohorts for wave in manifest.rollout.waves] == [2500] and manifest.rollout.salt
    before = manifest.rollout
    desk.do("rollout", "--percent", "50%")
    after = parse_manifest(json.loads(desk.do("show", "canary", "camera").stdout)["custom"]).rollout
    assert (after.salt, [wave.cohorts for wave in after.waves]) == (before.salt, [5000])
    # The next release takes over what must not fall, and is for other devices first.
    desk.publish("2.1", b"next")
    following = parse_manifest(json.loads(desk.do("show", "canary", "camera").stdout)["custom"])
    assert following.security_version == 7 and following.rollout.salt != before.salt and not following.rollout.waves
    assert (following.file_name, following.disk_path) == ("camera", "firmware_images/camera.bin")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--disk-path", "../x"), "disk_path"),
        (("--disk-path", "/etc/passwd"), "disk_path is absolute"),
        (("--disk-path", "a", "--config-path", "a/b"), "lies inside the other"),
        (("--component", "a/b"), "component"),
        (("--component", "x" * 65), "component"),
        (("--channel", "nobody"), "there is no channel nobody; there are: stable"),
        (("--percent", "101"), "no percentage"),
        (("--percent", "0.001"), "no percentage"),
        (("--percent", "-1"), "no percentage"),
        (("--percent", "ten"), "no percentage"),
        (("--percent", "²"), "no percentage"),
        (("--percent", "9" * 5_000), "no percentage"),
        (("--id", "a b"), "id"),
        (("--requires-agent", "new"), "requires.agent"),
        (("--file-name", ".."), "file_name"),
        (("--hardware", "a\nb"), "hardware"),
    ],
)
def test_what_devices_would_refuse_is_not_published(desk: Desk, arguments: tuple[str, ...], what: str) -> None:
    desk.begin("stable")
    before = desk.objects()
    assert what in desk.refuse("publish", desk.path("camera.bin", IMAGE), "--version", "1", *arguments)
    assert desk.objects() == before


def test_a_release_that_names_no_hardware_is_not_listed_as_one_for_any(desk: Desk) -> None:
    """A device that names its hardware refuses it, and one that names none refuses every other."""
    desk.begin("stable")
    desk.publish("1")
    (row,) = desk.json("list")
    assert row["hardware"] is None
    assert desk.do("list").stdout.splitlines()[1].split()[4] == "-"


def test_an_image_that_no_device_takes_is_not_published(desk: Desk) -> None:
    desk.begin("stable")
    desk.configure(firmware={"max_image_bytes": 1000})
    assert "firmware.max_image_bytes" in desk.refuse("publish", desk.path("a.bin", IMAGE), "--version", "1")
    assert "is empty" in desk.refuse("publish", desk.path("a.bin", b""), "--version", "1")
    assert "is not there" in desk.refuse("publish", desk.path("nothing.bin"), "--version", "1")
    os.mkfifo(desk.path("fifo"))
    assert "fifo: it is no regular file" in desk.refuse("publish", desk.path("fifo"), "--version", "1")
    desk.do("publish", desk.top, "--version", "1", code=2)


def test_a_security_version_does_not_fall(desk: Desk) -> None:
    desk.begin()
    desk.publish("1", IMAGE, "--channel", "canary", "--security-version", "5")
    line = desk.refuse("publish", desk.path("a.bin", IMAGE), "--version", "2", "--security-version", "4")
    assert "security version 4 is below 5" in line and "--security-version 5" in line
    desk.publish("2")
    assert {row["security_version"] for row in desk.json("list")} == {5}


def test_a_security_version_does_not_fall_with_what_is_withdrawn(desk: Desk) -> None:
    desk.begin()
    desk.publish("1", IMAGE, "--security-version", "5")
    desk.do("withdraw")
    desk.publish("2")
    assert [row["security_version"] for row in desk.json("list")] == [5]
    desk.publish("3", IMAGE, "--channel", "canary", "--security-version", "7")
    desk.do("withdraw", "--channel", "canary")
    desk.do("channel", "remove", "canary")
    desk.do("gc", "--keep", "1", "--yes")
    said = desk.publish("4", IMAGE, "--security-version", "6").stderr
    assert "6 is below 7, which was offered before: devices that had it will refuse" in said
    desk.publish("5")
    assert [row["security_version"] for row in desk.json("list")] == [7]
    assert all(finding["ok"] for finding in desk.json("verify"))


def test_a_timestamp_that_is_refused_is_told_as_what_it_is(desk: Desk, verifying: VerifyingS3) -> None:
    desk.begin("stable")
    key = f"{PATH}/metadata/timestamp.json"
    verifying.faults.append(Fault(operation="PutObject", prefix=key, status=400, code="EntityTooLarge"))
    line = desk.refuse("publish", desk.path("a.bin", IMAGE), "--version", "1")
    assert "EntityTooLarge" in line and "somebody" not in line


def test_a_directory_that_cannot_be_read_is_one_clear_line(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.begin("stable")
    there, out = os.listdir, desk.path("out")
    desk.publish("1", IMAGE, "--export", out)

    def denied(path: Any = ".") -> Any:
        if path == out:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return there(path)

    monkeypatch.setattr(os, "listdir", denied)
    image = desk.path("a.bin", IMAGE)
    for verb in (("import", out), ("publish", image, "--version", "1", "--export", out)):
        assert f"{out}: Permission denied" in desk.refuse(*verb)


def test_gc_ends_uploads_that_were_given_up(desk: Desk, verifying: VerifyingS3) -> None:
    desk.begin("stable")
    verifying.faults = [Fault(operation="UploadPart", skip=1, status=500, code="InternalError")]
    desk.publish("1", os.urandom(12_000_000), code=1)
    verifying.faults = []
    desk.publish("1")
    assert len(verifying.uploads) == 1
    assert "an upload that did not end" in desk.do("gc", "--keep", "9", "--yes").stdout
    assert verifying.uploads == {}
    assert desk.do("gc", "--keep", "9", "--yes").stdout == "there is nothing to delete\n"


def test_a_dry_run_tells_and_writes_nothing(desk: Desk) -> None:
    desk.do("keygen", "root", "targets", "snapshot", "timestamp", "stable")
    for arguments in (("init",), ("publish", desk.path("a.bin", IMAGE), "--version", "1")):
        before = [key for key in desk.objects() if not key.endswith(".probe")]
        said = desk.do(*arguments, "--dry-run").stdout
        assert said.startswith("would have ") and f"  {PATH}/metadata/timestamp.json" in said.splitlines()
        assert [key for key in desk.objects() if not key.endswith(".probe")] == before
        if arguments == ("init",):
            assert not os.path.exists(os.path.join(desk.keys_dir, "root.json"))
            desk.do("init")


def test_a_promotion_sends_no_image_where_the_store_can_copy(desk: Desk, verifying: VerifyingS3) -> None:
    desk.begin()
    desk.publish("1", IMAGE, "--channel", "canary")
    for has_copy in (True, False):
        verifying.has_copy = has_copy
        verifying.history.clear()
        desk.do("promote", "--percent", "5")
        sent = sum(event.received_bytes for event in verifying.history if event.key.endswith(".image"))
        assert sent == (0 if has_copy else len(IMAGE))
        assert desk.look() == ("1", IMAGE)
        desk.do("withdraw", "--channel", "stable")
        desk.do("gc", "--keep", "1", "--yes")


def test_an_image_that_was_tampered_with_is_found_and_not_promoted(desk: Desk, verifying: VerifyingS3) -> None:
    desk.begin()
    desk.publish("1", IMAGE, "--channel", "canary")
    (key,) = [key for key in verifying.objects() if key.endswith(".image")]
    s3_client(desk.endpoint_url).put_object(Bucket="bucket", Key=key, Body=IMAGE[:-1] + b"?")
    assert "is not the one that was signed" in desk.refuse("promote")
    assert "is missing, or is another image" in desk.do("verify", code=1).stdout
    assert [finding["ok"] for finding in desk.json_of_failure("verify")][-1] is False
    # Publishing the same again puts it right.
    desk.publish("1", IMAGE, "--channel", "canary")
    desk.do("verify")


def test_thresholds_are_met_by_signing_elsewhere(desk: Desk, tmp_path: os.PathLike[str]) -> None:
    """Root's and a channel's keys never come to the machine that publishes."""
    away = [os.path.join(tmp_path, f"offline-{number}") for number in (1, 2)]
    for number, directory in enumerate(away, 1):
        desk.do("keygen", "root", "--name", f"root-{number}", "--keys", directory)
        desk.do("keygen", "stable", "--name", f"stable-{number}", "--keys", directory)
    desk.do("keygen", "targets", "snapshot", "timestamp")
    for directory in away:
        for name in os.listdir(directory):
            if name.endswith(".pub"):
                with open(os.path.join(directory, name), "rb") as file, open(f"{desk.keys_dir}/{name}", "wb") as copy:
                    copy.write(file.read())
    arguments = ("init", "--threshold", "root=2", "--threshold", "stable=2")
    assert "needs 2 signatures and has 0" in desk.refuse(*arguments)
    drafts = desk.path("begin")
    assert "root.json --key FILE" in desk.do(*arguments, "--export", drafts).stdout
    assert "is not empty" in desk.refuse(*arguments, "--export", drafts)
    for number, directory in enumerate(away, 1):
        for role in ("root", "stable"):
            if number == 2:
                assert "needs 2 signatures and has 1" in desk.refuse("import", drafts)
            said = desk.do("sign", f"{drafts}/{role}.json", "--key", f"{directory}/{role}-{number}.key").stdout
            assert said.startswith("signed ")
    assert not [key for key in desk.objects() if key.endswith(".json")]
    desk.do("import", drafts)
    assert desk.look() is None
    # A release: the image is in the bucket already, and nothing refers to it.
    release = desk.path("release")
    image = desk.path("camera.bin", IMAGE)
    assert "needs 2 signatures" in desk.refuse("publish", image, "--version", "1")
    desk.do("publish", image, "--version", "1", "--export", release)
    os.remove(image)
    assert desk.look() is None
    for number, directory in enumerate(away, 1):
        desk.do("sign", f"{release}/stable.json", "--key", f"{directory}/stable-{number}.key")
    desk.do("import", release)
    assert desk.look() == ("1", IMAGE)
    assert "was published after" in desk.refuse("import", release)
    assert "draft.json: No such file" in desk.refuse("import", desk.keys_dir)
    for text in (b"", b"[]", b"{}", b'{"before": 3}'):
        desk.path("release/draft.json", text)
        assert "is not what --export wrote" in desk.refuse("import", release)


def test_what_was_exported_and_edited_is_refused(desk: Desk) -> None:
    desk.begin("stable")
    release = desk.path("release")
    desk.do("publish", desk.path("a.bin", IMAGE), "--version", "1", "--export", release)
    path = os.path.join(release, "stable.json")
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace('"version": "1"', '"version": "2"').replace('"version":"1"', '"version":"2"'))
    os.rename(f"{desk.keys_dir}/stable.key", f"{desk.keys_dir}/away.key")
    assert "stable needs 1 signature and has 0" in desk.refuse("import", release)
    with open(path, "w") as file:
        file.write("[]")
    desk.refuse("import", release)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "stable"])
def test_a_rotated_key_is_followed_by_a_device_that_knew_the_old_one(desk: Desk, role: str) -> None:
    desk.begin("stable")
    desk.publish("1")
    old = desk.device("old")
    assert old.look("stable", COMPONENT) == ("1", IMAGE)
    assert "there is no other key" in desk.refuse("rotate-key", role)
    desk.do("keygen", role, "--name", "second")
    desk.do("rotate-key", role)
    os.remove(f"{desk.keys_dir}/{role}.key")
    desk.publish("2", b"second image")
    assert old.look("stable", COMPONENT) == ("2", b"second image")
    desk.do("verify")
    desk.do("renew", "--role", role)
    (row,) = [row for row in desk.json("show") if row["role"] == role]
    assert len(row["keyids"]) == 1


def test_keys_are_added_and_retired_by_name(desk: Desk) -> None:
    desk.begin("stable")
    desk.do("keygen", "stable", "--name", "second")
    desk.do("rotate-key", "stable", "--keep-old", "--threshold", "2")
    (row,) = [row for row in desk.json("show") if row["role"] == "stable"]
    assert (row["threshold"], len(row["keyids"])) == (2, 2)
    desk.publish("1")
    assert "cannot be" in desk.refuse("rotate-key", "stable", "--retire", "stable")
    desk.do("rotate-key", "stable", "--retire", "stable", "--threshold", "1")
    os.remove(f"{desk.keys_dir}/stable.key")
    desk.publish("2")
    assert desk.look() == ("2", IMAGE)
    assert "there is no key nobody" in desk.refuse("rotate-key", "stable", "--retire", "nobody")


def test_a_wrong_or_missing_passphrase_is_one_clear_line(desk: Desk) -> None:
    desk.begin("stable")
    image = desk.path("a.bin", IMAGE)
    before = {key: data for key, data in desk.objects().items() if not key.endswith(".image")}
    desk.environment["SYNCAGENT_KEY_PASSPHRASE"] = "quite another one"
    line = desk.refuse("publish", image, "--version", "1")
    assert "stable.key: the passphrase in SYNCAGENT_KEY_PASSPHRASE is wrong" in line and "another" not in line
    desk.environment["SYNCAGENT_KEY_PASSPHRASE"] = None
    assert "--passphrase-file" in desk.refuse("publish", image, "--version", "1")
    for content, what in ((b"wrong\n", "is wrong"), (b"\xff", "not UTF-8")):
        path = desk.path("passphrase", content)
        assert what in desk.refuse("publish", image, "--version", "1", "--passphrase-file", path)
    assert "No such file" in desk.refuse("publish", image, "--version", "1", "--passphrase-file", desk.path("nothing"))
    assert {key: data for key, data in desk.objects().items() if not key.endswith(".image")} == before
    desk.do(
        "publish", image, "--version", "1", "--passphrase-file", desk.path("passphrase", f"{PASSPHRASE}\n".encode())
    )
    # Whoever only looks needs no key.
    for verb in ("list", "show", "verify", "fleet"):
        desk.do(verb)


def test_two_publishers_at_once_one_wins_and_the_other_is_told(desk: Desk, verifying: VerifyingS3) -> None:
    desk.begin("stable")
    desk.publish("1")
    images = [(desk.path(f"{number}.bin", bytes([number]) * 200_000), str(number)) for number in (2, 3)]
    # Held back at the image, both have read the same state before either writes.
    verifying.faults.append(Fault(operation="PutObject", prefix=f"{PATH}/targets/", after_s=3))
    running = [
        subprocess.Popen(
            desk.agent.command("firmware", "publish", image, "--version", version),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**environment(), "SYNCAGENT_KEY_PASSPHRASE": PASSPHRASE},
        )
        for image, version in images
    ]
    outcomes = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert sorted(code for _, _, code in outcomes) == [0, 1], outcomes
    (said,) = [stderr for _, stderr, code in outcomes if code == 1]
    assert said.splitlines()[-1] == (
        "syncagent: somebody published meanwhile; nothing of yours is visible: run it again"
    )
    assert [event.status for event in verifying.history].count(412) >= 1
    (won,) = [number for number, (_, _, code) in zip((2, 3), outcomes, strict=True) if code == 0]
    assert desk.look() == (str(won), bytes([won]) * 200_000)
    assert all(finding["ok"] for finding in desk.json("verify"))


def test_what_has_expired_is_renewed_and_a_missing_key_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.do("keygen", "root", "targets", "snapshot", "timestamp", "stable")
    for module in (repository, changes):
        monkeypatch.setattr(module, "expiry", lambda role, now: now.replace(microsecond=0) - timedelta(hours=1))
    desk.do("init")
    monkeypatch.undo()
    findings = desk.json_of_failure("verify")
    assert findings[-1]["ok"] is False and "expired" in findings[-1]["detail"]
    os.rename(f"{desk.keys_dir}/root.key", f"{desk.keys_dir}/away")
    said = desk.do("renew", code=1)
    assert said.stdout == "renewed targets, stable, snapshot, timestamp\n"
    assert "too few of its keys are here: root" in said.stderr
    os.rename(f"{desk.keys_dir}/away", f"{desk.keys_dir}/root.key")
    assert desk.do("renew").stdout == "renewed root\n"
    desk.do("verify")


def test_the_fleet_is_read_from_receipts_and_anybody_may_have_written_them(desk: Desk) -> None:
    desk.begin("stable")
    desk.publish("1.0", IMAGE, "--id", "r-1")
    client = s3_client(desk.endpoint_url)

    def receipt(system: str, name: str, body: str) -> None:
        key = f"{PATH}/{system}/.syncagent/confirm_receipt/{name}.json"
        client.put_object(Bucket="bucket", Key=key, Body=body.encode())

    for at, release in (("2026-01-01T00:00:00Z", "r-0"), ("2026-02-01T00:00:00Z", "r-1")):
        text = json.dumps({"id": release, "file_name": "camera", "confirm_receipt": True, "time": at})
        receipt("field-7", f"{at}-camera", text)
    wrapped = {"msg_id": "x", "msg_content": {"id": "r-0", "file_name": "camera", "time": "2026-01-01T00:00:00Z"}}
    receipt("field-8", "2026-01-01T00:00:00Z-camera", json.dumps(wrapped))
    for number, text in enumerate(("", "[]", "<html>", "[" * 10_000, '{"id": "\\u001b[31m"}')):
        receipt(f"strange-{number}", "x", text)
    devices = {device["system_id"]: device for device in desk.json("fleet")}
    assert (devices["field-7"]["id"], devices["field-7"]["offered"]) == ("r-1", "stable 1.0")
    assert (devices["field-8"]["id"], devices["field-8"]["offered"]) == ("r-0", "")
    assert len(devices) == 7
    table = desk.do("fleet").stdout
    assert "field-7" in table and "\x1b" not in table


def test_what_a_publisher_lacks_is_told(desk: Desk, verifying: VerifyingS3) -> None:
    """Rights, which devices do not need; and files of its own that are damaged, or somebody else's."""
    desk.begin("stable")
    verifying.faults = [Fault(operation="PutObject", status=403, code="AccessDenied")]
    line = desk.refuse("publish", desk.path("a.bin", IMAGE), "--version", "1")
    assert "a publisher's access key needs to list, read and put" in line and "--own-credentials" in line
    verifying.faults = []
    for name in ("seen.json", "root.json"):
        path = os.path.join(desk.keys_dir, name)
        with open(path, "w"):
            pass
        assert (path if name == "seen.json" else "the trusted root") in desk.refuse("list")
        os.unlink(path)
        os.mkdir(path)
        assert path in desk.refuse("list")
        os.rmdir(path)


def test_where_it_publishes_is_said_or_clear(desk: Desk) -> None:
    assert "there are: s3_firmware_ota" in desk.refuse("list", "--carrier", "nobody")
    desk.agent.put_config("system/system", {"id": "office", "addresses": ["upload"], "tasks": []})
    desk.agent.put_config(
        "addresses/upload", {"message_type": "image_info", "carrier": "s3_firmware_ota", "duration": 1}
    )
    assert "say which with --carrier NAME" in desk.refuse("list")
    assert "root.json is not there" in desk.refuse("list", "--carrier", "s3_firmware_ota")


def test_files_of_the_publisher_that_cannot_be_read_are_named_with_the_way_out(desk: Desk) -> None:
    desk.begin("stable")
    seen, root = (os.path.join(desk.keys_dir, name) for name in ("seen.json", "root.json"))
    with open(seen, "w") as file:
        file.write("[]")
    line = desk.refuse("list")
    assert seen in line and "bring back a copy" in line
    os.remove(seen)
    desk.do("list")
    os.remove(root)
    os.mkdir(root)
    assert f"{root}: Is a directory" in desk.refuse("list")


def test_the_publishers_own_credentials_are_used_when_asked(desk: Desk) -> None:
    desk.begin("stable")
    desk.configure(access_key_id="DEVICEKEY", secret_access_key="device-secret")
    assert "check access_key_id" in desk.refuse("list")
    desk.environment |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    desk.do("list", "--own-credentials")
    desk.configure(access_key_id=None, secret_access_key=None)
    desk.do("list")


@pytest.mark.parametrize("offset_s", [-86_400, -400, 400, 86_400])
def test_with_a_wrong_clock_nothing_is_signed(desk: Desk, verifying: VerifyingS3, offset_s: int) -> None:
    """What it issued would lift the floor below the clock of every device."""
    desk.begin("stable")
    before = desk.objects()
    verifying.clock_offset_s = offset_s
    where = "ahead of" if offset_s < 0 else "behind"
    assert f" s {where} the store's" in desk.refuse("publish", desk.path("a.bin", IMAGE), "--version", "1")
    assert "the store's" in desk.refuse("renew", "--role", "timestamp")
    verifying.clock_offset_s = 0
    assert desk.objects() == before
    desk.publish("1")


def at_terminal(desk: Desk, *arguments: str, answers: tuple[str, ...]) -> tuple[int, str]:
    """A verb on a terminal of its own; (exit code, what was shown). Each question gets the next answer."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, desk.agent.command("firmware", *arguments), {**environment(), "TERM": "xterm"})
    said, left = b"", list(answers)
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        said += piece
        if not piece:
            break
        if left and re.search(rb"(?:passphrase|Passphrase|confirmation)[^\r\n]*: $", said):
            os.write(terminal, left.pop(0).encode() + b"\n")
            said += b"\n"
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()


def test_on_a_terminal_the_passphrase_is_asked_for_and_the_image_has_a_bar(desk: Desk) -> None:
    roles = ("root", "targets", "snapshot", "timestamp", "stable")
    code, said = at_terminal(desk, "keygen", *roles, answers=(PASSPHRASE, "another", PASSPHRASE, PASSPHRASE))
    assert code == 0 and said.count("New passphrase for ") == 2 and "do not match" in said, said
    code, said = at_terminal(desk, "init", answers=("wrong", PASSPHRASE))
    assert code == 0 and "Wrong; passphrase for " in said and "begun at" in said, said
    image = desk.path("a.bin", IMAGE)
    code, said = at_terminal(desk, "publish", image, "--version", "1", answers=("wrong", "wronger", "wrongest"))
    assert code == 1 and "wrong passphrase" in said
    code, said = at_terminal(desk, "publish", image, "--version", "1", answers=(PASSPHRASE,))
    assert code == 0 and "300.0/300.0 kB" in said and PASSPHRASE not in said, said
    assert desk.look() == ("1", IMAGE)


def test_mistakes_in_the_command_exit_2(desk: Desk) -> None:
    for arguments in (
        ("publish", "x.bin"),
        ("publish", "--version", "1"),
        ("keygen",),
        ("keygen", "a", "b", "--name", "c"),
        ("rollout",),
        ("rollout", "--halt", "--resume"),
        ("promote", "--from", "stable", "--to", "stable"),
        ("gc",),
        ("gc", "--keep", "0"),
        ("renew", "--if-less-than", "100%", "--dry-run", "--export", "drafts"),
        ("show", "stable"),
        ("renew", "--if-less-than", "lots"),
        ("init", "--threshold", "root"),
        ("init", "--threshold", "root=²"),
        ("nonsense",),
    ):
        desk.do(*arguments, code=2)


def test_another_repository_s_root_is_told_and_never_replaced(desk: Desk) -> None:
    """Who begins anew after a first try has the root of that one in the configuration."""
    desk.configure(firmware={"root": "root.json"})
    place = os.path.join(desk.agent.config_dir, "root.json")
    with open(place, "w") as file:
        file.write("another")
    desk.do("keygen", "root", "targets", "snapshot", "timestamp", "stable")
    told = desk.do("init").stderr
    assert place in told and "another repository" in told
    with open(place) as file:
        assert file.read() == "another"


def test_a_root_that_cannot_be_copied_to_its_place_does_not_fail_what_is_done(desk: Desk) -> None:
    desk.configure(firmware={"root": "not/there/root.json"})
    desk.do("keygen", "root", "targets", "snapshot", "timestamp", "stable")
    assert "not/there/root.json" in desk.do("init").stderr


def test_every_verb_has_a_page_of_help() -> None:
    for name in FIRMWARE_VERBS:
        result = CliRunner().invoke(cli, ["firmware", name, "--help"])
        assert result.exit_code == 0 and "Usage: " in result.output
    listed = CliRunner().invoke(cli, ["firmware", "--help"]).output
    assert all(f"  {name} " in listed for name in FIRMWARE_VERBS)


def test_the_bar_is_drawn_on_a_terminal_only(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from syncagent.cli.publishing.desk import Uploading
    from syncagent.edges.connection import Flight

    desk.begin("stable")
    assert desk.publish("1").stderr.splitlines() == ["uploading 300.0 kB"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Uploading() as uploading:
        assert uploading._console.is_terminal
        for handed in (0, 150_000, 300_000):
            uploading(Flight("a/b.image", 300_000, handed, handed))
        assert uploading._bars is not None and uploading._bars.finished


def test_gc_shows_the_name_of_an_object_as_text(desk: Desk) -> None:
    desk.begin("stable")
    s3_client(desk.endpoint_url).put_object(Bucket="bucket", Key=f"{PATH}/targets/stable/a\x1b[2Jb", Body=b"?")
    shown = desk.do("gc", "--keep", "9", code=1).stdout
    assert rf"{PATH}/targets/stable/a\x1b[2Jb" in shown and "\x1b" not in shown
