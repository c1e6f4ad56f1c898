"""Processes of the demo: each in a group of its own, and none outlives the demo, however that ends.

Promises: `end` returns within its deadline and leaves no process of that group. A demo that is killed takes its
children along: the kernel closes the pipe on their standard input, and sends SIGTERM to those started by `leashed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

#: prctl(2): the signal that the kernel sends when the parent is gone.
_PR_SET_PDEATHSIG = 1


class Child:
    """One running process. What it says goes to `log_path`."""

    def __init__(self, name: str, arguments: Sequence[str], *, log_path: str, directory: str, scratch: str) -> None:
        self.name = name
        self.log_path = log_path
        with open(log_path, "ab") as log:
            # A session of its own: Ctrl-C on the terminal is for the demo, which knows in which order to end.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own modules
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=environment(os.environ, scratch),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def dismiss(self) -> None:
        """Close its standard input: the wish that it ends when its work is finished."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def tell(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def has_ended(self, wait_s: float) -> bool:
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """At once."""
        self.dismiss()
        if self.exit_code() is None:
            self.tell(signal.SIGKILL)
            self.has_ended(5.0)

    def last_words(self, lines: int = 1) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError), open(self.log_path, encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read()[-4000:].splitlines()[-lines:])
        return ""


def environment(present: Mapping[str, str], scratch: str) -> dict[str, str]:
    """The user's own, without what would lead a child elsewhere: other stores, proxies, configurations."""
    strange = ("AWS_", "SYNCAGENT_", "MOTO_", "NOTIFY_", "JOURNAL_", "WATCHDOG_")
    kept = {
        name: value
        for name, value in present.items()
        if not name.startswith(strange) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        # Also where the program does not lie in the interpreter's own place.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": scratch,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def leashed(arguments: Sequence[str]) -> list[str]:
    """Arguments that run `python <arguments>` so that it gets SIGTERM when this process is gone."""
    return ["-m", "syncagent.demo.children", str(os.getpid()), *arguments]


def _on_the_leash(parent: int, arguments: Sequence[str]) -> None:
    """Become that program. The wish for the signal survives execve(2), so the program need not know of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() == parent:  # else it was gone before the kernel knew of our wish
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - our own interpreter


if __name__ == "__main__":
    _on_the_leash(int(sys.argv[1]), sys.argv[2:])
