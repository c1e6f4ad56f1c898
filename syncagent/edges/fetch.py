"""One image from the bucket into a part file: resumable, bounded, and whole or not at all.

Promises: `fetch` returns once the part file is complete, on the card, and has the digest that was asked for; whatever
ends it earlier, the bytes that came are there for the next time, and at most 256 KiB of them are not on the card yet.
A link that is cut costs no byte twice. More than the announced length is never read, more than the budget never spent.
Leaves to others: where the image goes, and when to try again (Transient) or to give up until the metadata changes
(Refused).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from syncagent.core.errors import Refused, Transient, Trouble
from syncagent.core.meter import Meter
from syncagent.core.remote import CHANGED, FORBIDDEN, MISSING, OK, OUT_OF_RANGE, PARTIAL, Getter, Got

CHECKPOINT_BYTES = 256 * 1024
READ_BYTES = 256 * 1024
#: What may be spent on one image, in lengths of it.
BUDGET_LENGTHS = 3
#: A small image may cost this much, whatever its length.
LEAST_BUDGET_BYTES = 64 * 1024
#: Slower than this over `WINDOW_S` is a drip that keeps us waiting on purpose, or as good as that.
LEAST_BYTES_PER_S = 64
WINDOW_S = 60.0
#: Connections in a row that may be cut before somebody else gets the thread. Each one brought something.
MAX_CONNECTIONS = 200
#: New beginnings within one call of `fetch`, before the next poll has another try.
MAX_RESTARTS = 3
#: Where a limit makes a download wait, whoever watches it is told so often.
HELD_S = 1.0

_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")
_PART = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch. `length` and `sha256` (hex) are None where nobody signed them; `max_bytes` bounds both kinds."""

    key: str
    name: str  # of the part file, without its ending
    length: int | None
    sha256: str | None
    max_bytes: int


@dataclass(slots=True)
class Ticket:
    """What is remembered of a download between connections, and between runs: the object's ETag, the bytes spent."""

    etag: str = ""
    spent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """A whole image in staging."""

    path: str
    length: int
    sha256: str


