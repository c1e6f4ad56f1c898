"""One agent in the field, for tests: its directories, its configuration, its process, and what should be in the bucket.

Owns a directory that the test gives, and the processes that it starts there. Everything that is awaited is a
condition with a deadline. What the store holds is asked of the store, never of the agent.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Self

from tests.servers import ACCESS_KEY, SECRET_KEY, Event, VerifyingS3, program, wait_until

#: A directory that the address of `configure` watches, below generated_data.
PATH = "camera"
SYSTEM_ID = "field-7"
#: Quick, and still above the resolution of a file's timestamps.
SETTLE_S = 0.1


def environment() -> dict[str, str]:
    """The tests' own, without what would configure the agent."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNCAGENT_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def suffixed(key: str, content: bytes) -> str:
    """The key of a later version of a name."""
    head, slash, name = key.rpartition("/")
    stem, extension = os.path.splitext(name)
    return f"{head}{slash}{stem}.{hashlib.sha256(content).hexdigest()[:12]}{extension}"


def write_file(path: str, content: bytes) -> str:
    """Write as a camera does: open, write, close."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def regular_files(top: str) -> dict[str, bytes]:
    """Every regular file below a directory, by its path there; links are not followed."""
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, top)] = file.read()
    return found


def is_own(key: str) -> bool:
    """Whether a key is the agent's own: where it tries what the store can do, and tells of itself."""
    return "/.syncagent/" in key


def sent(store: VerifyingS3) -> dict[str, bytes]:
    """What the store shows of files."""
    return {key: body for key, body in store.objects().items() if not is_own(key)}


def puts(store: VerifyingS3) -> list[Event]:
    """The requests that sent a whole file."""
    return [event for event in store.requests(operation="PutObject") if not is_own(event.key)]


