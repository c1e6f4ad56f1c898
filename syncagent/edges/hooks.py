"""The owner's own programs around a firmware release: fixed local executables, never named by a manifest.

Promises: a hook gets no input but its environment, runs in a process group of its own, and ends, with all that it
started, at the time-out. Its output goes to the log, in lines that are cut. Leaves to others: what its failure means.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping

from syncagent.core.errors import Stopping
from syncagent.edges.clock import Stop

logger = logging.getLogger(__name__)

TIMEOUT_S = 300.0
#: A hook's end is looked for this often, so that an agent that is asked to stop ends.
LOOK_S = 0.2
MAX_OUTPUT_BYTES = 4096


class HookFailed(Exception):
    """The hook did not end with 0; the text says how it ended."""


def why_not(path: str) -> str:
    """Why a file cannot be a hook, in words; empty when it can."""
    try:
        facts = os.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISREG(facts.st_mode) or not os.access(path, os.X_OK):
        return f"{path} is no executable file"
    if facts.st_mode & stat.S_IWOTH:
        return f"{path} may be written by everybody"
    return ""


def run(name: str, path: str, environment: Mapping[str, str], *, stop: Stop, timeout_s: float = TIMEOUT_S) -> None:
    """Run one hook to its end. Raises: HookFailed; Stopping, and then the hook is ended as well."""
    reason = why_not(path)
    if reason:
        raise HookFailed(f"hook {name}: {reason}")
    inherited = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TZ")}
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - the owner's own program, by its absolute path
                [path],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise HookFailed(f"hook {name}: {error}") from error
        try:
            code = _wait(process, stop, timeout_s)
        finally:
            # Also what it left behind when it ended by itself: a release is not watched over by strays.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        for line in output.read(MAX_OUTPUT_BYTES).decode("utf-8", "backslashreplace").splitlines():
            logger.info("hook %s: %s", name, line[:500])
    if code is None:
        raise HookFailed(f"hook {name} did not end within {timeout_s:g} s")
    if code != 0:
        raise HookFailed(f"hook {name} ended with {code}")


def _wait(process: subprocess.Popen[bytes], stop: Stop, timeout_s: float) -> int | None:
    """How the process ended; None when it did not in time."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(LOOK_S, timeout_s))
        if stop.is_set():
            raise Stopping
    return None
