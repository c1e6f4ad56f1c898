"""Stand-ins for the product's edges: a clock and a stop that jump, a store in memory, and an I2C bus.

`MemoryStore` refuses what a careful store refuses, and remembers every call in `history`.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import hashlib
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from syncagent.core.errors import FileChanged, KeyTaken, Refused, UploadGone
from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.core.remote import Got
from syncagent.edges.clock import Bell, Clock, Stop

if TYPE_CHECKING:
    from syncagent.edges.objects import Body, PutRequest

CHUNK_BYTES = 1 << 16
_T = TypeVar("_T")


class FakeClock(Clock):
    """A clock that moves only when told to. The wall may jump; the monotonic side only goes on."""

    def __init__(self, at: datetime = datetime(2025, 6, 1, 12, tzinfo=UTC), monotonic: float = 1000.0) -> None:
        self._at = at
        self._monotonic = monotonic

    def now(self) -> datetime:
        return self._at

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both sides."""
        if seconds < 0:
            raise ValueError("time passes forwards; use jump() for the wall clock")
        self._at += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forwards or back, as NTP or a person does."""
        self._at += timedelta(seconds=seconds)


class BadEntries:
    """`os.scandir` on a damaged disk: what `is_bad` names cannot be looked at."""

    def __init__(self, is_bad: Callable[[str], bool], error: int = errno.EUCLEAN) -> None:
        self._is_bad = is_bad
        self._error = error
        self._scandir = os.scandir

    @contextlib.contextmanager
    def __call__(self, fd: int) -> Iterator[Iterator[Any]]:
        with self._scandir(fd) as entries:
            yield (BadEntry(entry, self._error) if self._is_bad(entry.name) else entry for entry in entries)


class BadEntry:
    def __init__(self, entry: os.DirEntry[str], error: int) -> None:
        self.name = entry.name
        self._error = error

    def stat(self, **_: Any) -> os.stat_result:
        raise OSError(self._error, os.strerror(self._error))


class Recording:
    """The module `os` as the file system's edge sees it, with every call counted, those of directory entries too."""

    def __init__(self, on_stat: Callable[[], None] = lambda: None) -> None:
        self.calls: Counter[str] = Counter()
        self._on_stat = on_stat

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not callable(real) or isinstance(real, type):
            return real

        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return real(*arguments, **named)

        return counted

    @contextlib.contextmanager
    def scandir(self, fd: int) -> Iterator[Iterator[Any]]:
        self.calls["scandir"] += 1
        with os.scandir(fd) as entries:
            yield (RecordedEntry(entry, self) for entry in entries)

    def saw(self) -> None:
        self.calls["DirEntry.stat"] += 1
        self._on_stat()


class RecordedEntry:
    def __init__(self, entry: os.DirEntry[str], recording: Recording) -> None:
        self.name = entry.name
        self._entry, self._recording = entry, recording

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        self._recording.saw()
        return self._entry.stat(follow_symlinks=follow_symlinks)


class FakeBell(Bell):
    """A bell whose waiting, when nobody rang, is waiting on its stop."""

    def __init__(self, stop: FakeStop) -> None:
        super().__init__()
        self._stop = stop
        self._rang = False

    def ring(self) -> None:
        self._rang = True

    def wait(self, wait_s: float) -> bool:
        if not self._rang:
            self._stop.wait(wait_s)
        rang, self._rang = self._rang, False
        return rang


