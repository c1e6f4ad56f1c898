"""Signed requests to one store: the one door that the fast path and boto3's operations both go through.

Promises: every answer's Date is noted, every answer that is no success is an error of core/errors.py, and
refused credentials are looked up anew, and a request that was refused for its time is repeated at most once.
Leaves to others: what a request asks for.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from syncagent.core.errors import Blocked, Trouble
from syncagent.edges.answers import Answer, check, is_from_a_store, is_refused_for_its_time
from syncagent.edges.connection import Flight
from syncagent.edges.signing import Keys, Reading, Signer, StoreClock
from syncagent.edges.wire import USER_AGENT, Chunks, StaleError, Wire

DEFAULT_REGION = "us-east-1"


def proxy_for(url: str) -> str:
    """The proxy that the environment names for `url` (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), else empty."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all") or ""
    return found if not found or "://" in found else f"http://{found}"


class Sender:
    """Signs, sends and checks; safe to share between threads."""

    def __init__(self, wire: Wire, signer: Signer, *, keys: Keys, clock: StoreClock) -> None:
        self._wire = wire
        self._signer = signer
        self._keys = keys
        self._clock = clock

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        sha256_hex: str,
        chunks: Chunks | None = None,
        flight: Flight | None = None,
        may_repeat: bool = True,
        is_streamed: bool = False,
    ) -> Answer:
        """One signed request and its answer, whatever it says.

        One that is refused for its time goes again at once, and only if its answer (or another that came
        meanwhile) changed the time that we sign with: so it can never go round in circles.
        """
        for is_last in (False, True):
            reading = self._clock.read()
            sends = functools.partial(self._send, url, reading=reading, headers=headers, sha256_hex=sha256_hex)
            answer = sends(method, chunks=chunks, flight=flight, may_repeat=may_repeat, is_streamed=is_streamed)
            if is_last or not is_refused_for_its_time(answer):
                break
            if method == "HEAD" and not is_from_a_store(answer):
                # A refusal without a body may be anybody's. Refused as a GET, it says whose it is.
                sends("GET", is_streamed=True).drop()
            if not self._clock.is_worth_repeating(reading):
                break
            if flight is not None:
                flight.restart()
        return answer

    def _send(
        self,
        url: str,
        method: str,
        *,
        reading: Reading,
        headers: Mapping[str, str],
        sha256_hex: str,
        **how: Any,
    ) -> Answer:
        """One request, signed with the time that was read; its Date is noted."""

        def sign() -> dict[str, str]:
            return self._signer.sign(
                method,
                url,
                headers={**headers, "User-Agent": USER_AGENT},
                sha256_hex=sha256_hex,
                moment=reading.moment,
            )

        try:
            answer = self._wire.exchange(
                method, url, headers=sign(), is_stale=lambda: self._clock.is_worth_repeating(reading), **how
            )
        except StaleError:
            reading = self._clock.read()
            answer = self._wire.exchange(method, url, headers=sign(), **how)
        answer.skew_s = self._clock.note_date(
            answer.headers.get("date"), signed=reading, is_stores=is_from_a_store(answer)
        )
        return answer

    def note_proved(self, answer: Answer) -> None:
        """An answer that proved our digest came from the store, whatever its headers look like."""
        if "age" not in answer.headers:
            self._clock.note_date(answer.headers.get("date"))

    def check(self, answer: Answer, *, is_conditional: bool = False, root: str | None = None) -> None:
        """Raise unless the answer is a success as S3 gives it."""
        try:
            check(answer, is_conditional=is_conditional, root=root)
        except Blocked as blocked:
            if blocked.trouble is Trouble.CREDENTIALS:
                self._keys.forget()
            raise


def silence_libraries() -> None:
    """Their words about retries, refreshes and pools say worse what our errors say, and may quote a request."""
    for name in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(name).setLevel(logging.ERROR)


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of a small body in hex, as the signature wants it."""
    return hashlib.sha256(data).hexdigest()


def new_session() -> Any:
    """botocore's view of environment and profile: credentials, region, authorities."""
    import botocore.session

    return botocore.session.Session()


def find_region() -> str:
    """The region that the environment or the profile names."""
    files = (
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        *("~/.boto", "/etc/boto.cfg"),
    )
    if not any(os.path.exists(os.path.expanduser(name)) for name in files):
        # Without a file only the environment can name one, and that needs no library: it costs a third of the start.
        return os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    return str(new_session().get_config_variable("region") or DEFAULT_REGION)


def find_ca_bundle() -> str:
    """The authorities that botocore would trust: AWS_CA_BUNDLE or the profile's, else certifi's or its own."""
    from botocore.httpsession import get_cert_path

    return str(new_session().get_config_variable("ca_bundle") or get_cert_path(True))
