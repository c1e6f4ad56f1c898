"""The time and the signature of every request to the store.

Owns the one clock that signs (`StoreClock`) and the only use of credentials. Promises: the payload's SHA-256
is always signed, a key is percent-encoded exactly once, and nothing secret is in a `repr`. Signs with
botocore's own Python signer, never with awscrt's: that one ignores our clock. Leaves to others: what a
refused signature means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from syncagent.core.errors import Blocked, Transient, Trouble

_AMZ_DATE = "%Y%m%dT%H%M%SZ"

#: Headers of botocore that would be signed for nothing, and those that this module sets itself.
_DROPPED = frozenset(
    {
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "expect",
        "host",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
    }
)


def parse_date(value: str | None) -> datetime | None:
    """The value of an HTTP `Date` header in UTC, or None."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class StoreClock:
    """The time that signatures carry: our clock plus `offset`. This is the place to correct a wrong clock.

    `seen_offset` is what the last answer's Date said (the store's time minus our clock). Nothing here acts on
    it: whoever decides that our clock is wrong sets `offset`, and the system's clock stays as it is.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.offset = timedelta(0)
        self.seen_offset: timedelta | None = None

    def now(self) -> datetime:
        """The time to sign with, in UTC."""
        return self._clock().astimezone(UTC) + self.offset

    def note_date(self, value: str | None) -> float:
        """Remember an answer's Date; seconds between it and the time we sign with (0 without a Date)."""
        moment = parse_date(value)
        if moment is None:
            return 0.0
        self.seen_offset = moment - self._clock().astimezone(UTC)
        return (self.seen_offset - self.offset).total_seconds()


class Keys:
    """The credentials in use: the carrier's own, else boto3's chain (environment, profile, role)."""

    def __init__(
        self, access_key_id: str | None, secret_access_key: str | None, *, new_session: Callable[[], Any]
    ) -> None:
        self._own = (access_key_id, secret_access_key) if access_key_id and secret_access_key else None
        self._new_session = new_session
        self._lock = threading.Lock()
        self._found: Any = None

    def frozen(self) -> Any:
        """Access key, secret and token of this moment; role credentials refresh themselves here."""
        from botocore.credentials import ReadOnlyCredentials

        if self._own is not None:
            return ReadOnlyCredentials(self._own[0], self._own[1], None)
        try:
            # Held while the chain is asked: workers that start together must not ask a role's endpoint each.
            with self._lock:
                if self._found is None:
                    self._found = self._new_session().get_credentials()
                found = self._found
            if found is not None:
                return found.get_frozen_credentials()
        except (BotoConnectionError, HTTPClientError) as error:
            raise Transient("the credentials' provider does not answer", trouble=Trouble.LINK) from error
        except BotoCoreError as error:
            raise Blocked(
                f"the credentials cannot be had: {type(error).__name__}",
                trouble=Trouble.CREDENTIALS,
                remedy="check the profile, role or environment of the agent",
            ) from error
        raise Blocked(
            "no credentials found",
            trouble=Trouble.CREDENTIALS,
            remedy="set access_key_id and secret_access_key of the carrier, or the service's environment",
        )

    def forget(self) -> None:
        """Ask the chain anew next time: after a refusal, a rotated profile is read again."""
        with self._lock:
            self._found = None


class Signer:
    """Signs one request at a time for one region; safe to share between threads."""

    def __init__(self, keys: Keys, clock: StoreClock, *, region: str) -> None:
        self._keys = keys
        self._clock = clock
        self._region = region

    def sign(self, method: str, url: str, *, headers: Mapping[str, str], sha256_hex: str) -> dict[str, str]:
        """`headers` and those that make them a signed request; `url` is percent-encoded already."""
        credentials = self._keys.frozen()
        request = AWSRequest(method=method, url=url)
        for name, value in headers.items():
            if name.lower() not in _DROPPED:
                request.headers[name] = value
        timestamp = self._clock.now().strftime(_AMZ_DATE)
        request.context["timestamp"] = timestamp
        request.headers["X-Amz-Date"] = timestamp
        request.headers["X-Amz-Content-SHA256"] = sha256_hex
        if credentials.token:
            request.headers["X-Amz-Security-Token"] = credentials.token
        auth = S3SigV4Auth(credentials, "s3", self._region)
        canonical = auth.canonical_request(request)
        signature = auth.signature(auth.string_to_sign(request, canonical), request)
        # The names of the signed headers stand above the payload's hash; asking again would sort them twice.
        request.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, "
            f"SignedHeaders={canonical.rsplit(chr(10), 2)[1]}, Signature={signature}"
        )
        return dict(request.headers.items())
