"""The ear: the inotify watches of one root, and the thread that turns their events into hints.

It stands on watchdog's `InotifyFD` (one thread, asleep in poll), not on its Observer: that one keeps an
unbounded queue between two more threads, swallows "no watch left" below the root and tells no handler of lost
events. An ear that went deaf is not mended but replaced: `fault` says when.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from syncagent.edges.watch.hints import Hints

logger = logging.getLogger(__name__)

_IN = InotifyConstants
# What rings. Not MODIFY: a writer's close says it once, so a busy writer costs nothing. Not ATTRIB: the scan
# sees a `chmod -R`, which would ring for every file. CREATE is for hard links and for files never closed.
_RINGING = Mask(_IN.IN_CLOSE_WRITE | _IN.IN_CREATE | _IN.IN_DELETE | _IN.IN_MOVE)
# EXCL_UNLINK: a deleted file that is still written to has no name that anyone could want.
_DIRECTORY_MASK = Mask(_RINGING | _IN.IN_ONLYDIR | _IN.IN_DONT_FOLLOW | _IN.IN_EXCL_UNLINK)
# The root may be a link: its owner chose it. Nothing below it is followed.
_ROOT_MASK = Mask((_DIRECTORY_MASK & ~_IN.IN_DONT_FOLLOW) | _IN.IN_MOVE_SELF)

Identity = tuple[int, int]  # device and inode

NO_WATCH_LEFT = "no inotify watch left; raise fs.inotify.max_user_watches (sysctl, /etc/sysctl.d)"
_REMEDIES = {
    errno.ENOSPC: NO_WATCH_LEFT,
    errno.EMFILE: "no inotify instance left; raise fs.inotify.max_user_instances, or the limit of open files",
    errno.EACCES: "no permission to read the directory; let the agent's user read and enter it",
}


@dataclass(slots=True, eq=False)
class _Directory:
    """One watched directory. Its path never changes: a renamed one is forgotten and watched anew."""

    wd: WatchDescriptor
    path: bytes
    parent: _Directory | None
    name: bytes
    callback_id: CallbackId
    children: dict[bytes, _Directory] | None = None  # most have none


class Ear:
    """The watches of one root. Once `open` returned, only the reader's thread changes them."""

    def __init__(
        self,
        root: str,
        hints: Hints,
        *,
        identity: Identity,
        never: frozenset[bytes],
    ) -> None:
        self.identity = identity
        self.overflows = 0
        self.unheard = 0  # directories for which there was no watch left
        self._root = os.fsencode(root)
        self._hints = hints
        self._never = never
        self._fault = ""
        self._silent = False
        self._directories: dict[WatchDescriptor, _Directory] = {}
        self._unheard_example = b""
        self._last_id = 0
        self._reader: _Reader | None = None

    @property
    def watches(self) -> int:
        return len(self._directories)

    def open(self) -> None:
        """Sets the watches, then starts to read. Raises OSError when the root itself cannot be watched."""
        self._reader = _Reader(self)
        try:
            self._watch_tree(None, self._root)
            self._reader.start()
        except BaseException:
            self._reader.discard()
            raise

    def fault(self) -> str:
        """Why nothing more will be heard from here, in words; empty while all is well."""
        if self._fault:
            return self._fault
        if self._reader is None or not self._reader.is_alive():
            crash = self._reader.crash if self._reader else None
            return f"the watching thread ended{f' ({type(crash).__name__})' if crash else ''}"
        return ""

    def could_hear_more(self) -> bool:
        """Whether a directory that found no watch left would find one now."""
        try:
            probe = _Reader(self)
        except OSError:
            return False
        try:
            return probe.watch(self._unheard_example, _DIRECTORY_MASK, CallbackId(0)) is not None
        except OSError as error:
            return error.errno != errno.ENOSPC
        finally:
            probe.discard()

    def silence(self) -> None:
        self._silent = True
        if self._reader is not None:
            self._reader.stop()

    def leave(self, deadline_s: float) -> bool:
        if self._reader is None:
            return True
        self._reader.join(deadline_s)
        return not self._reader.is_alive()

    # ---- called by the reader's thread; must not raise, because that would end it

    def on_event(self, event: InotifyEvent) -> None:
        try:
            self._hear(event)
        except Exception as error:
            logger.exception("doorbell failed on an event")
            self._fault = f"an event could not be handled ({type(error).__name__})"

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        if self._silent:
            return
        directory = self._directories.get(wd)
        if directory is not None:
            self._forget(directory)
            if directory.parent is None:
                self._fault = "the directory was deleted or unmounted"

    def on_queue_overflow(self) -> None:
        self.overflows += 1
        # Directories made meanwhile have no watch: a new ear finds them, the scan finds what is in them.
        self._fault = "the kernel dropped events, its queue was full (fs.inotify.max_queued_events)"
        self._hints.suspect(os.fsdecode(self._root), self._fault)

    def _hear(self, event: InotifyEvent) -> None:
        directory = self._directories.get(event.wd)
        if directory is None or self._silent:
            return
        if event.mask & _IN.IN_UNMOUNT:
            self._fault = "a file system was unmounted"
        elif event.mask & _IN.IN_MOVE_SELF:
            if directory.parent is None:
                self._fault = "the directory was moved away"
        elif event.name and event.mask & _RINGING:
            if event.mask & _IN.IN_ISDIR:
                if event.mask & (_IN.IN_MOVED_FROM | _IN.IN_DELETE):
                    self._unwatch_tree(directory, event.name)
                else:
                    self._watch_tree(directory, event.name)
            # After the watch stands: the scan of a new directory sees what came before, events tell the rest.
            self._hints.add(os.fsdecode(os.path.join(directory.path, event.name)))

    # ---- the tree

    def _watch_tree(self, parent: _Directory | None, name: bytes) -> None:
        """Watches a directory and all below, parents first: what is made meanwhile rings at its parent."""
        waiting = [(parent, name)]
        while waiting and not self._silent:
            parent, name = waiting.pop()
            directory = self._watch(parent, name)
            if directory is None:
                continue
            try:
                with os.scandir(directory.path) as entries:
                    waiting += [(directory, one.name) for one in entries if one.is_dir(follow_symlinks=False)]
            except OSError as error:
                logger.debug("doorbell cannot look into a directory errno=%s", error.errno)

    def _watch(self, parent: _Directory | None, name: bytes) -> _Directory | None:
        assert self._reader is not None
        path = os.path.join(parent.path, name) if parent else name
        if path in self._never:
            return None
        self._last_id += 1
        callback_id = CallbackId(self._last_id)
        try:
            wd = self._reader.watch(path, _DIRECTORY_MASK if parent else _ROOT_MASK, callback_id)
        except OSError as error:
            if parent is None:
                raise
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                self.unheard += 1
                self._unheard_example = path
            return None  # vanished, or replaced by something else: its event is on the way
        if wd is None:
            if parent is None:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return None  # not ours to read: the scan, which cannot read it either, says so
        if (known := self._directories.get(wd)) is not None:
            if known.parent is None:
                return None  # the root, bound into itself
            # Moved while the walk went on: met under its old name and now again under its new one.
            self._forget(known)
            self._reader.remove_callbacks([(wd, known.callback_id)])
        directory = _Directory(wd, path, parent, name, callback_id)
        self._directories[wd] = directory
        if parent is not None:
            if parent.children is None:
                parent.children = {}
            parent.children[name] = directory
        return directory

    def _unwatch_tree(self, parent: _Directory, name: bytes) -> None:
        """Forgets a directory that left its place; if it went to another one of ours, that one rings."""
        assert self._reader is not None
        top = (parent.children or {}).get(name)
        leaving = [top] if top else []
        for directory in leaving:
            leaving += (directory.children or {}).values()
        for directory in leaving:
            self._forget(directory)
        self._reader.remove_callbacks([(directory.wd, directory.callback_id) for directory in leaving])

    def _forget(self, directory: _Directory) -> None:
        self._directories.pop(directory.wd, None)
        siblings = directory.parent.children if directory.parent else None
        if siblings and siblings.get(directory.name) is directory:
            del siblings[directory.name]


