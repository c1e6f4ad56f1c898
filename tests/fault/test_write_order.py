"""All that the agent writes, recorded from outside: flushed before it is renamed, committed before it is unlinked.

The records are of the agent as it is shipped. The same record of one whose flushes are taken out must be refused, or
it would prove nothing.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from tests.agent import Agent, environment, sent
from tests.fault import recorder
from tests.fault.recorder import Record
from tests.firmware_publisher import FirmwarePublisher, into_verifying
from tests.integration.test_agent_firmware import IMAGE, configure, dropped
from tests.servers import VerifyingS3

#: Runs the program that follows with no flush of Python's, and none of the database's.
WITHOUT_FLUSHES = """
import os, sqlite3, sys
os.fsync = os.fdatasync = lambda fd: None
class Connection(sqlite3.Connection):
    def execute(self, sql, *rest):
        return super().execute("PRAGMA synchronous=OFF" if "synchronous" in sql.lower() else sql, *rest)
real = sqlite3.connect
sqlite3.connect = lambda *words, **named: real(*words, **{**named, "factory": Connection})
from syncagent.cli.main import main
sys.exit(main())
"""
FILES = ("one.jpg", "two.jpg", "film.mp4")
#: What is in a message, and nowhere else.
NOTE = "a note of its own"


def confirmed(name: str) -> str:
    """A row of a page: the name, a few numbers, the state."""
    return rf"{name}((?!\.jpg|\.mp4).){{1,300}}confirmed"


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    return Agent(str(tmp_path_factory.mktemp("agent")))


def work(agent: Agent, store: VerifyingS3, *, is_flushing: bool = True) -> Record:
    """Files that are sent, in parts too, and removed; a message, a receipt and an image, in one recorded run."""
    publisher = FirmwarePublisher(into_verifying(store), now=datetime.now(UTC).replace(microsecond=0))
    publisher.publish(IMAGE, version="2")
    configure(agent, store.endpoint_url, publisher)
    agent.configure(
        store.endpoint_url,
        system={"tasks": ["download_new_firmware_image"]},
        upload={"multipart_bytes": 5 << 20},
        carrier={"retention": {"keep_files": 0}},
    )
    source = random.Random(7)
    wanted = {}
    for name in FILES:
        content = source.randbytes((6 << 20) if name.endswith("mp4") else 5000)
        wanted[agent.key(name)] = content
        agent.write(name, content)

    letters = os.path.join(agent.base_dir, "generated_data/messages/image_info")
    os.makedirs(letters, exist_ok=True)
    for name, text in (("good", json.dumps({"file_name": "one.jpg", "note": NOTE})), ("bad", "nonsense")):
        with open(os.path.join(letters, f"{name}.json"), "w") as file:
            file.write(text)

    record = os.path.join(agent.top, "calls")
    words = agent.command("run", "--once", "--timeout", "60")
    if not is_flushing:
        words = [sys.executable, "-c", WITHOUT_FLUSHES, *words[words.index("syncagent") + 1 :]]
    with open(agent.log_path, "ab") as log:
        done = subprocess.run(recorder.command(record, words), stderr=log, check=False, timeout=240, env=environment())
    assert done.returncode == 0, agent.log()
    assert {key: body for key, body in sent(store).items() if key in wanted} == wanted, agent.log()
    assert not any(os.path.exists(agent.path(name)) for name in FILES), agent.log()
    assert dropped(agent)["firmware_images/boot.bin"] == IMAGE, agent.log()
    return Record(recorder.read(record))


def unsafe(agent: Agent, record: Record) -> list[str]:
    """What could be torn, taken back or lost, and the firmware's switch when it is thrown too early."""
    data_dir = os.path.join(agent.base_dir, "generated_data")
    said = record.unsafe_renames()
    told_of = {**{name: confirmed(name) for name in FILES}, "good.json": NOTE}
    said += record.unsafe_unlinks(told_of, os.path.join(agent.state_dir, "journal.db-wal"))
    image, switch = (
        next(call for call in record.renames() if call.names[1] == os.path.join(data_dir, name))
        for name in ("firmware_images/boot.bin", "latest_firmware.json")
    )
    if not record.is_flushed(os.path.join(data_dir, "firmware_images"), after=image.ended, before=switch.begun):
        said.append("the switch was thrown before the image was there for good")
    return said


def test_everything_is_flushed_before_a_rename_and_committed_before_an_unlink(
    agent: Agent, verifying: VerifyingS3
) -> None:
    record = work(agent, verifying)
    assert unsafe(agent, record) == []


def test_a_record_of_an_agent_without_flushes_is_refused(agent: Agent, verifying: VerifyingS3) -> None:
    said = unsafe(agent, work(agent, verifying, is_flushing=False))
    for path in ("boot.bin", "latest_firmware.json", "timestamp.json"):
        assert any("was not flushed before it became" in words and words.endswith(path) for words in said), said
    for name in (*FILES, "good.json"):
        assert f"{name} was unlinked before its row was flushed" in said
    assert "the switch was thrown before the image was there for good" in said