class FakeStop(Stop):
    """A stop whose waiting advances the clock, and set at the `passes`-th wait (None: never)."""

    def __init__(self, clock: FakeClock | None = None, *, passes: int | None = None) -> None:
        super().__init__()
        self.clock = clock or FakeClock()
        self.passes = passes
        self.waits: list[float] = []

    def bell(self) -> FakeBell:
        bell = FakeBell(self)
        self._bells.append(bell)
        return bell

    def wait(self, wait_s: float) -> bool:
        self.waits.append(wait_s)
        if not self.is_set():
            self.clock.advance(max(0.0, wait_s))
        if self.passes is not None and len(self.waits) >= self.passes:
            self.set()
        return self.is_set()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the store. `error` is the name of the exception that it ended with."""

    name: str
    key: str
    error: str = ""
    became_visible: bool = False


@dataclass(slots=True)
class Script:
    """An error for calls of `name` (None: any) below `prefix`; `after` lets the call happen first."""

    error: Callable[[], BaseException]
    name: str | None = None
    prefix: str = ""
    times: int | None = None
    skip: int = 0
    after: bool = False
    hits: int = 0

    def takes(self, name: str, key: str) -> bool:
        if self.name not in (None, name) or not key.startswith(self.prefix):
            return False
        self.hits += 1
        return self.hits > self.skip and (self.times is None or self.hits <= self.skip + self.times)


@dataclass(frozen=True, slots=True)
class Stored:
    body: bytes
    etag: str
    metadata: dict[str, str]
    content_type: str


@dataclass(slots=True)
class _Upload:
    key: str
    metadata: dict[str, str]
    content_type: str
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryStore:
    """An ObjectStore in a dict. What is visible is what was announced, or the call raised."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, _Upload] = {}
        self.history: list[Call] = []
        self.scripts: list[Script] = []
        self.is_closed = False
        self.got_bytes = 0  # that `get` handed out, or would have
        self._numbers = itertools.count(1)

    def calls(self, name: str | None = None) -> builtins.list[Call]:
        return [call for call in self.history if name in (None, call.name)]

    def bytes_of(self, key: str) -> bytes:
        return self.objects[key].body

    def put(self, request: PutRequest, body: Body) -> str:
        def act() -> str:
            data = _verified(body, request.digest)
            if request.only_if_absent and request.key in self.objects:
                raise KeyTaken(f"{request.key} is taken")
            if request.only_if_match not in (None, getattr(self.objects.get(request.key), "etag", None)):
                raise KeyTaken(f"{request.key} is another object")
            etag = request.digest.md5.hex()
            self.objects[request.key] = Stored(data, etag, dict(request.metadata), request.content_type)
            return etag

        return self._call("put", request.key, act, shows=True)

    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None = None
    ) -> str:
        def act() -> str:
            upload_id = f"upload-{next(self._numbers):06d}"
            self.uploads[upload_id] = _Upload(key, dict(metadata), content_type)
            return upload_id

        return self._call("create_multipart", key, act)

    def put_part(self, key: str, *, upload_id: str, number: int, body: Body, digest: Digest) -> Part:
        def act() -> Part:
            upload = self._upload(key, upload_id)
            data = _verified(body, digest)
            part = Part(number, len(data), digest.md5.hex())
            upload.parts[number] = (part, data)
            return part

        return self._call("put_part", key, act)

    def list_parts(self, key: str, *, upload_id: str) -> builtins.list[Part]:
        def act() -> builtins.list[Part]:
            return [part for _, (part, _) in sorted(self._upload(key, upload_id).parts.items())]

        return self._call("list_parts", key, act)

    def complete(
        self,
        key: str,
        *,
        upload_id: str,
        parts: Sequence[Part],
        only_if_absent: bool = False,
        digest: Digest | None = None,
    ) -> str:
        def act() -> str:
            upload = self._upload(key, upload_id)
            if only_if_absent and key in self.objects:
                raise KeyTaken(f"{key} is taken")
            known = [upload.parts.get(part.number) for part in parts]
            if not parts or any(had is None or had[0] != part for had, part in zip(known, parts, strict=True)):
                raise Refused(f"{key}: a part is not what was sent")
            bodies = [had[1] for had in known if had is not None]
            md5 = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()
            etag = f"{md5}-{len(bodies)}"
            self.objects[key] = Stored(b"".join(bodies), etag, upload.metadata, upload.content_type)
            del self.uploads[upload_id]
            return etag

        return self._call("complete", key, act, shows=True)

    def abort(self, key: str, *, upload_id: str) -> None:
        self._call("abort", key, lambda: self.uploads.pop(upload_id, None))

    def head(self, key: str) -> ObjectFacts | None:
        return self._call("head", key, lambda: self._facts(key) if key in self.objects else None)

    def read(self, key: str) -> Iterator[bytes]:
        def act() -> bytes:
            if key not in self.objects:
                raise Refused(f"{key} is not there")
            return self.objects[key].body

        data = self._call("read", key, act)
        for begin in range(0, len(data), CHUNK_BYTES):
            yield data[begin : begin + CHUNK_BYTES]

    def get(self, key: str, *, headers: Mapping[str, str] | None = None) -> Got:
        """A GET as careful stores answer it; the history has its name, key and, as `error`, a status that is no 200."""
        asked = {name.lower(): value for name, value in (headers or {}).items()}
        stored = self.objects.get(key)

        def answer(status: int, body: bytes = b"", **more: str) -> Got:
            etag = {"etag": f'"{stored.etag}"'} if stored is not None else {}
            pieces = [body[begin : begin + CHUNK_BYTES] for begin in range(0, len(body), CHUNK_BYTES)]
            self.history.append(Call("get", key, "" if status == 200 else str(status)))
            self.got_bytes += len(body)
            all_headers = {
                "content-length": str(len(body)),
                **etag,
                **{n.replace("_", "-"): v for n, v in more.items()},
            }
            return Got(status, all_headers, iter(pieces), f"the store answered {status}" if status >= 400 else "")

        script = next((script for script in self.scripts if script.takes("get", key)), None)
        if script is not None:
            self.history.append(Call("get", key, "scripted"))
            raise script.error()
        if stored is None:
            return answer(404)
        if asked.get("if-match") not in (None, f'"{stored.etag}"'):
            return answer(412)
        if asked.get("if-none-match") == f'"{stored.etag}"':
            return answer(304)
        match = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        if match is None:
            return answer(200, stored.body)
        begin, size = int(match.group(1)), len(stored.body)
        if begin >= size:
            return answer(416)
        return answer(206, stored.body[begin:], content_range=f"bytes {begin}-{size - 1}/{size}")

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        keys = self._call("list", prefix, lambda: sorted(k for k in self.objects if k.startswith(prefix)))
        for key in keys:
            stored = self.objects[key]
            yield ObjectFacts(key, len(stored.body), stored.etag)

    def close(self) -> None:
        self.is_closed = True

    def _facts(self, key: str) -> ObjectFacts:
        stored = self.objects[key]
        return ObjectFacts(key, len(stored.body), stored.etag, dict(stored.metadata))

    def _upload(self, key: str, upload_id: str) -> _Upload:
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise UploadGone(f"{key}: no upload {upload_id}")
        return upload

    def _call(self, name: str, key: str, act: Callable[[], _T], *, shows: bool = False) -> _T:
        """Act, or raise what a script says, and write it down either way."""
        script = next((script for script in self.scripts if script.takes(name, key)), None)
        did_act = False
        try:
            if script is not None and not script.after:
                raise script.error()
            result = act()
            did_act = True
            if script is not None:
                raise script.error()
        except BaseException as error:
            self.history.append(Call(name, key, type(error).__name__, shows and did_act))
            raise
        self.history.append(Call(name, key, "", shows))
        return result


