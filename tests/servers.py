"""Object stores for tests: real ones in a subprocess, and (from `verifying`) our own strict one.

Every server listens on loopback on a port the kernel chose, keeps its data in a directory of its
own, is ready when its constructor's `with` block begins, and is ended by its pid when the block
ends. A server whose program is missing raises: a test without its store is a failure, not a skip.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from tests.s3_model import Event, Fault
from tests.verifying import VerifyingS3

__all__ = [
    "ACCESS_KEY",
    "SECRET_KEY",
    "Event",
    "Fault",
    "MotoS3",
    "RcloneS3",
    "VerifyingS3",
    "program",
    "s3_client",
]

ACCESS_KEY = "TESTACCESSKEY"
SECRET_KEY = "test-secret-key"


def program(name: str) -> str:
    """The path of a tool beside this interpreter, else on PATH.

    Raises FileNotFoundError, which fails the test: the lock file brings every tool that is needed.
    """
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: run `make .venv/installed`")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on, and that no client is ever given as its own.

    Below Linux's ephemeral range: a client that knocks at a server which is down may be given the
    very port that it knocks at, and then talks to itself while the server cannot come back.
    """
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(
    condition: Callable[[], bool], *, deadline_s: float = 20, what: str = "the condition", every_s: float = 0.01
) -> None:
    """Return as soon as `condition` holds; AssertionError when it never did."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not hold within {deadline_s:g} s")
        time.sleep(every_s)


def s3_client(endpoint_url: str, *, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, **config: Any) -> Any:
    """A boto3 client without retries, for looking at a store from outside the product."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **config,
        ),
    )


def _answers(port: int) -> bool:
    """Whether an HTTP server on this port says anything at all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


class _Subprocess:
    """A server in a process of its own. `stop` and `start` keep port and data: an outage."""

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self.process is None:
            raise AssertionError("the server is not running")
        return self.process.pid

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start the server and return when it answers."""
        log_path = os.path.join(self.directory, "server.log")
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 60  # moto's import alone takes seconds on a small board
        while not _answers(self.port):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                with open(log_path, errors="replace") as said:
                    raise AssertionError(f"{self.command()[0]} does not answer: {said.read()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server's process; safe to call twice."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.directory = tempfile.mkdtemp(prefix="store-")
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, **config: Any) -> Any:
        """A boto3 client of this store."""
        return s3_client(self.endpoint_url, **config)


class RcloneS3(_Subprocess):
    """`rclone serve s3`: checks signatures and Content-MD5, and stores objects as plain files."""

    def __init__(self, *buckets: str) -> None:
        super().__init__()
        self.buckets = buckets or ("bucket",)

    def command(self) -> list[str]:
        for bucket in self.buckets:
            os.makedirs(self.bucket_dir(bucket), exist_ok=True)
        keys = f"{ACCESS_KEY},{SECRET_KEY}"
        # An empty configuration of its own: the user's must not change what a test sees.
        return [
            *(program("rclone"), "--config", os.path.join(self.directory, "rclone.conf"), "serve", "s3"),
            *("--auth-key", keys, "--addr", f"127.0.0.1:{self.port}", os.path.join(self.directory, "data")),
        ]

    def create_bucket(self, bucket: str) -> str:
        """Make a bucket through S3: rclone remembers for minutes that a directory was not there."""
        self.client().create_bucket(Bucket=bucket)
        return self.bucket_dir(bucket)

    def bucket_dir(self, bucket: str = "bucket") -> str:
        """Where the objects of a bucket lie as files."""
        return os.path.join(self.directory, "data", bucket)

    def files(self, bucket: str = "bucket") -> Iterator[tuple[str, str]]:
        """(key, path) of every object of the bucket that is visible."""
        top = self.bucket_dir(bucket)
        for folder, _, names in os.walk(top):
            for name in names:
                if name.startswith(".rclone_temp_put_"):  # not yet an object, and hidden by rclone itself
                    continue
                path = os.path.join(folder, name)
                yield os.path.relpath(path, top), path


class MotoS3(_Subprocess):
    """moto's server. It proves our plumbing and never our integrity: it takes wrong digests."""

    def __init__(self, *buckets: str) -> None:
        super().__init__()
        self.buckets = buckets or ("bucket",)

    def command(self) -> list[str]:
        return [program("moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]

    def start(self) -> None:
        super().start()
        client = self.client()
        for bucket in self.buckets:  # moto forgets everything with its process
            client.create_bucket(Bucket=bucket)
