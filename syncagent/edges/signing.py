"""The time and the signature of every request to the store.

Owns the one clock that signs (`StoreClock`) and the only use of credentials. Promises: the payload's SHA-256
is always signed, a key is percent-encoded exactly once, and nothing secret is in a `repr`. Leaves to others: the
arithmetic (`sigv4`), and what a refused signature means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from syncagent.core.errors import Blocked, Transient, Trouble
from syncagent.core.skew import Anchor, correct, is_doubtful, is_worth_repeating
from syncagent.edges.sigv4 import sign

#: Headers of botocore that would be signed for nothing, and those that the signature brings itself.
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

#: No agent ran before, and a time beyond is a server's fault: signed with, it would be refused by every other one.
BELIEVED_YEARS = range(2020, 2100)


@lru_cache(maxsize=16)  # many answers come within one second
def parse_date(value: str | None) -> datetime | None:
    """The value of an HTTP `Date` header in UTC; None for none, and for one that no store of this century can have."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.year in BELIEVED_YEARS else None


@dataclass(frozen=True, slots=True)
class Reading:
    """The time that one request carries, and the monotonic moment at which it was read."""

    moment: datetime
    monotonic_s: float

    def at(self, monotonic_s: float) -> datetime:
        """What the clock that was read says at another moment, had nobody set it meanwhile."""
        return Anchor(self.moment, self.monotonic_s).at(monotonic_s)


class StoreClock:
    """The time that signatures carry, corrected by what the store says. The system's clock stays as it is.

    This is the one place where a wrong clock is corrected: `note_date` is told of every answer, and core/skew.py
    decides. A `Date` that did not come from the store (a captive portal has one, too) is only compared with.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        is_synchronised: Callable[[], bool] = lambda: True,
        floor: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        """`floor`: the least that the time can be, as long as the wall clock is not synchronised."""
        self._clock = clock
        self._floor = floor
        self._monotonic = monotonic
        self._is_synchronised = is_synchronised
        self._lock = threading.Lock()
        self._correction: Anchor | None = None
        self._seen: Anchor | None = None

    @property
    def skew_s(self) -> float | None:
        """The store's time minus our wall clock's, both of this moment; None before its first answer."""
        store_time = self.store_time()
        return None if store_time is None else (store_time - self._wall()).total_seconds()

    @property
    def is_corrected(self) -> bool:
        """Whether signatures carry the store's time instead of ours."""
        with self._lock:
            return self._correction is not None

    @property
    def is_doubtful(self) -> bool:
        """Whether our wall clock is in no position to judge a certificate's dates."""
        return is_doubtful(self._wall(), is_synchronised=self._is_synchronised())

    def now(self) -> datetime:
        """The time to sign with, in UTC."""
        return self.read().moment

    def read(self) -> Reading:
        """The time to sign with, so that the answer can be compared with it."""
        with self._lock:
            correction = self._correction
        monotonic_s = self._monotonic()
        return Reading(self._best() if correction is None else correction.at(monotonic_s), monotonic_s)

    def store_time(self) -> datetime | None:
        """The store's time of this moment, as far as it ever told."""
        with self._lock:
            seen = self._seen
        return None if seen is None else seen.at(self._monotonic())

    def note_date(self, value: str | None, *, signed: Reading | None = None, is_stores: bool = True) -> float:
        """Learn from an answer's Date; seconds between it and the time that we signed with (0 without a Date).

        The time that was signed is carried on by the monotonic clock: the wall clock may have been set while the
        request was on its way.
        """
        moment = parse_date(value)
        if moment is None:
            return 0.0
        monotonic_s, wall = self._monotonic(), self._wall()
        expected = self.now() if signed is None else signed.at(monotonic_s)
        if is_stores:
            with self._lock:
                self._seen = Anchor(moment, monotonic_s)
                self._correction = correct(self._correction, self._seen, wall=wall)
        return (moment - expected).total_seconds()

    def is_worth_repeating(self, signed: Reading) -> bool:
        """Whether what we sign with has changed since, so that a refusal for its time may be asked again."""
        now = self.read()
        return is_worth_repeating(signed.at(now.monotonic_s), now.moment)

    def _best(self) -> datetime:
        """Before the store told its time: our wall clock's, unless it says less than the time can be."""
        wall, floor = self._wall(), self._floor()
        return wall if floor is None else max(wall, floor)

    def _wall(self) -> datetime:
        return self._clock().astimezone(UTC)


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
        except RuntimeError as error:
            # botocore's word for credentials of a role that expire before our time, just after they were issued.
            raise Transient("the role's credentials have expired at our time", trouble=Trouble.CLOCK) from error
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

    def sign(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        sha256_hex: str,
        moment: datetime | None = None,
    ) -> dict[str, str]:
        """`headers` and those that make them a signed request; `url` is percent-encoded already."""
        credentials = self._keys.frozen()
        return sign(
            method,
            url,
            headers={name: value for name, value in headers.items() if name.lower() not in _DROPPED},
            sha256_hex=sha256_hex,
            access_key_id=credentials.access_key,
            secret_access_key=credentials.secret_key,
            token=credentials.token,
            region=self._region,
            moment=moment or self._clock.now(),
        )
