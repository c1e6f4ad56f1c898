"""Where a message goes: which addresses take it, and which file it means for each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from syncagent.core.errors import Refused
from syncagent.core.messages import RECEIPT, Message, named_places, receipt_addresses, receipt_name, takers, why_nobody
from syncagent.core.places import Places
from syncagent.core.settings import Carrier, SendAddress, Settings
from syncagent.core.territory import RESERVED as INBOX
from syncagent.core.territory import is_within
from syncagent.docks.naming import check_outside_corner, corner_key
from syncagent.edges import files

#: Of one part of a path: NAME_MAX of Linux.
MOST_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Destination:
    """One address that a message goes to. `path` is the journal's of its file; a receipt, which has none, has a key."""

    address: SendAddress
    path: str
    key: str | None


def roots_of(carrier: Carrier) -> tuple[str, ...]:
    """The directories outside of generated_data that a carrier may send from; links are resolved."""
    return tuple(os.path.realpath(root) for root in carrier.upload.allowed_roots)


class Routing:
    """See the module."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._receipts = receipt_addresses(settings)
        self._polled = frozenset(task.message_type for task in settings.tasks)

    @property
    def types(self) -> frozenset[str]:
        """Message types that somebody takes."""
        sent = {address.message_type for address in (*self._settings.addresses, *self._receipts)}
        return frozenset(sent | self._polled)

    def destinations(self, message: Message) -> Sequence[Destination]:
        """None at all, an empty sequence, when the message only asks for a look at the firmware. Raises: Refused."""
        if message.type == RECEIPT and self._receipts:
            name = f"{RECEIPT}/{receipt_name(message.content)}"
            # A key that is too long is the queue's to judge, as everywhere: it parks.
            return [Destination(each, "", corner_key(each.carrier, name)) for each in self._receipts]
        addresses = takers(self._settings.addresses, message.type)
        if not addresses:
            if message.type in self._polled:
                return ()
            raise Refused(why_nobody(self._settings, message.type))
        if message.content.get("file_name") is None:
            raise Refused("file_name is missing")
        if message.cloud_path is not None:
            check_outside_corner(message.cloud_path, [address.carrier for address in addresses])
        return [Destination(each, self._path_of(message, each), message.cloud_path) for each in addresses]

    def is_there(self, path: str) -> bool:
        """Whether there is a file at the journal's path."""
        located = self._places.locate(path)
        return located is not None and files.is_file(files.look(*located))

    def _path_of(self, message: Message, address: SendAddress) -> str:
        """The journal's path of the file that a message names. Raises: Refused."""
        places = named_places(message, address.carrier.path)
        if any(len(os.fsencode(name)) > MOST_NAME_BYTES for place in places for name in place.split("/")):
            raise Refused(f"no file has a name of more than {MOST_NAME_BYTES} bytes")
        found = [self._resolve(named) for named in places]
        roots = roots_of(address.carrier)
        allowed = [path for path in found if path is not None and self._places.is_open(path, roots)]
        named = message.disk_path or message.file_name
        if not allowed:
            raise Refused(f"{named} lies neither below generated_data nor below a directory of upload.allowed_roots")
        if all(self._leads_out(path, roots) for path in allowed):
            raise Refused(f"{named} is a link that leads out of generated_data and of upload.allowed_roots")
        if any(is_within(self._places.relative_of(path) or "", INBOX) for path in allowed):
            raise Refused(f"{named} lies in the inbox, which is the agent's own")
        there = (path for path in allowed if self.is_there(path))
        return next(there, allowed[0])

    def _resolve(self, named: str) -> str | None:
        if ".." in named.split("/"):
            return None
        absolute = os.path.normpath(os.path.join(self._places.base_dir, named))
        # Links on the way are resolved now; one that is put there later is not followed when the file is opened.
        absolute = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
        return self._places.name_of(absolute)

    def _leads_out(self, path: str, roots: Sequence[str]) -> bool:
        """Whether a link to what may not be sent: it will never be a file, so nobody waits for it."""
        located = self._places.locate(path)
        if located is None or not os.path.islink(os.path.join(*located)):
            return False
        target = self._places.name_of(os.path.realpath(os.path.join(*located)))
        return target is None or not self._places.is_open(target, roots)
