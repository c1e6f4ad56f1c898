"""Signed requests to one store: the one door that the fast path and boto3's operations both go through.

Promises: every answer's Date is noted, every answer that is no success is an error of core/errors.py, and
refused credentials are looked up anew. Leaves to others: what a request asks for.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from syncagent import __version__
from syncagent.core.errors import Blocked, Trouble
from syncagent.edges.answers import Answer, check
from syncagent.edges.connection import Flight
from syncagent.edges.signing import Keys, Signer, StoreClock
from syncagent.edges.wire import Chunks, Wire

DEFAULT_REGION = "us-east-1"
USER_AGENT = f"syncagent/{__version__}"


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
        """One signed request and its answer, whatever it says."""
        signed = self._signer.sign(method, url, headers={**headers, "User-Agent": USER_AGENT}, sha256_hex=sha256_hex)
        answer = self._wire.exchange(
            method,
            url,
            headers=signed,
            chunks=chunks,
            flight=flight,
            may_repeat=may_repeat,
            is_streamed=is_streamed,
        )
        answer.skew_s = self._clock.note_date(answer.headers.get("date"))
        return answer

    def check(self, answer: Answer, *, is_conditional: bool = False, root: str | None = None) -> None:
        """Raise unless the answer is a success as S3 gives it."""
        try:
            check(answer, is_conditional=is_conditional, root=root)
        except Blocked as blocked:
            if blocked.trouble is Trouble.CREDENTIALS:
                self._keys.forget()
            raise


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of a small body in hex, as the signature wants it."""
    return hashlib.sha256(data).hexdigest()


def new_session() -> Any:
    """botocore's view of environment and profile: credentials, region, authorities."""
    import botocore.session

    return botocore.session.Session()


def find_region() -> str:
    """The region that the environment or the profile names."""
    return str(new_session().get_config_variable("region") or DEFAULT_REGION)


def find_ca_bundle() -> str:
    """The authorities that botocore would trust: AWS_CA_BUNDLE or the profile's, else certifi's or its own."""
    from botocore.httpsession import get_cert_path

    return str(new_session().get_config_variable("ca_bundle") or get_cert_path(True))