class _Reader(InotifyFD):
    """watchdog's inotify thread, made to keep what ended it and to give its descriptors back exactly once.

    As it comes, it leaks them when it is stopped before its thread has run, and hands out watch -1 on EACCES.
    """

    def __init__(self, ear: Ear) -> None:
        super().__init__()
        self.name = "doorbell"
        self.crash: Exception | None = None
        self._ear = ear

    def watch(self, path: bytes, mask: Mask, callback_id: CallbackId) -> WatchDescriptor | None:
        """None: this directory is not ours to read."""
        wd = self.add_callback(path, mask, self._ear, callback_id)
        if wd == -1:
            self.remove_callbacks([(wd, callback_id)])
            return None
        return wd

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            logger.exception("doorbell crashed")
            self.crash = error
        finally:
            self._give_back()

    def discard(self) -> None:
        """For one whose thread was never started."""
        self._give_back()

    def _close_resources(self) -> None:
        """Not here: the end of `run` is the one place, whoever asks first."""

    def _give_back(self) -> None:
        with self._lock:
            self._closed = True  # a later stop() must not touch descriptors that may be another's by then
        super()._close_resources()


def explain(error: Exception) -> str:
    """Words and remedy for a root that could not be watched at all."""
    words = _REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    return words or f"events cannot be had ({error})"