@dataclass
class Agent:
    """The agent of one directory. Use as a context manager: whatever still runs at the end is killed."""

    top: str
    system_id: str = SYSTEM_ID
    process: subprocess.Popen[bytes] | None = None
    watched: str = PATH
    without: tuple[str, ...] = ()  # capabilities that the agent shall not have
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for directory in (self.config_dir, self.data_dir):
            os.makedirs(directory, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()

    # -- places -------------------------------------------------------------------------------------------------------

    @property
    def base_dir(self) -> str:
        return os.path.join(self.top, "base")

    @property
    def config_dir(self) -> str:
        return os.path.join(self.top, "configs")

    @property
    def state_dir(self) -> str:
        return os.path.join(self.base_dir, "state")

    @property
    def data_dir(self) -> str:
        """The watched directory."""
        return os.path.join(self.base_dir, "generated_data", self.watched)

    @property
    def log_path(self) -> str:
        return os.path.join(self.top, "agent.log")

    def path(self, relative: str) -> str:
        return os.path.join(self.data_dir, relative)

    def key(self, relative: str) -> str:
        """Where a file's first version belongs; for names that need no escape."""
        return f"{self.watched}/{self.system_id}/{relative}"

    def write(self, relative: str, content: bytes) -> str:
        return write_file(self.path(relative), content)

    # -- configuration ------------------------------------------------------------------------------------------------

    def configure(
        self,
        endpoint_url: str,
        *,
        bucket: str = "bucket",
        duration: str | float = "on_change",
        watch: Mapping[str, Any] | None = None,
        upload: Mapping[str, Any] | None = None,
        system: Mapping[str, Any] | None = None,
        carrier: Mapping[str, Any] | None = None,
    ) -> None:
        """One carrier and one address that sends what appears below `path`."""
        self.put_config("system/system", {"id": self.system_id, "addresses": ["upload"], "tasks": [], **(system or {})})
        self.put_config(
            "carriers/store",
            {
                "source": "s3",
                "endpoint_url": endpoint_url,
                "region": "us-east-1",
                "bucket_name": bucket,
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
                "path": self.watched,
                "system_id": "$system_id",
                "watch": {"settle_s": SETTLE_S, **(watch or {})},
                "upload": {"retry_min_s": 0.2, "retry_max_s": 2, **(upload or {})},
                **(carrier or {}),
            },
        )
        self.put_config(
            "addresses/upload",
            {
                "message_type": "image_info",
                "carrier": "store",
                "duration": duration,
                "additional_info": {"sub_path": "$system_id"},
            },
        )

    def put_config(self, name: str, document: Mapping[str, Any]) -> None:
        """One file. Without a word on it there is no page: agents of several tests would want the same port."""
        if name == "system/system":
            document = {"web": {"listen": ""}, **document}
        path = os.path.join(self.config_dir, f"{name}.json")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            json.dump(document, file)

    # -- processes ----------------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        directories = ("--config-dir", self.config_dir, "--base-dir", self.base_dir, "--state-dir", self.state_dir)
        dropped = ",".join(f"-{capability}" for capability in self.without)
        drop = [program("setpriv"), f"--bounding-set={dropped}", f"--inh-caps={dropped}"] if dropped else []
        return [*drop, sys.executable, "-m", "syncagent", *directories, *arguments]

    def cli(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """One command to its end; the caller judges its exit code."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str, is_ready: bool = True) -> subprocess.Popen[bytes]:
        """`run` in the background, and wait until it answers."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command("run", *arguments), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment()
            )
        self._started.append(self.process)
        if is_ready:
            wait_until(lambda: self._is_up(), deadline_s=30, what="the agent answers")
        return self.process

    def _is_up(self) -> bool:
        process = self.process
        assert process is not None
        if process.poll() is not None:
            raise AssertionError(f"the agent ended with {process.returncode}: {self.log()[-3000:]}")
        return self.ask("status") is not None

    def ask(self, question: str) -> Any:
        """What the running agent answers, None when there is none."""
        from syncagent.edges.control import ask

        return ask(self.state_dir, question) if os.path.isdir(self.state_dir) else None

    def stop(self, *, within_s: float = 10) -> int:
        """SIGTERM, and the exit code."""
        process = self.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        code = process.wait(within_s)
        self.process = None
        return code

    def kill(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.wait()

    def run_once(self, *, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        return self.cli("run", "--once", "--timeout", str(timeout_s), timeout_s=timeout_s + 60)

    # -- what it says -------------------------------------------------------------------------------------------------

    def log(self) -> str:
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def status(self) -> dict[str, Any]:
        """Of the running agent, without starting a process for it."""
        answer = self.ask("status")
        if not isinstance(answer, dict):
            raise AssertionError(f"no agent answers: {self.log()[-3000:]}")
        return answer

    def count(self, state: str) -> int:
        return int(self.status()["queue"][state]["files"])

    def rows(self) -> list[tuple[str, str, str]]:
        """(path, state, reason) of every row of the journal, read beside the agent."""
        return journal_rows(self.state_dir)

    def states(self, relative: str) -> list[str]:
        """The states of every version of a file, oldest first."""
        wanted = f"generated_data/{self.watched}/{relative}"
        return [state for path, state, _ in self.rows() if path == wanted]

    # -- disk and bucket ----------------------------------------------------------------------------------------------

    def missing(self, objects: Mapping[str, bytes]) -> list[str]:
        """Files of the watched directory whose bytes the bucket does not have under their name."""
        return [
            relative
            for relative, content in regular_files(self.data_dir).items()
            if content not in (objects.get(self.key(relative)), objects.get(suffixed(self.key(relative), content)))
        ]


def journal_rows(state_dir: str) -> list[tuple[str, str, str]]:
    """(path, state, reason) of every row, oldest first."""
    with closing(sqlite3.connect(f"file:{state_dir}/journal.db?mode=ro", uri=True, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT d.path, v.name, v.state, v.reason FROM version v JOIN directory d ON d.id = v.directory"
            " ORDER BY v.id"
        ).fetchall()
    return [(os.fsdecode(os.path.join(head, name)), state, reason) for head, name, state, reason in rows]


def integrity(state_dir: str) -> str:
    """What SQLite says of the journal file; "ok" when it is whole."""
    with closing(sqlite3.connect(os.path.join(state_dir, "journal.db"), timeout=10)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
