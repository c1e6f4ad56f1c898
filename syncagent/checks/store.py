"""The checks of one carrier's store, from the name of its host to each single right.

Writes only when told to, and then only the probe object of our own corner, and an upload of it that is dropped again.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

from syncagent.checks import Finding, Verdict
from syncagent.core.errors import Blocked, Refused, SyncagentError, Transient, Trouble, UploadGone
from syncagent.core.model import Part
from syncagent.core.settings import Carrier
from syncagent.docks.naming import corner_key
from syncagent.edges import machine
from syncagent.edges.answers import NotOffered
from syncagent.edges.objects import PutRequest
from syncagent.edges.orders import ObjectStore
from syncagent.edges.payload import BytesBody
from syncagent.edges.probing import PROBE_BYTES, PROBE_DIGEST

#: A clock that is further off than this is wrong. Stores refuse 900 s.
WRONG_S = 60.0
LIFECYCLE = (
    "give the bucket a lifecycle rule AbortIncompleteMultipartUpload of 7 days: uploads of a device that never comes "
    "back are paid for until then"
)
#: What stands at the door of a network answers in the store's place.
_PORTAL = re.compile(r"answers in its place|answered (?:2\d\d|3\d\d|511)\b|but not as a store does")


class CheckedStore(ObjectStore, Protocol):
    """What is needed of a store beside objects."""

    @property
    def skew_s(self) -> float | None: ...
    def reach(self) -> None: ...
    def drops_unfinished_uploads(self, prefix: str) -> bool: ...


def host_of(carrier: Carrier) -> str:
    """The host whose name must be known. Amazon's hosts are found below one name."""
    if carrier.endpoint_url:
        return urlsplit(carrier.endpoint_url).hostname or ""
    region = carrier.region or "us-east-1"
    return f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def check_store(
    carrier: Carrier,
    store: CheckedStore,
    prefix: str,
    *,
    writes: bool,
    sends: bool = True,
    resolve: Callable[[str], str] = machine.resolve,
) -> Iterator[Finding]:
    """Every check, as far as the ones before let it make sense. `sends`: whether anything goes to it, or only comes."""
    name = carrier.name
    host = host_of(carrier)
    why = resolve(host)
    if why:
        remedy = "check the cable or Wi-Fi, and the name server in /etc/resolv.conf; then endpoint_url of the carrier"
        yield Finding(f"{name}: name", Verdict.FAILED, f"no DNS: {host}: {why}", remedy)
        return
    yield Finding(f"{name}: name", Verdict.OK, host)
    try:
        store.reach()
    except SyncagentError as error:
        yield _of_connection(f"{name}: connection", error)
        return
    yield Finding(f"{name}: connection", Verdict.OK, carrier.endpoint_url or f"https://{host}")

    key = corner_key(carrier, "probe")
    listed = _try(lambda: next(iter(store.list(prefix)), None))
    yield from _check_clock(name, store, listed)
    # A right that is missing says by itself that key and bucket are good.
    if isinstance(listed, SyncagentError) and not _is_of_a_right(listed):
        yield _of_answer(f"{name}: answer", listed)
        return
    yield Finding(f"{name}: answer", Verdict.OK, f"the key is known, and the bucket {carrier.bucket_name} is there")
    if not sends:
        return  # its policy allows neither to list nor to write
    yield _right(carrier, "list", "s3:ListBucket", listed, is_needed=False)
    if writes:
        yield from _check_writing(carrier, store, key)
    else:
        what = "what may be written and read is tried with --write only"
        yield Finding(f"{name}: rights", Verdict.SKIPPED, what, "sudo syncagent doctor --write")
    yield from _check_lifecycle(name, store, prefix)


def _try(act: Callable[[], Any]) -> Any:
    """What `act` returns, or the error that it raises."""
    try:
        return act()
    except SyncagentError as error:
        return error


def _check_clock(name: str, store: CheckedStore, outcome: Any) -> Iterator[Finding]:
    skew_s = store.skew_s
    remedy = "sudo timedatectl set-ntp true; without a network that has the time: a clock with a battery"
    if skew_s is not None and abs(skew_s) > WRONG_S:
        where = "behind" if skew_s > 0 else "ahead"
        what = f"this machine's clock is {abs(skew_s):.0f} s {where} the store's"
        yield Finding(f"{name}: clock", Verdict.FAILED, what.replace("ahead the", "ahead of the"), remedy)
    elif isinstance(outcome, Transient) and outcome.trouble is Trouble.CLOCK:
        yield Finding(f"{name}: clock", Verdict.FAILED, str(outcome), remedy)
    elif skew_s is not None:
        yield Finding(f"{name}: clock", Verdict.OK, f"{abs(skew_s):.0f} s from the store's")


