"""Handlers: programs of others that say what is to be sent for a file. They run in one process beside the agent.

Promises: `call` returns what the handler wants sent, durable on the disk, or raises; it takes no longer than its
time-out, holds a bounded piece of its answer, and a stop is noticed within a fraction of a second.
Nothing that a handler does ends or blocks the agent, and its process does not outlive it.
Not promised: protection. A handler runs as the agent's user and may read what that user may.

A `HandlerHost` belongs to one thread. That the file did not change meanwhile is for the caller to see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syncagent.core.errors import HandlerFailed, Transient, Trouble
from syncagent.edges.handling.child import Child, NotStarted, Printed
from syncagent.edges.handling.scratch import (
    Scratch,
    make_durable,
    make_empty,
    name_in,
    opened,
    remove,
    reported,
    sync_directory,
)

#: Each is a row of the journal and an object of the bucket.
MAX_PRODUCTS = 100
#: Until Python runs; not the handler's time. A small board under load takes ten seconds.
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Product:
    """One object to send: its content, and the name of its body in the scratch directory (None: the file itself).

    `content` has no `disk_path` when there is a body: only the handler knew it by that path.
    """

    content: dict[str, object]
    body: str | None


class HandlerHost:
    """The process that handlers run in: started by the first call, and again after it ended."""

    def __init__(self, base_dir: str) -> None:
        self._base_dir = os.path.abspath(base_dir)
        self._child: Child | None = None

    def call(
        self,
        source: str,
        function: str,
        content: Mapping[str, object],
        path: str,
        *,
        scratch: str,
        timeout_s: float,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Product]:
        """What to send for the file `path`; nothing when the handler drops it.

        `scratch` is made empty anew and is the caller's afterwards; it is removed when nothing in it is to be sent.
        Raises: HandlerFailed; Transient(DISK) when a disk is full or no process can be started; Stopping.
        """
        request = {
            "source": source,
            "function": function,
            "content": dict(content),
            "path": os.path.abspath(path),
            "scratch": os.path.abspath(scratch),
        }
        try:
            make_empty(scratch)
            returned = self._ask(request, source, timeout_s, should_stop)
            products = _products(returned, content, path=path, scratch=scratch)
        except BaseException:
            remove(scratch)
            raise
        if all(product.body is None for product in products):
            remove(scratch)
        return products

    def close(self) -> None:
        """End the process, at once."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _ask(
        self, request: Mapping[str, object], source: str, timeout_s: float, should_stop: Callable[[], bool]
    ) -> list[object]:
        """What the handler returned. After any other end than an answer the process is gone."""
        try:
            if self._child is None or self._child.has_ended() or not self._child.is_quiet():
                self.close()
                self._child = Child(self._base_dir)
                self._child.exchange(b"", Printed("-"), timeout_s=START_S, should_stop=should_stop)
            line = json.dumps(request).encode("ascii") + b"\n"
            answer = self._child.exchange(line, Printed(source), timeout_s=timeout_s, should_stop=should_stop)
        except NotStarted as error:
            self.close()
            raise Transient(f"cannot start the process of the handlers: {error}", trouble=Trouble.DISK) from error
        except BaseException:
            self.close()
            raise
        if "disk" in answer:
            raise Transient(f"handler: {answer['disk']}", trouble=Trouble.DISK)
        returned = answer.get("returned")
        if not isinstance(returned, list):
            raise HandlerFailed(f"handler: {answer.get('failed')}")
        return returned


def _products(returned: list[object], content: Mapping[str, object], *, path: str, scratch: str) -> list[Product]:
    """What the handler wants sent, its bodies durable. Raises: HandlerFailed; Transient(DISK)."""
    if len(returned) > MAX_PRODUCTS:
        raise HandlerFailed(f"handler: returned {len(returned)} objects, more than {MAX_PRODUCTS}")
    products = []
    with reported(), opened(scratch) as place:
        for element in returned:
            if not isinstance(element, dict):
                raise HandlerFailed("handler: what came back is not an answer")
            body = _body(element, content, path, place)
            kept = {key: value for key, value in element.items() if body is None or key != "disk_path"}
            products.append(Product(kept, body))
        if any(product.body is not None for product in products):
            os.fsync(place[1])
            sync_directory(os.path.dirname(os.path.abspath(scratch)))
    return products


def _body(returned: Mapping[str, object], sent: Mapping[str, object], path: str, place: Scratch) -> str | None:
    """The name in the scratch directory of the file to send; None for the file that the handler was called with."""
    disk_path = returned.get("disk_path")
    if disk_path is None:
        return None
    if not isinstance(disk_path, str):
        raise HandlerFailed("handler: returned a disk_path that is no text")
    scratch, directory = place
    name = name_in(scratch, disk_path)
    if name:
        # Before it is compared with the file's own: a handler may have given its work the name that it was told.
        why = make_durable(name, directory)
        if not why:
            return name
        if disk_path in (sent.get("disk_path"), path) and why == "is not there":
            return None
    elif disk_path in (sent.get("disk_path"), path, os.path.abspath(path)):
        return None
    else:
        why = "is not directly in its working directory"
    raise HandlerFailed(f'handler: returned the disk_path "{_shortened(disk_path)}", which {why}')


def _shortened(text: str) -> str:
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= 200 else line[:199] + "…"
