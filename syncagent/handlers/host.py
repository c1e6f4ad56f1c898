"""The handlers' process: takes one call per line, answers each with one line.

Started by `edges.handling` as `python -m syncagent.handlers.host <base directory> <most bytes of an answer>`.
Promises: whatever a handler returns or raises becomes one line of JSON; what it prints goes to standard error; when
the agent is gone, so is this process, with everything of its group, even in the middle of a call.
Leaves to the agent: time-outs, ends that nobody can catch, and the judgement about files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from syncagent.handlers.sources import NoHandler, Sources

#: Errors of the disk, not of the file: the agent tries again later.
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_NICE = 10
_MOST_REASON = 300

Function = Callable[[dict[str, object], str], object]


class NotJson(Exception):
    """What a handler returned cannot be sent; the text says why."""


def main() -> None:
    """Answer calls until standard input ends."""
    base_dir, most_bytes = sys.argv[1], int(sys.argv[2])
    calls, answers = _take_pipes()
    _behave()
    threading.Thread(target=_follow_the_agent, args=(calls.fileno(),), daemon=True).start()
    me = os.getpid()
    sources = Sources(os.path.join(base_dir, "handlers"))
    _say(answers, {"ready": True})
    for line in calls:
        answer = answered(json.loads(line), sources, most_bytes=most_bytes)
        if os.getpid() != me:
            os._exit(0)  # the handler forked, and this copy of the loop must not answer a second time
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a handler may have closed it
                stream.flush()
        _say(answers, answer)


def answered(call: dict[str, object], sources: Sources, *, most_bytes: int) -> dict[str, object]:
    """What is to be said to the agent about one call; never raises."""
    try:
        os.chdir(str(call["scratch"]))
        # What a handler leaves behind is removed with its scratch directory.
        os.environ["TMPDIR"] = tempfile.tempdir = str(call["scratch"])
        function = sources.function(str(call["source"]), str(call["function"]))
        content: Any = call["content"]
        returned, size_bytes = _contents(function(content, str(call["path"])))
        if size_bytes > most_bytes:
            return {"failed": f"its answer is larger than {most_bytes} bytes of JSON"}
        return {"returned": returned}
    except (NoHandler, NotJson) as error:
        return {"failed": in_words(str(error))}
    except SystemExit as error:
        return {"failed": in_words(f"called sys.exit({error.code!r})")}
    except BaseException as error:  # KeyboardInterrupt is no reason to end either
        traceback.print_exc()
        answer: dict[str, object] = {"failed": _named(error)}
        if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
            answer["disk"] = os.strerror(error.errno)
        return answer
    finally:
        os.chdir("/")  # the agent is about to remove the scratch directory


def _contents(returned: object) -> tuple[list[dict[str, object]], int]:
    """The contents of the objects to send, and their size as JSON. Raises NotJson."""
    if returned is None:
        return [], 0
    contents: list[Any] = returned if isinstance(returned, list) else [returned]
    for content in contents:
        if not isinstance(content, dict):
            what = type(content).__name__
            where = "a list with an element of type" if isinstance(returned, list) else "a value of type"
            raise NotJson(f"returned {where} {what}; a dict, a list of dicts or None is wanted")
        strange = next((key for key in content if not isinstance(key, str)), None)
        if strange is not None:
            raise NotJson(f"returned a content with the key {strange!r}, which is no text")
    try:
        return contents, len(json.dumps(contents, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(f"returned a content that is not JSON: {error}") from error


def _named(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return in_words(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def in_words(text: str) -> str:
    """One line of bounded length."""
    line = re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
    return line if len(line) <= _MOST_REASON else line[: _MOST_REASON - 1] + "…"


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The two ends of the protocol, out of reach of what reads standard input or prints."""
    calls = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        # By lines: what was printed before a crash is what explains it.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    return calls, answers


def _behave() -> None:
    """Stand back for the agent: in the use of the processor, of memory, and of the card."""
    with contextlib.suppress(PermissionError):  # a service's sandbox may forbid it
        os.nice(_NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("500")  # out of memory, a handler is to go before the agent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _follow_the_agent(fd: int) -> None:
    """End the group when the agent is gone: the kernel closes its end of the pipe, however it ended.

    Not PR_SET_PDEATHSIG: that signal comes when the *thread* ends which started this process.
    """
    ends = select.poll()
    ends.register(fd, 0)  # only POLLHUP, which cannot be asked for and always comes
    ends.poll()
    os.killpg(0, signal.SIGKILL)


def _say(answers: IO[bytes], answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer).encode("ascii") + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