def _verified(body: Body, digest: Digest) -> bytes:
    """The whole body, if it is what was announced."""
    body.rewind()
    pieces = []
    while piece := body.read(CHUNK_BYTES):
        pieces.append(piece)
    data = b"".join(pieces)
    is_true = hashlib.md5(data).digest() == digest.md5 and hashlib.sha256(data).digest() == digest.sha256
    if len(data) != body.size_bytes or not is_true:
        raise FileChanged("the body is not what was announced")
    return data


@dataclass(frozen=True, slots=True)
class Flip:
    """The answer comes with these bits of one byte flipped."""

    at: int
    mask: int


#: A transfer that the kernel does not end before `FakeBus.let_go`.
HANG = "hang"
Deed = int | Flip | str | None


class FakeBus:
    """A stand-in for `smbus2.SMBus`: chips in a dict, address -> register -> the bytes from there on.

    `scripts[address]` is what happens to the next transfers of an address, one after another: an errno, a Flip, HANG,
    or None for nothing; `always[address]` is what happens to each. `opening` is an errno for whoever opens the bus.
    """

    funcs = 0x0EFF0009  # of a Raspberry Pi: plain I2C and the SMBus calls made of it

    def __init__(self, chips: dict[int, dict[int, bytes]] | None = None) -> None:
        self.chips = chips or {}
        self.scripts: dict[int, builtins.list[Deed]] = {}
        self.always: dict[int, Deed] = {}
        self.opening: int | None = None
        self.history: builtins.list[tuple[str, int]] = []
        self.writes: builtins.list[tuple[int, int, bytes]] = []
        self.opened: builtins.list[str] = []
        self.closed = 0
        self._go = threading.Event()

    def open(self, path: str) -> FakeBus:
        self.opened.append(path)
        if self.opening is not None:
            raise OSError(self.opening, os.strerror(self.opening))
        return self

    def close(self) -> None:
        self.closed += 1

    def let_go(self) -> None:
        """The kernel comes back, with a time-out."""
        self._go.set()

    def read_i2c_block_data(self, address: int, register: int, length: int) -> builtins.list[int]:
        deed = self._begin("read", address)
        data = bytearray(self._registers(address, register)[:length])
        if isinstance(deed, Flip) and deed.at < len(data):
            data[deed.at] ^= deed.mask
        return builtins.list(data)

    def write_i2c_block_data(self, address: int, register: int, data: builtins.list[int]) -> None:
        self._begin("write", address)
        self.writes.append((address, register, bytes(data)))
        chip = self.chips[address]
        start = max(each for each in chip if each <= register)
        whole = bytearray(chip[start])
        whole[register - start : register - start + len(data)] = data
        chip[start] = bytes(whole)

    def read_byte(self, address: int) -> int:
        self._begin("read byte", address)
        return 0

    def write_quick(self, address: int) -> None:
        self._begin("quick", address)

    def _begin(self, name: str, address: int) -> Deed:
        self.history.append((name, address))
        script = self.scripts.get(address)
        deed = script.pop(0) if script else self.always.get(address)
        if deed == HANG:
            self._go.wait()
            deed = errno.ETIMEDOUT
        if isinstance(deed, int):
            raise OSError(deed, os.strerror(deed))
        if address not in self.chips:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        return deed

    def _registers(self, address: int, register: int) -> bytes:
        chip = self.chips[address]
        start = max((each for each in chip if each <= register), default=0)
        data = chip.get(start, b"")
        # The pointer of a chip that is one block of bytes begins anew at its end.
        return data[register - start :] + (data if set(chip) == {0} else b"")
