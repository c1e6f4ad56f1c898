"""Versions of addresses with a handler: shown to it, and kept as what it made of them.

One pass shows one version, and addresses share the time: one whose handler hangs holds up no other. What a handler
makes lies in the state directory until the store has it; so that a long outage does not fill the card with copies, no
more is made for an address of which AHEAD versions are kept. A handler that fails, or that changes its own file again
and again, parks that file; a bug of ours puts one version off. The others go on.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from syncagent.core.board import Board
from syncagent.core.errors import FileChanged, FileVanished, Refused, SyncagentError, Transient
from syncagent.core.messages import message_of, own_content
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.core.retry import backoff_s
from syncagent.core.settings import MessageFields, SendAddress
from syncagent.docks.naming import content_of, key_beside, naming_of
from syncagent.edges import files
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.handling import HandlerHost, Product
from syncagent.edges.journal import Ask, Journal, Row

logger = logging.getLogger(__name__)

#: Versions of one address that are kept as their handler made them, before they are sent.
AHEAD = 32
#: Of one file that its handler changes, so many rows are parked at once.
MOST_PARKED = 1_000
IDLE_S = 30.0
#: A disk that is away, or a file that cannot be read, is tried again this often.
AWAY_S = 10.0
TIDY_S = 5.0
#: An address that has made AHEAD is looked after this soon, and less and less often while none of them was sent.
SOON_S = 0.1
#: So many changes of a file in a row, each while its handler ran, are the handler's own.
MOST_CHANGES = 3
_REMEDY = "mend the handler or the file, then: syncagent retry PATH"


class Handling:
    """See the module. `on_ready` is called after a version may be sent."""

    name = "handlers"

    def __init__(
        self,
        *,
        addresses: Sequence[SendAddress],
        fields: Mapping[str, MessageFields],
        host: HandlerHost,
        handled_dir: str,
        journal: Journal,
        places: Places,
        clock: Clock,
        board: Board,
        on_ready: Callable[[], None],
        on_look_again: Callable[[str], None],
    ) -> None:
        self._addresses = {address.name: address for address in addresses if address.handler is not None}
        self._fields = fields
        self._host = host
        self._handled_dir = os.path.realpath(handled_dir)
        self._journal = journal
        self._places = places
        self._clock = clock
        self._board = board
        self._on_ready = on_ready
        self._on_look_again = on_look_again
        self._next_tidy = clock.monotonic()
        self._soon_s = SOON_S
        self._kept: Counter[str] = Counter()  # by address: what was made and is still to be sent
        self._spent_s = dict.fromkeys(self._addresses, 0.0)  # of handlers' time, by address
        self._last = ""  # the address that had the last turn
        self._reached_s = 0.0  # what its handler had had by then
        self._waiting: set[str] = set()  # addresses that had versions to show at the last look
        self._changes: dict[tuple[str, str], int] = {}  # address, path -> in a row, while its handler ran

    def pass_once(self, stop: Stop) -> float:
        """Show one version to its handler; seconds until the next."""
        now = self._clock.monotonic()
        if now >= self._next_tidy:
            self._look_after(now)
        row = self._next()
        if row is None:
            return self._next_tidy - now
        began = self._clock.monotonic()
        try:
            self._show(row, stop)
        except SyncagentError:
            raise
        except Exception as error:
            self._put_off(row, error)
        finally:
            self._spent_s[row.address] += self._clock.monotonic() - began
        self._on_ready()
        return 0.0

    def _look_after(self, now: float) -> None:
        """Count what is kept, and say when to do so again."""
        before, self._kept = self._kept, self._tidy()
        is_full = any(count >= AHEAD for count in self._kept.values())
        is_stuck = is_full and self._kept.total() >= before.total()
        self._soon_s = min(2 * self._soon_s, TIDY_S) if is_stuck else SOON_S
        self._next_tidy = now + (self._soon_s if is_full else TIDY_S if self._kept else IDLE_S)

    def _made(self, address: str) -> None:
        """There is one more to keep."""
        self._kept[address] += 1
        wait_s = SOON_S if self._kept[address] >= AHEAD else TIDY_S
        self._next_tidy = min(self._next_tidy, self._clock.monotonic() + wait_s)

    def _next(self) -> Row | None:
        """The oldest version of the address whose handler has had the least time, of those that may make more."""
        free = [name for name in self._addresses if self._kept[name] < AHEAD]
        heads = {name: rows[0] for name in free if (rows := self._journal.unhandled(name, limit=1))}
        # Who comes anew begins beside the others: what it did not use is not saved up, what it took is not forgotten.
        for name in heads.keys() - self._waiting:
            self._spent_s[name] = max(self._spent_s[name], self._reached_s)
        self._waiting = set(heads)
        order = sorted(heads, key=lambda name: (self._spent_s[name], name == self._last, heads[name].id))
        if not order:
            return None
        self._last = order[0]
        self._reached_s = self._spent_s[self._last]
        return heads[self._last]

    def close(self) -> None:
        """End the handlers' process."""
        self._host.close()

    def _put_off(self, row: Row, error: Exception) -> None:
        """A bug met this version: it waits, so that those behind it go on."""
        upload = self._addresses[row.address].carrier.upload
        logger.exception("a bug met this file path=%s", row.path)
        reason = f"handler: {type(error).__name__}: {error}"
        wait_s = backoff_s(row.attempts + 1, least_s=upload.retry_min_s, most_s=upload.retry_max_s)
        self._journal.defer(row, reason=reason, wait_s=wait_s)
        self._board.complain(row.path, "handler", reason, "please report this bug; the log has the details")

    def _show(self, row: Row, stop: Stop) -> None:
        address = self._addresses[row.address]
        located = self._places.locate(row.path)
        if self._changes.get((row.address, row.path), 0) >= MOST_CHANGES:
            self._park_changing(row)
            return
        was_shown = False
        try:
            if located is None:
                raise FileVanished("lies under no root that is allowed any more")
            with files.PinnedFile.open(*located, facts=row.facts, unsettled=row.is_unsettled) as pinned:
                products = self._call(row, address, os.path.join(*located), stop)
                was_shown = True
                pinned.check()
        except FileChanged:
            self._changed(row, located, was_shown=was_shown)
            return
        except FileVanished:
            if located is not None and files.device_of(located[0]) is None:
                self._journal.defer(row, reason="disk: the watched directory is not there", wait_s=AWAY_S)
            else:
                self._journal.finish(row, State.GONE)
            return
        except Transient as error:
            self._journal.defer(row, reason=f"{error.trouble.value}: {error}", wait_s=AWAY_S)
            return
        except Refused as error:
            self._park(row, str(error))
            return
        self._changes.pop((row.address, row.path), None)
        if not products:
            logger.info("dropped by its handler path=%s", row.path)
            self._journal.drop(row)
            return
        try:
            self._keep(row, address, products)
        except Refused as error:
            self._park(row, f"handler: {error}")

    def _changed(self, row: Row, located: tuple[str, str] | None, *, was_shown: bool) -> None:
        """The file is not the recorded version any more; `was_shown`: since its handler was called with it."""
        name = (row.address, row.path)
        if was_shown and located is not None and files.look(*located) is None:
            reason = "handler: the file was removed while the handler ran"
            logger.warning("gone path=%s reason=%s", row.path, reason)
            self._journal.finish(row, State.GONE, reason=reason)
            self._board.complain(row.path, "handler", reason, "let the handler leave its file alone")
            self._changes.pop(name, None)
            return
        if was_shown:
            self._changes[name] = self._changes.get(name, 0) + 1
        self._journal.finish(row, State.SETTLING)
        self._on_look_again(row.path)

    def _park_changing(self, row: Row) -> None:
        """Park the version as it is now, for every message that asks for it: one more call would make another one."""
        del self._changes[row.address, row.path]
        for each in self._journal.unhandled(row.address, limit=MOST_PARKED):
            if each.path == row.path:
                self._park(each, "handler: the file changes while the handler runs")

    def _call(self, row: Row, address: SendAddress, absolute: str, stop: Stop) -> list[Product]:
        assert address.handler is not None and address.handler_function is not None
        content = dict(content_of(row.message)) or own_content(
            row.path, row.facts.mtime_ns, name=f"{row.facts.inode}-{row.facts.mtime_ns}"
        )
        if row.cloud_path is not None:
            content["cloud_path"] = row.cloud_path
        return self._host.call(
            address.handler.source,
            address.handler_function,
            content,
            absolute,
            scratch=self._scratch(row.id),
            timeout_s=address.handler.timeout_s,
            should_stop=stop.is_set,
        )

    def _scratch(self, row_id: int) -> str:
        files.make_directory(self._handled_dir, mode=0o750)
        return os.path.join(self._handled_dir, str(row_id))

    def _keep(self, row: Row, address: SendAddress, products: Sequence[Product]) -> None:
        """Put what the handler made into the journal. Raises: Refused."""
        main, *others = products
        message = message_of({"msg_content": main.content}, address.message_type, has_disk_names=True)
        body = None if main.body is None else f"{row.id}/{main.body}"
        key = message.cloud_path
        if key is None and others:
            fields = self._fields.get(address.message_type, MessageFields())
            key = naming_of(replace(row, said=message.text, is_handled=True), address, self._places, fields).key()
        self._journal.handled(
            row,
            said=message.text,
            said_key=message.cloud_path,
            body=body,
            body_bytes=None if body is None else self._facts_of(body).size_bytes,
            further=[self._further(row, address, other, beside=key or "") for other in others],
        )
        if body is not None or others:
            self._made(row.address)

    def _further(self, row: Row, address: SendAddress, product: Product, *, beside: str) -> tuple[Ask, Facts]:
        message = message_of({"msg_content": product.content}, address.message_type, has_disk_names=True)
        if product.body is None:
            raise Refused("every further object needs a file of its own")
        body = f"{row.id}/{product.body}"
        key = message.cloud_path
        if key is None:
            if message.content.get("file_name") is None:
                raise Refused("every further object needs a file_name")
            key = key_beside(beside, message.file_name)
        return Ask(row.address, f"{self._handled_dir}/{body}", key, message.text), self._facts_of(body)

    def _facts_of(self, body: str) -> Facts:
        status = files.look(self._handled_dir, body)
        if status is None:
            raise Refused(f"{body} is not there any more")
        return files.facts_of(status)

    def _park(self, row: Row, reason: str) -> None:
        logger.warning("parked path=%s reason=%s", row.path, reason)
        self._journal.finish(row, State.PARKED, reason=reason)
        self._board.complain(row.path, "parked", reason, _REMEDY)

    def _tidy(self) -> Counter[str]:
        """Remove what is not needed any more; how many versions of each address are kept still."""
        kept: Counter[str] = Counter()
        for listing in files.scan_directory(self._handled_dir, ""):
            for name in listing.directories:
                directory = f"{self._handled_dir}/{name}"
                address = self._journal.needing_handled(int(name), directory) if name.isdigit() else None
                if address is not None:
                    kept[address] += 1
                    continue
                files.remove_tree(self._handled_dir, name)
                for inner, row_id in self._journal.live_names(directory, after="", limit=100):
                    logger.debug("handled file removed name=%s", inner)
                    self._journal.vanished([row_id])
        return kept
