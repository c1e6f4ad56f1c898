"""`run --once` in this process, where its workers can be held up at a chosen moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncagent.app import App
from syncagent.assembly import Directories
from syncagent.core.errors import JournalBroken
from syncagent.core.metadata import SIDECAR, text_of
from syncagent.edges.configfiles import identify, load_settings
from tests.agent import Agent, sent
from tests.servers import VerifyingS3


@pytest.fixture(autouse=True)
def signals_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGIO)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def app_of(agent: Agent) -> App:
    directories = Directories(agent.config_dir, os.path.realpath(agent.base_dir), os.path.realpath(agent.state_dir))
    return App(load_settings(agent.config_dir, identity=identify), directories, is_once=True)


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Agent:
    agent = Agent(str(tmp_path))
    agent.configure(verifying.endpoint_url, watch={"settle_s": 0.05})
    agent.write("a.jpg", b"a")
    return agent


def test_run_once_does_not_end_between_settling_and_recording(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(agent)
    record: Callable[..., int] = app.journal.record

    def slowly(*arguments: Any) -> int:
        # Long enough for the main thread, which looks every 50 ms, to believe that all is done.
        threading.Event().wait(0.5)
        return record(*arguments)

    monkeypatch.setattr(app.journal, "record", slowly)
    assert app.run_once(10) == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}


def test_files_that_the_journal_did_not_take_are_found_again(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(agent)
    record: Callable[..., int] = app.journal.record
    failures = iter([JournalBroken("database or disk is full")])

    def failing(*arguments: Any) -> int:
        with contextlib.suppress(StopIteration):
            raise next(failures)
        return record(*arguments)

    monkeypatch.setattr(app.journal, "record", failing)
    assert app.run_once(10) == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}


def test_a_system_id_that_is_not_ascii_is_encoded_where_a_header_names_it(agent: Agent, verifying: VerifyingS3) -> None:
    agent.system_id = "gerät-7"
    agent.configure(verifying.endpoint_url, watch={"settle_s": 0.05})
    # Too much for headers: the rest lies in an object whose key, in a header, holds the id as well.
    message = {"id": "m", "time": 1_700_000_000, "file_name": "a.jpg", "note": "n" * 3000}
    assert agent.cli("post", "image_info", json.dumps(message)).returncode == 0
    assert app_of(agent).run_once(10) == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}
    metadata = verifying.buckets["bucket"][agent.key("a.jpg")].metadata
    assert text_of(metadata["syncagent-system-id"]) == "gerät-7"
    sidecar = text_of(metadata[SIDECAR])
    assert json.loads(verifying.objects()[sidecar])["content"]["note"] == message["note"]
