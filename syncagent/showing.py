"""What is shown to whoever asks the page's server: which path gives what.

Everything is made of what the agent knows at the moment, and nothing is changed by any of it. Of files only pictures
below generated_data are shown, named by their number in the journal: no path comes from outside.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

from syncagent.core.board import Board
from syncagent.core.capture import HEAD_BYTES
from syncagent.core.errors import FileVanished, SyncagentError
from syncagent.core.keys import time_of
from syncagent.core.metrics import CONTENT_TYPE, metrics_of
from syncagent.core.model import OWED
from syncagent.core.page import Picture, View, render
from syncagent.core.page.assets import ICON, NO_PICTURE, PICTURE_POLICY, POLICY
from syncagent.core.places import Places
from syncagent.core.preview import embedded_thumbnail, is_picture_name, picture_type
from syncagent.core.samples import History
from syncagent.core.settings import Web as WebSettings
from syncagent.core.territory import Territory
from syncagent.edges.clock import Clock
from syncagent.edges.files import PinnedFile
from syncagent.edges.journal import Journal, Row
from syncagent.edges.objects import S3Store, wire_sum
from syncagent.edges.web import NOT_FOUND, OK, UNAVAILABLE, Answer, Question, Web, text_answer
from syncagent.workers.page import Page

#: So many are shown, and so many of the newest files are looked at for them.
PICTURES, LOOKED_AT = 12, 200
#: What is larger is not shown; and not instead of a thumbnail, of which a page loads many.
MAX_PICTURE_BYTES, MAX_SMALL_BYTES = 32 * 1024 * 1024, 2 * 1024 * 1024
PIECE_BYTES = 64 * 1024
#: However many ask, the status is made anew this often at most.
STATUS_S = 1.0

_FILE = re.compile(r"/(picture|thumbnail)/([0-9]{1,18})")
_SVG = "image/svg+xml"


def open_page(
    settings: WebSettings,
    *,
    status: Callable[[], Mapping[str, Any]],
    stores: Sequence[S3Store],
    settling: Sized,
    journal: Journal,
    places: Places,
    territory: Territory,
    board: Board,
    clock: Clock,
) -> tuple[Web, Page]:
    """The server, not yet listening, and the worker that looks after it."""

    def counts() -> dict[str, tuple[str, int]]:
        sent, received = wire_sum(stores)
        return {
            "syncagent_sent_files_total": ("Files that were confirmed.", board.count("sent_files")),
            "syncagent_sent_bytes_total": ("Bytes of the files that were confirmed.", board.count("sent_bytes")),
            "syncagent_wire_sent_bytes_total": ("Bytes that went over the wire.", sent),
            "syncagent_wire_received_bytes_total": ("Bytes that came over the wire.", received),
        }

    history = History()
    showing = Showing(
        status=status,
        counts=counts,
        history=history,
        journal=journal,
        places=places,
        territory=territory,
        clock=clock,
    )
    web = Web(settings.listen, showing.respond, password=settings.password)
    page = Page(
        web,
        history,
        unsent_files=lambda: journal.count_of(*OWED) + len(settling),
        sent_files=lambda: board.count("sent_files"),
        wire_bytes=lambda: wire_sum(stores)[0],
        board=board,
        clock=clock,
    )
    return web, page


class Showing:
    """See the module. `status` makes the status object; `counts` gives counters for Prometheus."""

    def __init__(
        self,
        *,
        status: Callable[[], Mapping[str, Any]],
        counts: Callable[[], Mapping[str, tuple[str, int]]],
        history: History,
        journal: Journal,
        places: Places,
        territory: Territory,
        clock: Clock,
    ) -> None:
        self._make_status = status
        self._counts = counts
        self._history = history
        self._journal = journal
        self._places = places
        self._territory = territory
        self._clock = clock
        self._lock = threading.Lock()
        self._status: Mapping[str, Any] = {}
        self._made_at = float("-inf")
        self._pages = {
            "/": self._page,
            "/status.json": self._status_json,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/icon.svg": self._icon,
        }

    def respond(self, question: Question) -> Answer:
        """Safe to call from several threads."""
        page = self._pages.get(question.path)
        if page is not None:
            return page(question)
        match = _FILE.fullmatch(question.path)
        if match is None:
            return text_answer(NOT_FOUND, "There is no such page.")
        return self._picture(int(match[2]), is_small=match[1] == "thumbnail")

    # -- what the status says -----------------------------------------------------------------------------------------

    def _current(self) -> Mapping[str, Any]:
        # Made under the lock, for all who wait: each of them would read the journal, and a small board has one core.
        with self._lock:
            if self._clock.monotonic() - self._made_at >= STATUS_S:
                self._status = self._make_status()
                self._made_at = self._clock.monotonic()
            return self._status

    def _page(self, question: Question) -> Answer:
        span = "day" if question.query.get("span") == "day" else "hour"
        samples = self._history.day if span == "day" else self._history.hour
        view = View(
            status=self._current(),
            pictures=self._newest(),
            samples=samples.all(),
            span=span,
            span_s=samples.span_s,
            step_s=samples.step_s,
        )
        return _whole("text/html; charset=utf-8", render(view), policy=POLICY)

    def _status_json(self, _question: Question) -> Answer:
        return _whole("application/json", json.dumps(self._current(), indent=2) + "\n")

    def _metrics(self, _question: Question) -> Answer:
        return _whole(CONTENT_TYPE, metrics_of(self._current(), self._counts()))

    def _healthz(self, _question: Question) -> Answer:
        status = self._current()
        if status["healthy"]:
            return text_answer(OK, str(status["state"]))
        return text_answer(UNAVAILABLE, str(status["reason"]))

    def _icon(self, _question: Question) -> Answer:
        return _whole(_SVG, ICON, keeps_s=86_400)

    # -- pictures -----------------------------------------------------------------------------------------------------

    def _newest(self) -> list[Picture]:
        found: dict[str, Picture] = {}  # by path: it may be several addresses'
        for row in self._journal.newest(limit=LOOKED_AT):
            if len(found) < PICTURES and row.path not in found and is_picture_name(row.path) and self._is_shown(row):
                taken = f"{time_of(row.facts.mtime_ns):%Y-%m-%d %H:%M:%S} UTC"
                found[row.path] = Picture(row.id, row.path, str(row.state), taken, f"{row.facts.mtime_ns:x}")
        return list(found.values())

    def _is_shown(self, row: Row) -> bool:
        """Whether a file lies where cameras write."""
        relative = self._places.relative_of(row.path)
        return relative is not None and not self._territory.is_reserved(relative)

    def _picture(self, number: int, *, is_small: bool) -> Answer:
        row = self._journal.row_if_any(number)
        if row is None or not self._is_shown(row) or not is_picture_name(row.path):
            return text_answer(NOT_FOUND, "There is no such picture.")
        try:
            return self._opened(row, is_small=is_small)
        except SyncagentError as error:
            return _none(is_small, f"It cannot be shown: {error}.")

    def _opened(self, row: Row, *, is_small: bool) -> Answer:
        """Raises: what opening and reading a file does."""
        located = self._places.locate(row.path)
        if located is None:
            raise FileVanished("it lies nowhere")
        pinned = PinnedFile.open(*located, facts=row.facts)
        try:
            head = pinned.read(0, min(HEAD_BYTES, pinned.size_bytes))
            media_type = picture_type(head)
            if media_type is None:
                raise FileVanished("it is no picture")
            small = embedded_thumbnail(head) if is_small else None
            if small is not None:
                pinned.close()
                return _seen("image/jpeg", (small,), len(small))
            if pinned.size_bytes > (MAX_SMALL_BYTES if is_small else MAX_PICTURE_BYTES):
                raise FileVanished("it is too large")
            return _seen(media_type, _Pieces(pinned), pinned.size_bytes)
        except BaseException:
            pinned.close()
            raise


class _Pieces:
    """A file as it is read, never all of it in memory."""

    def __init__(self, pinned: PinnedFile) -> None:
        self._pinned = pinned

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, self._pinned.size_bytes, PIECE_BYTES):
            yield self._pinned.read(start, min(PIECE_BYTES, self._pinned.size_bytes - start))

    def close(self) -> None:
        self._pinned.close()


def _seen(media_type: str, pieces: Any, size_bytes: int) -> Answer:
    # The page names a picture by its time, too: what is kept never becomes another one's.
    headers = {"Content-Security-Policy": PICTURE_POLICY, "Cache-Control": "private, max-age=86400, immutable"}
    return Answer(OK, media_type, pieces, size_bytes, headers)


def _none(is_small: bool, why: str) -> Answer:
    """Nothing to see; in the place of a small picture that is a picture, too."""
    if not is_small:
        return text_answer(NOT_FOUND, why)
    body = NO_PICTURE.encode()
    return Answer(NOT_FOUND, _SVG, (body,), len(body), {"Content-Security-Policy": PICTURE_POLICY})


def _whole(content_type: str, text: str, *, policy: str | None = None, keeps_s: int = 0) -> Answer:
    body = text.encode()
    headers = {"Content-Security-Policy": policy} if policy else {}
    if keeps_s:
        headers["Cache-Control"] = f"private, max-age={keeps_s}"
    return Answer(OK, content_type, (body,), len(body), headers)
