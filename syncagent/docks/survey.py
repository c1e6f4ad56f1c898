"""What must be known of a store before the first file goes: which keys are taken, and whether it guards them itself.

One listing per prefix in the life of a journal, one probe per store; both are remembered in the journal.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from syncagent.core.errors import Blocked, Trouble
from syncagent.core.model import ObjectFacts
from syncagent.core.proof import StoreProfile
from syncagent.core.settings import Carrier, SendAddress
from syncagent.docks.naming import corner_key
from syncagent.edges.journal import Journal
from syncagent.edges.objects import ObjectStore

logger = logging.getLogger(__name__)

BATCH = 1_000
_CANNOT_LIST = "cannot list the bucket"


class SurveyedStore(ObjectStore, Protocol):
    """What a survey needs of an object store beside objects."""

    @property
    def profile(self) -> StoreProfile: ...
    def set_profile(self, profile: StoreProfile) -> None: ...
    def probe_conditional(self, key: str) -> bool: ...


def prefix_of(carrier: Carrier, address: SendAddress) -> str:
    """What every key of the address begins with."""
    if carrier.default_cloud_path:
        # The one word that is the same in every key.
        template = carrier.default_cloud_path.replace("{system_id}", carrier.system_id)
        return template.strip("/").partition("{")[0]
    parts = [part for part in (carrier.path, address.sub_path) if part]
    return "/".join(parts) + "/" if parts else ""


class Survey:
    """See the module. One worker at a time holds it, between `begin` and `end`."""

    def __init__(self, carrier: Carrier, store: SurveyedStore, journal: Journal) -> None:
        self._carrier = carrier
        self._store = store
        self._journal = journal
        self._lock = threading.Lock()
        self._is_busy = False
        self._done: set[str] = set()
        self._remarks: dict[str, str] = {}
        self._profile_note = f"profile {carrier.endpoint_url or ''} {carrier.bucket_name}"
        self._profile: StoreProfile | None = None  # as it was last looked at
        self._kept = self._journal.note(self._profile_note)
        if self._kept is not None:
            store.set_profile(StoreProfile.from_json(json.loads(self._kept)))
        self._override()

    def _override(self) -> None:
        """The owner's word counts more than what was found."""
        said = self._carrier.store
        profile = self._store.profile.to_json()
        for name, value in (
            ("checksums_proved", said.checksums),
            ("conditional_writes_proved", said.conditional_writes),
            ("multipart", said.multipart),
        ):
            if value is not None:
                profile[name] = value
        self._store.set_profile(StoreProfile.from_json(profile))

    def is_done(self, address: SendAddress) -> bool:
        with self._lock:
            return address.name in self._done

    def begin(self) -> bool:
        """Whether the caller is the one to find out; then it must call `end`."""
        with self._lock:
            if self._is_busy:
                return False
            self._is_busy = True
            return True

    def end(self) -> None:
        with self._lock:
            self._is_busy = False

    def find_out(self, address: SendAddress) -> None:
        """List what is there, and probe what the store does with a key that is taken. Raises: Transient, Blocked."""
        self._list(address)
        if self._carrier.upload.on_rewrite == "suffix" and self._store.profile.conditional_writes_proved is None:
            key = corner_key(self._carrier, "probe")
            honours = self._store.probe_conditional(key)
            logger.info("store surveyed carrier=%s conditional_writes=%s", self._carrier.name, honours)
        self.keep()
        with self._lock:
            self._done.add(address.name)

    def _list(self, address: SendAddress) -> None:
        prefix = prefix_of(self._carrier, address)
        note = f"listed {self._carrier.endpoint_url or ''} {self._carrier.bucket_name} {prefix}"
        if self._journal.note(note) is not None:
            return
        count = 0
        try:
            for batch in _batches(self._store.list(prefix)):
                self._journal.note_foreign(address.name, batch)
                count += len(batch)
        except Blocked as error:
            if error.trouble is not Trouble.FORBIDDEN:
                raise
            # Sending needs no right to list; what is lost is the sight of keys that others took before us.
            logger.warning("cannot list prefix=%s reason=%s", prefix, error)
            with self._lock:
                self._remarks[prefix] = f"{_CANNOT_LIST}: keys that were taken before this journal are not seen"
            return
        logger.info("listed prefix=%s objects=%d", prefix, count)
        self._journal.set_note(note, str(count))

    def keep(self) -> None:
        """Remember the profile when it has changed."""
        profile = self._store.profile
        if profile is self._profile:
            return
        self._profile = profile
        text = json.dumps(profile.to_json(), sort_keys=True)
        with self._lock:
            if text == self._kept:
                return
            self._kept = text
        self._journal.set_note(self._profile_note, text)

    def is_conditional(self) -> bool:
        return self._store.profile.conditional_writes_proved is True

    def remark(self) -> str:
        """What people should know; empty when nothing."""
        with self._lock:
            return "; ".join(sorted(set(self._remarks.values()))) if not self.is_conditional() else ""


def _batches(objects: Iterable[ObjectFacts]) -> Iterator[list[ObjectFacts]]:
    iterator = iter(objects)
    while batch := list(islice(iterator, BATCH)):
        yield batch