class Fetch:
    """Downloads into one staging directory. `on_news` is told after each piece how many bytes of the image are here:
    who waits for the end may want to see it move, and may raise Stopping."""

    def __init__(
        self,
        getter: Getter,
        directory: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        on_news: Callable[[int], None] = lambda _: None,
        limit: Callable[[], int | None] = lambda: None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """`limit`: bytes per second that may come now, None for no limit; `wait` is how to keep to it."""
        self._getter = getter
        self.directory = directory
        self._monotonic = monotonic
        self._on_news = on_news
        self._limit = limit
        self._wait = wait or threading.Event().wait
        self._meter = Meter()

    def part_path(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.part")

    def have_bytes(self, name: str) -> int:
        """How much of an image lies here already."""
        try:
            return os.stat(self.part_path(name), follow_symlinks=False).st_size
        except OSError:
            return 0

    def discard(self, name: str) -> None:
        """Remove what came of an image. Raises: Transient(DISK)."""
        with _translated(), contextlib.suppress(FileNotFoundError):
            os.unlink(self.part_path(name))

    def sweep(self, keep: set[str]) -> None:
        """Remove the parts of all other images. Raises: Transient(DISK)."""
        with _translated(), contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.directory):
                if name.endswith(".part") and name.removesuffix(".part") not in keep:
                    os.unlink(os.path.join(self.directory, name))

    def fetch(
        self,
        order: Order,
        ticket: Ticket,
        keep: Callable[[Ticket], None] = lambda _: None,
        go_on: Callable[[], None] = lambda: None,
    ) -> Image:
        """The image, as soon as all of it is here; `keep` writes the ticket down at each checkpoint, and `go_on` may
        raise there to end it for now.

        Raises: Transient, Blocked, Refused, Stopping.
        """
        with _translated():
            os.makedirs(self.directory, mode=0o750, exist_ok=True)
        with contextlib.closing(_Part(self.part_path(order.name))) as part:
            return _Download(self, order, ticket, keep, go_on, part).run()

    # -- for the download ---------------------------------------------------------------------------------------------

    def get(self, key: str, headers: dict[str, str]) -> Got:
        return self._getter.get(key, headers=headers)

    def now(self) -> float:
        return self._monotonic()

    def tell(self, size_bytes: int) -> None:
        self._on_news(size_bytes)

    def hold_back(self, count: int, size_bytes: int) -> float:
        """So many bytes came: wait until the limit would have let them; how long that took."""
        held_s = 0.0
        while count > 0:
            grant = self._meter.ask(count, rate=self._limit(), now_s=self._monotonic())
            count -= grant.size_bytes
            if grant.wait_s > 0:
                wait_s = min(grant.wait_s, HELD_S)
                self._wait(wait_s)
                held_s += wait_s
                self._on_news(size_bytes)
        return held_s


class _Part:
    """The part file, and the digest of what is in it."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _translated():
            try:
                self._fd = os.open(path, _PART, 0o600)
                if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                    os.close(self._fd)
                    raise OSError(errno.EEXIST, "not a regular file")
            except OSError as error:
                # Whatever stands there, it is none of ours: the directory is.
                if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EEXIST):
                    raise
                os.unlink(path)
                self._fd = os.open(path, _PART | os.O_EXCL, 0o600)
        self.size = 0
        self._synced = 0
        self.sha256 = hashlib.sha256()
        self.is_resumed = False

    def take_up(self, most_bytes: int) -> None:
        """Go on with what an earlier run left."""
        with _translated():
            size = os.fstat(self._fd).st_size
            if size > most_bytes:
                self.reset()
                return
            while self.size < size:
                piece = os.pread(self._fd, min(READ_BYTES, size - self.size), self.size)
                if not piece:
                    break
                self.sha256.update(piece)
                self.size += len(piece)
        self._synced = self.size
        self.is_resumed = self.size > 0

    def reset(self) -> None:
        """Begin anew."""
        with _translated():
            os.ftruncate(self._fd, 0)
        self.size = self._synced = 0
        self.sha256 = hashlib.sha256()
        self.is_resumed = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with _translated():
            while view:
                written = os.pwrite(self._fd, view[:READ_BYTES], self.size)
                self.sha256.update(view[:written])
                self.size += written
                view = view[written:]

    def is_checkpoint_due(self) -> bool:
        return self.size - self._synced >= CHECKPOINT_BYTES

    def sync(self) -> None:
        if self.size != self._synced:
            with _translated():
                os.fsync(self._fd)
            self._synced = self.size

    def close(self) -> None:
        os.close(self._fd)

    @property
    def path(self) -> str:
        return self._path


class _Download:
    """One call of `Fetch.fetch`."""

    def __init__(
        self,
        owner: Fetch,
        order: Order,
        ticket: Ticket,
        keep: Callable[[Ticket], None],
        go_on: Callable[[], None],
        part: _Part,
    ) -> None:
        self._owner = owner
        self._order = order
        self._ticket = ticket
        self._keep = keep
        self._go_on = go_on
        self._part = part
        self._length = order.length
        self._restarts = 0

    def run(self) -> Image:
        part = self._part
        part.take_up(self._order.max_bytes if self._length is None else self._length)
        for _ in range(MAX_CONNECTIONS):
            if self._length is None or part.size < self._length:
                self._connect()
            if self._length is not None and part.size == self._length:
                part.sync()
                found = part.sha256.hexdigest()
                if self._order.sha256 in (None, found):
                    self._keep(self._ticket)
                    return Image(part.path, part.size, found)
                # What an earlier run left may have been torn by a power cut. What came in one go is the bucket's.
                was_resumed = part.is_resumed
                self._restart()
                if not was_resumed:
                    self._owner.discard(self._order.name)
                    raise Refused("the image in the bucket is not the one that was signed: its digest differs")
        raise Transient("the link was cut again and again", trouble=Trouble.LINK)

    def _restart(self) -> None:
        self._part.reset()
        self._ticket.etag = ""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise Transient("the image in the bucket changes all the time", trouble=Trouble.STORE)

    def _connect(self) -> None:
        """One request, as far as it gets. Returns when it brought something."""
        part, ticket = self._part, self._ticket
        headers = {}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
        if ticket.etag:
            headers["If-Match"] = ticket.etag
        got = self._owner.get(self._order.key, headers)
        if got.status in (CHANGED, OUT_OF_RANGE):
            self._restart()
            return
        if got.status in (FORBIDDEN, MISSING):
            raise Refused(f"the image cannot be had: {got.reason}")
        with got:
            self._check_head(got)
            before = part.size
            try:
                self._take(got)
            except Transient as error:
                if error.trouble is not Trouble.LINK or part.size == before:
                    raise
                # The link was cut after it brought something: on with the rest, at once.
            finally:
                part.sync()
                self._keep(ticket)

    def _check_head(self, got: Got) -> None:
        """What the answer says of itself, before a byte of it is taken."""
        part, ticket = self._part, self._ticket
        total = _number(got.headers.get("content-length"))
        if got.status == OK and _is_web_page(got) and (total is None or total != self._length):
            what = "a web page came instead of the image: does this network ask for a login?"
            raise Transient(what, trouble=Trouble.LINK)
        if got.status == PARTIAL:
            match = _RANGE.fullmatch(got.headers.get("content-range", ""))
            if match is None or int(match.group(1)) != part.size:
                raise Transient("the store answered with another range", trouble=Trouble.STORE)
            total = _number(match.group(3))
        elif got.status == OK:
            if part.size:  # it knows no ranges
                self._restart()
        else:
            raise Transient(f"the store answered {got.status}", trouble=Trouble.STORE)
        if total is not None and self._length is None:
            self._length = total
        if total is not None and total != self._length:
            raise Refused(f"the image in the bucket has {total} bytes, not {self._length}")
        if (self._length or 0) > self._order.max_bytes:
            raise Refused(f"the image has {self._length} bytes, max_image_bytes is {self._order.max_bytes}")
        if got.etag:
            ticket.etag = got.etag

    def _take(self, got: Got) -> None:
        part, ticket = self._part, self._ticket
        # Without a length the end of the connection would be the end of the image.
        if self._length is None:
            raise Refused("the store does not say how long the image is")
        budget = max(BUDGET_LENGTHS * self._length, LEAST_BUDGET_BYTES)
        since, came = self._owner.now(), 0
        for chunk in self._counted(got.chunks):
            if part.size + len(chunk) > self._length:
                part.write(chunk[: self._length - part.size])
                raise Refused(f"the image in the bucket is longer than the {self._length} bytes that were signed")
            part.write(chunk)
            came += len(chunk)
            if part.is_checkpoint_due():
                part.sync()
                self._keep(ticket)
                if part.size < self._length:
                    self._go_on()
            self._owner.tell(part.size)
            since += self._owner.hold_back(len(chunk), part.size)  # what we wait for is nobody's slowness
            if ticket.spent_bytes > budget:
                raise Refused(f"{ticket.spent_bytes} bytes were spent on an image of {self._length}")
            now = self._owner.now()
            if now - since >= WINDOW_S:
                if came < LEAST_BYTES_PER_S * (now - since):
                    what = f"the image comes slower than {LEAST_BYTES_PER_S} bytes per second"
                    raise Transient(what, trouble=Trouble.STALLED)
                since, came = now, 0
        if part.size < self._length:
            raise Transient("the answer ended before the image did", trouble=Trouble.LINK)

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._ticket.spent_bytes += len(chunk)
            yield chunk


def _is_web_page(got: Got) -> bool:
    """What a captive portal answers in the store's place; it is no verdict on the image."""
    return "html" in got.headers.get("content-type", "").lower()


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,15}", text) else None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"the image cannot be kept in staging: {error.strerror or type(error).__name__}"
        raise Transient(what, trouble=Trouble.DISK) from error
