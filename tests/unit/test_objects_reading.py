"""Answers as they come over the wire, in one piece and byte by byte."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.edges.reading import AnswerReader, NonsenseError


def source(data: bytes, step: int) -> Callable[[], bytes]:
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return lambda: pieces.pop(0) if pieces else b""


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("wire", "body", "is_reusable"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nhello', b"hello", True),
        (b'HTTP/1.1 200 \r\nContent-Length: 0\r\nETag: "x"\r\n\r\n', b"", True),
        (b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:2\r\netag:"x"\r\n\r\nhi', b"hi", True),
        (
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "x"\r\n\r\n'
            b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n",
            b"abcde",
            True,
        ),
        (b'HTTP/1.1 200 OK\r\nETag: "x"\r\n\r\nuntil the end', b"until the end", False),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\nETag: "x"\r\n\r\nhi', b"hi", False),
        (b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\nETag: "x"\r\n\r\nhi', b"hi", False),
        (b'HTTP/1.1 204 No Content\r\nETag: "x"\r\n\r\n', b"", True),
    ],
)
def test_an_answer_is_read_to_its_end(wire: bytes, body: bytes, is_reusable: bool, step: int) -> None:
    reader = AnswerReader(source(wire, step), method="PUT")
    status, headers = reader.read_head()
    assert status in (200, 204) and headers["etag"] == '"x"'
    assert reader.read_all() == body
    assert reader.is_reusable is is_reusable


def test_the_answer_to_a_head_has_no_body_whatever_its_length_says() -> None:
    reader = AnswerReader(source(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 7), method="HEAD")
    assert reader.read_head()[1]["content-length"] == "99"
    assert reader.read_all() == b"" and reader.is_reusable


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
    ],
)
def test_an_answer_that_is_cut_short_is_a_broken_connection(wire: bytes) -> None:
    reader = AnswerReader(source(wire, 4), method="GET")
    with pytest.raises(ConnectionError):
        reader.read_head()
        reader.read_all()
    assert reader.is_empty is (wire == b"") and not reader.is_reusable


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"<html>\r\n\r\n",
        b"HTTP/1.1 99 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * (17 * 1024 * 1024),
    ],
)
def test_what_is_not_http_is_called_nonsense_in_bounded_memory(wire: bytes) -> None:
    reader = AnswerReader(source(wire, 65536), method="GET")
    with pytest.raises(NonsenseError):
        reader.read_head()
        reader.read_all()


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_end_in_an_answer_or_in_one_of_two_errors(tail: bytes, step: int) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        reader = AnswerReader(source(prefix + tail, step), method="GET")
        try:
            reader.read_head()
            reader.read_all()
        except (ConnectionError, NonsenseError):
            assert not reader.is_reusable


@pytest.mark.parametrize(
    ("data", "is_final"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (b"HTTP/1.1 1", False),
        (b"HTTP", False),
        (b"", False),
        (b"rubbish", True),
    ],
)
def test_an_early_interim_answer_does_not_stop_the_body(data: bytes, is_final: bool) -> None:
    assert AnswerReader(lambda: b"", method="PUT").feed(data) is is_final


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n", b"A: b\r\n"),
    ],
    ids=["interim answers", "trailers"],
)
@pytest.mark.parametrize("is_early", [False, True])
def test_what_says_nothing_and_has_no_end_is_nonsense(begin: bytes, again: bytes, is_early: bool) -> None:
    pieces = itertools.chain([begin], itertools.repeat(again, 100_000)) if begin else itertools.repeat(again, 100_000)
    reader = AnswerReader(lambda: next(pieces, b""), method="PUT")
    if is_early:
        for _ in range(9_000):
            if reader.feed(next(pieces)):
                break
    with pytest.raises(NonsenseError):
        reader.read_head()
        reader.read_all()
    assert len(list(pieces)) > 80_000
