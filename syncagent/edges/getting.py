"""One conditional GET: which answers mean something to its reader, and which are troubles of the store.

Promises: 403 and 404 are returned only where the store itself refuses this key or has no such key. A clock or
credentials that it refuses, a bucket that is not there and a captive portal's page raise, so that nobody takes them
for the end of a chain of roots. Leaves to others: what is done with the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncagent.core.errors import Blocked, Trouble
from syncagent.core.remote import CHANGED, FORBIDDEN, MISSING, NOT_MODIFIED, OUT_OF_RANGE, Got
from syncagent.edges.answers import Answer, trouble_with
from syncagent.edges.connection import Flight
from syncagent.edges.sender import Sender, sha256_hex

#: Codes that say that there is nothing under this key; NoSuchBucket is another matter.
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchVersion", "NotFound"})
_NOTHING = sha256_hex(b"")


def get(sender: Sender, url: str, *, key: str, headers: Mapping[str, str]) -> Got:
    """Send it, and return what came. Raises: Transient, Blocked, Stopping; also while the chunks are read."""
    answer = sender.send("GET", url, headers=headers, sha256_hex=_NOTHING, flight=Flight(key, 0), is_streamed=True)
    if 200 <= answer.status < 300:
        return Got(answer.status, answer.headers, answer.chunks, _drop=answer.drop)
    return judge(answer, sender)


def judge(answer: Answer, sender: Sender) -> Got:
    """What an answer that is no success says to the reader, or raise. Raises: Transient, Blocked."""
    if answer.status in (NOT_MODIFIED, CHANGED, OUT_OF_RANGE):
        return Got(answer.status, answer.headers)
    reason = f"the store answered {answer.status} {answer.code}".rstrip()
    if answer.status == MISSING and answer.code in _MISSING_CODES:
        return Got(MISSING, answer.headers, reason=reason)
    error = trouble_with(answer)
    if isinstance(error, Blocked) and error.trouble is Trouble.FORBIDDEN:
        return Got(FORBIDDEN, answer.headers, reason=reason)
    sender.check(answer)  # raises, and forgets credentials that were refused
    raise error
