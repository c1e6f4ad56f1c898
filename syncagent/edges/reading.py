"""Reads one HTTP/1.1 answer from a stream of bytes.

Promises: bounded memory, and no end of a body taken on trust: a body that is shorter than announced raises
ConnectionError, one that is not HTTP raises NonsenseError. Leaves to others: sockets, and what an answer
means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

MAX_HEAD_BYTES = 65536
#: A listing of 1,000 keys of 1,024 bytes, each byte percent-encoded, stays below.
MAX_BODY_BYTES = 16 * 1024 * 1024

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: |$)")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,12}")


class NonsenseError(Exception):
    """What came is not an HTTP answer."""


class AnswerReader:
    """The answer to one request. `receive` returns the next bytes, or none at the end of the stream."""

    def __init__(self, receive: Callable[[], bytes], *, method: str) -> None:
        self._receive = receive
        self._method = method
        self._buffer = bytearray()
        self._is_http_1_1 = False
        self._headers: dict[str, str] = {}
        self._status = 0
        self._is_whole = False
        self._skipped_bytes = 0
        self.is_empty = True  # not one byte of an answer yet

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow on the connection: the answer ended where it said."""
        stays = self._is_http_1_1 and "close" not in self._headers.get("connection", "").lower()
        return self._is_whole and stays and not self._buffer

    def feed(self, data: bytes) -> bool:
        """Take bytes that came early; True once they hold a final answer's head (or can hold none)."""
        self._buffer += data
        if data:
            self.is_empty = False
        try:
            self._skip_interim()
        except NonsenseError:
            return True
        return len(self._buffer) >= 10 and self._buffer[9:10] != b"1"

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the final answer."""
        while True:
            self._skip_interim()
            end = self._buffer.find(b"\r\n\r\n")
            if end >= 0:
                break
            self._more("before its answer was whole")
        self._is_http_1_1, self._status = self._parse_status(end)
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")[1:]
        del self._buffer[: end + 4]
        name = ""
        for line in lines:
            if line[:1] in (" ", "\t") and name:
                self._headers[name] += " " + line.strip()
                continue
            name, colon, value = line.partition(":")
            name = name.strip().lower()
            if not colon or not name:
                raise NonsenseError("a header without a name")
            value = value.strip()
            old = self._headers.get(name)
            if old is not None and name == "content-length" and old != value:
                raise NonsenseError("two lengths of one body")
            self._headers[name] = value if old is None or name == "content-length" else f"{old}, {value}"
        return self._status, self._headers

    def read_all(self) -> bytes:
        """The whole body."""
        parts, size_bytes = [], 0
        for chunk in self.read_chunks():
            size_bytes += len(chunk)
            if size_bytes > MAX_BODY_BYTES:
                raise NonsenseError("an answer without an end")
            parts.append(chunk)
        return b"".join(parts)

    def read_chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        length = self._headers.get("content-length")
        if self._method == "HEAD" or self._status in (204, 304):
            pass
        elif "chunked" in self._headers.get("transfer-encoding", "").lower():
            yield from self._read_chunked()
        elif length is not None:
            if not re.fullmatch(r"[0-9]{1,15}", length):
                raise NonsenseError("a length that is no number")
            yield from self._read_exactly(int(length))
        else:
            self._is_http_1_1 = False  # the end of the connection is the end of the body
            while True:
                if self._buffer:
                    yield self._take(len(self._buffer))
                data = self._receive()
                if not data:
                    break
                self._buffer += data
        self._is_whole = True

    def _parse_status(self, end: int) -> tuple[bool, int]:
        line = bytes(self._buffer[:end]).split(b"\r\n", 1)[0].decode("latin-1")
        match = _STATUS.match(line)
        if match is None:
            raise NonsenseError("a status line of another protocol")
        return match.group(1) == "1", int(match.group(2))

    def _skip_interim(self) -> None:
        """Drop every `100 Continue` and the like that a server sends without being asked."""
        while True:
            if len(self._buffer) > 0 and not b"HTTP/1.".startswith(bytes(self._buffer[:7])):
                raise NonsenseError("a status line of another protocol")
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 or self._parse_status(end)[1] >= 200:
                return
            del self._buffer[: end + 4]
            self._skipped(end + 4)

    def _skipped(self, n: int) -> None:
        """Count what says nothing: a server that says no more than that holds nobody for ever."""
        self._skipped_bytes += n
        if self._skipped_bytes > MAX_HEAD_BYTES:
            raise NonsenseError("an answer that says nothing, without an end")

    def _more(self, when: str) -> None:
        if len(self._buffer) > MAX_HEAD_BYTES:
            raise NonsenseError("a line without an end")
        data = self._receive()
        if not data:
            raise ConnectionError(f"the server hung up {when}")
        self.is_empty = False
        self._buffer += data

    def _take(self, n: int) -> bytes:
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _read_exactly(self, n: int) -> Iterator[bytes]:
        while n > 0:
            if not self._buffer:
                self._more("inside the body of its answer")
            chunk = self._take(min(n, len(self._buffer)))
            n -= len(chunk)
            yield chunk

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more("inside the body of its answer")
        return self._take(end + 2)[:-2]

    def _read_chunked(self) -> Iterator[bytes]:
        while True:
            match = _SIZE.fullmatch(self._read_line().partition(b";")[0].strip())
            if match is None:
                raise NonsenseError("a chunk without a size")
            size = int(match.group(0), 16)
            if size == 0:
                break
            yield from self._read_exactly(size)
            if self._read_line():
                raise NonsenseError("a chunk without an end")
        while trailer := self._read_line():
            self._skipped(len(trailer))
