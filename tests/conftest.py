"""Fixtures that more than one folder uses. A store in a process of its own lives for the session."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

# Before anybody imports securesystemslib: Debian 12's cryptography needs the two lines that trust begins with.
import syncagent.edges.trust  # noqa: F401
from tests.fakes import FakeClock, MemoryStore
from tests.fault.fault_table import FaultTable
from tests.servers import MotoS3, RcloneS3, VerifyingS3

_numbers = itertools.count(1)
FAULTS = pytest.StashKey[FaultTable]()
#: The table as text, from the process that played the faults: tests may be spread over several.
FAULTS_TEXT = pytest.StashKey[str]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.stash.get(FAULTS, None)
    if table is not None and table.lines():
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["faults"] = table.markdown()
        session.config.stash[FAULTS_TEXT] = table.markdown()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A failed test may show names that are not UTF-8, and these do not pass from one process to another."""
    return _sayable((yield))


def _sayable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_sayable(key): _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_sayable, value))
    return value


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    text = getattr(node, "workeroutput", {}).get("faults")
    if text:
        node.config.stash[FAULTS_TEXT] = text


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the table of faults, and write it to build/faults.md."""
    text = config.stash.get(FAULTS_TEXT, "")
    if text:
        path = os.path.join(config.rootpath, "build", "faults.md")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        terminalreporter.section("faults")
        terminalreporter.write(text)


@pytest.fixture(autouse=True)
def no_aws_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees neither the credentials nor the proxies of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SYNCAGENT_")) or name.lower() in (
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memory_store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def verifying() -> Iterator[VerifyingS3]:
    with VerifyingS3() as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[RcloneS3]:
    with RcloneS3() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoS3]:
    with MotoS3() as server:
        yield server


@pytest.fixture
def rclone_bucket(rclone: RcloneS3) -> str:
    """A bucket of its own for one test, in the session's rclone."""
    bucket = f"test-{next(_numbers)}"
    rclone.create_bucket(bucket)
    return bucket


@pytest.fixture
def moto_bucket(moto: MotoS3) -> str:
    """A bucket of its own for one test, in the session's moto."""
    bucket = f"test-{next(_numbers)}"
    moto.client().create_bucket(Bucket=bucket)
    return bucket
