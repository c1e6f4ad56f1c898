"""What can go wrong, named by what the caller does about it.

An edge translates everything that its library raises into one of these, keeping `__cause__`.
Nothing else decides from an exception what happens next: `core.retry` does, from its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Exit codes, as <sysexits.h> has them.
EXIT_BUG = 70
EXIT_CONFIG = 78


class Trouble(StrEnum):
    """Whose trouble it is; the value is the word that `status` and the journal show."""

    LINK = "link"  # nothing answers: no route, no DNS, refused, reset, time-out
    STALLED = "stalled"  # connected, but not one byte was acknowledged for `stall_s`
    THROTTLED = "throttled"  # 429, 503 SlowDown
    STORE = "store"  # 5xx, or an answer that no S3 store gives: a portal's HTML, a wrong digest
    CREDENTIALS = "credentials"  # 401, or a 403 that names the key or the signature
    FORBIDDEN = "forbidden"  # a 403 for this key; all keys refused makes it a fact of the store
    REFUSED = "refused"  # a 4xx for this key that names neither it nor its bytes; likewise
    BUCKET = "bucket"  # no such bucket, or one that takes nothing as it is
    CLOCK = "clock"  # the store refuses our time
    DISK = "disk"  # ENOSPC, EIO, EROFS, a root that is not there
    FILE = "file"  # this file alone: unreadable, vanished, changed


class SyncagentError(Exception):
    """Base of every error that this program expects."""


class Transient(SyncagentError):
    """The same work may succeed later."""

    def __init__(self, what: str, *, trouble: Trouble, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.trouble = trouble
        self.retry_after_s = retry_after_s


class Blocked(SyncagentError):
    """Nothing of this kind will succeed until someone acts."""

    def __init__(self, what: str, *, trouble: Trouble, remedy: str = "") -> None:
        super().__init__(what)
        self.trouble = trouble
        self.remedy = remedy


class Refused(SyncagentError):
    """This item, as it is, never will."""


class Doubtful(Refused):
    """The store refuses, and does not say whether it would take anything else."""


class FileChanged(Refused):
    """The file is not the version that was recorded: another finished version will follow."""


class FileVanished(Refused):
    """The file is gone, or its name now belongs to something that is not a regular file."""


class UploadGone(Refused):
    """The store does not know this multipart upload (any more)."""


class PartsRefused(UploadGone):
    """The store knows the upload, and will never complete it with the parts that we know."""


class KeyTaken(Refused):
    """A conditional write found an object under its key."""


class HandlerFailed(Refused):
    """The address's handler did not say what to send for this file; the text begins with "handler: "."""


class ManifestRejected(Refused):
    """A firmware manifest says something that this device must not do, or does not understand."""


class Untrusted(Refused):
    """Firmware metadata that does not verify; `str` says which and why."""


class Stale(Refused):
    """Firmware metadata whose time is over; `role` is whose."""

    def __init__(self, what: str, *, role: str) -> None:
        super().__init__(what)
        self.role = role


class HeadersTooLarge(Transient):
    """The store, or what stands in front of it, takes no request with so many or so long headers."""


class AlreadyRunning(SyncagentError):
    """Another agent holds this state directory or this base directory."""


class Absence(StrEnum):
    """Why a part of the I2C bus cannot be used."""

    NO_BUS = "no bus"  # I2C is switched off, or the adapter is unplugged
    DENIED = "denied"  # the bus is not ours to open
    NO_ANSWER = "no answer"  # nothing acknowledges the address
    BUSY = "busy"  # a driver of the kernel owns the address
    STUCK = "stuck"  # the bus does not move: a line is held, or the kernel does not come back
    LYING = "lying"  # it answers what cannot be


class NotThere(SyncagentError):
    """A part of the I2C bus cannot be used now; the text says what was tried."""

    def __init__(self, what: str, *, why: Absence, remedy: str = "") -> None:
        super().__init__(what)
        self.why = why
        self.remedy = remedy


class JournalBroken(SyncagentError):
    """The journal cannot be read or written; the text says which and why, for a person."""


class JournalLost(JournalBroken):
    """The file under the journal's name is not the one that was opened: only a new start helps."""


class JournalTorn(JournalLost):
    """The journal's file is damaged: whoever holds the agent's locks sets it aside and begins a new one."""


class Stopping(BaseException):
    """Not an error: the agent was asked to end. Passes through `except Exception` on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration. `key` is dotted, `line` counts from 1 (0: no line)."""

    file: str
    line: int
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {key}{self.what} -- {self.remedy}"


class ConfigError(SyncagentError):
    """A person must edit a file. Carries every problem that was found, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
