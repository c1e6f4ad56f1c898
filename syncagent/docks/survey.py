"""What must be known of a store before a file goes: which keys are taken, whether it guards them, what proves bytes.

One listing per prefix in the life of a journal (of a key that somebody chose: per directory, and only on a store that
does not guard its keys), and one probe per ability of a store, when it first matters; all are
remembered in the journal.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from syncagent.core.constraints import MAX_PUT_BYTES
from syncagent.core.errors import Blocked, JournalBroken, Refused, Trouble
from syncagent.core.model import ObjectFacts
from syncagent.core.proof import StoreProfile
from syncagent.core.settings import Carrier, SendAddress
from syncagent.docks.naming import corner_key, is_in_corner
from syncagent.edges.answers import NotOffered
from syncagent.edges.journal import Journal
from syncagent.edges.objects import ObjectStore

logger = logging.getLogger(__name__)

BATCH = 1_000
#: So many directories of chosen keys are listed one by one; then what they lie below, once and for all.
MAX_DIRECTORIES = 32
_CANNOT_LIST = "cannot list the bucket"


class SurveyedStore(ObjectStore, Protocol):
    """What a survey needs of an object store beside objects."""

    @property
    def profile(self) -> StoreProfile: ...
    def set_profile(self, profile: StoreProfile) -> None: ...
    def probe_conditional(self, key: str) -> bool: ...
    def probe_checksum(self, key: str) -> bool: ...
    def probe_multipart(self, key: str) -> bool: ...


def prefix_of(carrier: Carrier, address: SendAddress) -> str:
    """What every key of the address begins with."""
    if carrier.default_cloud_path:
        # The one word that is the same in every key.
        template = carrier.default_cloud_path.replace("{system_id}", carrier.system_id)
        return template.strip("/").partition("{")[0]
    parts = [part for part in (carrier.path, address.sub_path) if part]
    return "/".join(parts) + "/" if parts else ""


def directories_of(key: str) -> list[str]:
    """What a key lies below, the nearest first, and the whole bucket last."""
    return [key[: at + 1] for at in range(len(key) - 1, -1, -1) if key[at] == "/"] + [""]


class Survey:
    """See the module. One worker at a time holds it, between `begin` and `end`."""

    def __init__(self, carrier: Carrier, store: SurveyedStore, journal: Journal) -> None:
        self._carrier = carrier
        self._store = store
        self._journal = journal
        self._lock = threading.Lock()
        self._is_busy = False
        self._done: set[str] = set()  # addresses whose keys are known
        self._directories: set[str] = set()  # beside their prefixes, what else was listed or may not be
        self._is_proof_probed = False  # in this run, whatever came of it
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
        overridden = StoreProfile.from_json(profile)
        if overridden != self._store.profile:
            self._store.set_profile(overridden)

    def set_carrier(self, carrier: Carrier) -> None:
        """The owner edited what may change in a running agent: what must be known may be more now."""
        with self._lock:
            self._carrier = carrier
            self._done.clear()

    def is_done(self, address: SendAddress, *, by_parts: bool, key: str | None) -> bool:
        """Whether all is known that a file of the address, sent in parts or not, makes necessary.

        `key` is the one that somebody chose for it.
        """
        with self._lock:
            is_listed = address.name in self._done
        return is_listed and not self._lacks_proof(by_parts=by_parts) and self._unlisted(address, key) is None

    def _unlisted(self, address: SendAddress, key: str | None) -> str | None:
        """What to list before something is put at a chosen key; None when that is known, or does not matter."""
        carrier = self._carrier
        if key is None or carrier.upload.on_rewrite == "overwrite" or self.is_conditional():
            return None
        if is_in_corner(carrier, key) or key.startswith(prefix_of(carrier, address)):
            return None
        nearest, *above = directories_of(key)
        with self._lock:
            if not self._directories.isdisjoint((nearest, *above)):
                return None
            # With a directory for each file this would be a request for each file.
            crowded = (
                prefix
                for prefix in above
                if sum(each.startswith(prefix) for each in self._directories) >= MAX_DIRECTORIES
            )
            return next(crowded, nearest)

    def _lacks_proof(self, *, by_parts: bool) -> bool:
        """Whether it matters, and is not known, what the store's answers prove of our bytes."""
        profile = self._store.profile
        if self._is_proof_probed:
            return False
        if profile.etag_is_md5 is None:
            return by_parts  # a part proves nothing while its ETag may be anything; a small file tells by itself
        reads_back = self._carrier.upload.verify == "read_back"
        return not profile.etag_is_md5 and profile.checksums_proved is None and not reads_back

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

    def find_out(self, address: SendAddress, *, by_parts: bool, key: str | None) -> None:
        """List what is there, and probe what the store does. Raises: Transient, Blocked."""
        carrier = self._carrier
        with self._lock:
            is_listed = address.name in self._done
        if not is_listed:
            self._list(address, prefix_of(carrier, address))
            if carrier.upload.on_rewrite == "suffix" and self._store.profile.conditional_writes_proved is None:
                self._probe("conditional writes", self._store.probe_conditional)
        if self._lacks_proof(by_parts=by_parts):
            self._probe("checksums", self._store.probe_checksum)
            self._is_proof_probed = True
            self._override()
        self.keep()
        prefix = self._unlisted(address, key)
        if prefix is not None and key is not None:
            above = (each for each in directories_of(key) if self._journal.note(self._note_of(each)) is not None)
            prefix = next(above, prefix)  # an earlier run may have seen it
            self._list(address, prefix)
            with self._lock:
                self._directories.add(prefix)
        with self._lock:
            if self._carrier is carrier:
                self._done.add(address.name)

    def _probe(self, what: str, probe: Callable[[str], bool]) -> None:
        try:
            found = probe(corner_key(self._carrier, "probe"))
        except Refused as error:
            # Our own key, not the file's: the file goes. Nothing was learnt, so that the next run asks again.
            logger.warning("cannot probe %s carrier=%s reason=%s", what, self._carrier.name, error)
        else:
            logger.info("probed %s carrier=%s found=%s", what, self._carrier.name, found)

    def _note_of(self, prefix: str) -> str:
        return f"listed {self._carrier.endpoint_url or ''} {self._carrier.bucket_name} {prefix}"

    def _list(self, address: SendAddress, prefix: str) -> None:
        note = self._note_of(prefix)
        if self._journal.note(note) is not None:
            return
        count = 0
        try:
            for batch in _batches(self._store.list(prefix)):
                self._note_foreign(address, batch)
                count += len(batch)
        except (Blocked, Refused, NotOffered) as error:
            if isinstance(error, Blocked) and error.trouble is not Trouble.FORBIDDEN:
                raise
            # Sending needs no right to list; what is lost is the sight of keys that others took before us.
            logger.warning("cannot list prefix=%s reason=%s", prefix, error)
            with self._lock:
                self._remarks[prefix] = f"{_CANNOT_LIST}: keys that were taken before this journal are not seen"
            return
        logger.info("listed prefix=%s objects=%d", prefix, count)
        self._remember(note, str(count))

    def _note_foreign(self, address: SendAddress, objects: list[ObjectFacts]) -> None:
        try:
            self._journal.note_foreign(address.name, objects)
        except JournalBroken:
            if not self.is_conditional():
                raise  # nothing else keeps us from these keys

    def _remember(self, note: str, value: str) -> None:
        """For the next run. A journal that is full must not hold up what makes room: then it is found out anew."""
        try:
            self._journal.set_note(note, value)
        except JournalBroken as error:
            logger.warning("not remembered note=%s reason=%s", note, error)

    def has_multipart(self, size_bytes: int) -> bool:
        """Whether to send a file of that size in parts: unless the store is known to take none.

        One that is too large for a single request is reason enough to ask again.
        """
        said = self._carrier.store.multipart
        return said if said is not None else self._store.profile.multipart is not False or size_bytes > MAX_PUT_BYTES

    def offers_multipart(self, refusal: BaseException | None) -> bool:
        """Whether the store takes uploads in parts, after it refused to begin one: with our own key, it tells."""
        said = self._carrier.store.multipart
        if said is not None:
            return said
        if self._store.profile.multipart is not True or isinstance(refusal, NotOffered):
            self._probe("uploads in parts", self._store.probe_multipart)
            self.keep()
        return self._store.profile.multipart is not False

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
        self._remember(self._profile_note, text)

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