def _check_writing(carrier: Carrier, store: CheckedStore, key: str) -> Iterator[Finding]:
    request = PutRequest(key, PROBE_DIGEST, {}, "text/plain")
    put = _try(lambda: store.put(request, BytesBody(PROBE_BYTES)))
    yield _right(carrier, "put", "s3:PutObject", put)
    got = _try(lambda: b"".join(store.read(key)))
    if isinstance(got, bytes) and not isinstance(put, SyncagentError) and got != PROBE_BYTES:
        got = Transient("the store gave back other bytes than it was given", trouble=Trouble.STORE)
    elif isinstance(got, Refused) and isinstance(put, SyncagentError):
        got = None  # nothing is there, and we may be told so
    yield _right(carrier, "get", "s3:GetObject", got)
    if carrier.store.multipart is False:
        return
    begun = _try(lambda: store.create_multipart(key, metadata={}, content_type="text/plain"))
    if isinstance(begun, NotOffered | Refused):
        what = "the store takes no uploads in parts: large files go in one request"
        yield Finding(f"{carrier.name}: uploads in parts", Verdict.WARNING, what)
        return
    # The rights to list and to drop show with an upload that does not exist as well.
    upload_id = begun if isinstance(begun, str) else "0"
    parts = _try(lambda: _listed(store, key, upload_id))
    yield _right(carrier, "list parts", "s3:ListMultipartUploadParts", parts)
    dropped = _try(lambda: store.abort(key, upload_id=upload_id))
    yield _right(carrier, "abort", "s3:AbortMultipartUpload", dropped)


def _listed(store: CheckedStore, key: str, upload_id: str) -> list[Part] | None:
    try:
        return store.list_parts(key, upload_id=upload_id)
    except UploadGone:
        return None


def _right(carrier: Carrier, right: str, action: str, outcome: Any, *, is_needed: bool = True) -> Finding:
    check = f"{carrier.name}: right to {right}"
    if not isinstance(outcome, SyncagentError):
        return Finding(check, Verdict.OK, "granted")
    if not _is_of_a_right(outcome):
        return _of_answer(check, outcome)
    verdict = Verdict.FAILED if is_needed else Verdict.WARNING
    what = str(outcome) if is_needed else f"{outcome}: keys that others took are not seen"
    return Finding(check, verdict, what, f"allow {action} to the key; `syncagent iam-policy` prints the whole policy")


def _is_of_a_right(error: SyncagentError) -> bool:
    return isinstance(error, Blocked) and error.trouble is Trouble.FORBIDDEN


def _check_lifecycle(name: str, store: CheckedStore, prefix: str) -> Iterator[Finding]:
    check = f"{name}: lifecycle"
    found = _try(lambda: store.drops_unfinished_uploads(prefix))
    if found is True:
        yield Finding(check, Verdict.OK, "a rule ends uploads that nobody completes")
    elif found is False:
        yield Finding(check, Verdict.WARNING, "no rule ends uploads that nobody completes", LIFECYCLE)
    elif isinstance(found, NotOffered):
        yield Finding(check, Verdict.SKIPPED, "the store has no such rules")
    else:
        yield Finding(check, Verdict.SKIPPED, f"the bucket's rules cannot be looked at ({found})", LIFECYCLE)


def _of_connection(check: str, error: SyncagentError) -> Finding:
    cause = error.__cause__
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__
    if cause is not None or "TLS" in str(error):
        remedy = (
            "if this network has a page to sign in, do so; else check the clock (timedatectl), the host's name in "
            "endpoint_url, and for an authority of your own AWS_CA_BUNDLE"
        )
        words = str(error)
        return Finding(check, Verdict.FAILED, words if "TLS" in words else f"TLS failure: {words}", remedy)
    if isinstance(error, Transient) and error.trouble is Trouble.CLOCK:
        return Finding(check, Verdict.FAILED, str(error), "sudo timedatectl set-ntp true")
    remedy = "check the link, a firewall, and endpoint_url of the carrier (its port, and http or https)"
    return Finding(check, Verdict.FAILED, str(error), remedy)


def _of_answer(check: str, error: SyncagentError) -> Finding:
    if isinstance(error, Blocked):
        what = {Trouble.CREDENTIALS: "wrong key: ", Trouble.BUCKET: "wrong bucket: "}.get(error.trouble, "")
        return Finding(check, Verdict.FAILED, f"{what}{error}", error.remedy)
    if isinstance(error, Transient) and error.trouble is Trouble.CLOCK:
        return Finding(check, Verdict.FAILED, str(error), "sudo timedatectl set-ntp true")
    if isinstance(error, Transient) and error.trouble is Trouble.STORE and _PORTAL.search(str(error)):
        remedy = "sign in to this network's page with a browser, or ask its owner to let the device through"
        return Finding(check, Verdict.FAILED, f"captive portal: {error}", remedy)
    return Finding(check, Verdict.FAILED, str(error), "try again; if it stays, ask whoever runs the store")
