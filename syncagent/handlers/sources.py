"""Where a handler's function comes from: an installed package, or a file of the base directory.

Promises: the module is loaded once, and a file of the base directory anew when it changed; no link is followed out of
that directory. Everything that is not there or cannot be loaded is a NoHandler with a reason in words.
"""

from __future__ import annotations

import os
import stat
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

GROUP = "syncagent.handlers"
#: Found without the metadata of an installation, too: a source tree has none, an older installation not these.
SHIPPED = ("strip_gps", "thumbnail")

_Stamp = tuple[int, int, int]  # inode, size, mtime in ns


class NoHandler(Exception):
    """There is no such function to call; the text says why."""


class Sources:
    """The modules that were loaded so far. `directory` holds the base directory's own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._installed: dict[str, set[str]] | None = None
        self._loaded: dict[str, object] = {}
        self._files: dict[str, tuple[_Stamp, ModuleType]] = {}

    def function(self, source: str, name: str) -> Callable[[dict[str, object], str], object]:
        """The function `name` of `source`. Raises NoHandler."""
        found = getattr(self._module(source), name, None)
        if not callable(found):
            raise NoHandler(f'"{source}" has no function "{name}"')
        function: Callable[[dict[str, object], str], object] = found
        return function

    def _module(self, source: str) -> object:
        if source not in self._loaded:
            value = self._value(source)
            if not value:
                return self._file(source)
            try:
                # By its value alone: two packages that name the same module mean the same handler.
                self._loaded[source] = EntryPoint(source, value, GROUP).load()
            except BaseException as error:
                raise _unloadable(source, error) from error
        return self._loaded[source]

    def _value(self, source: str) -> str:
        """What the entry point of this name stands for; "" when there is none."""
        if self._installed is None:
            # Read once: on a small board this takes longer than most handlers.
            self._installed = {name: {f"{GROUP}.{name}"} for name in SHIPPED}
            for point in entry_points(group=GROUP):
                self._installed.setdefault(point.name, set()).add(point.value)
        values = sorted(self._installed.get(source, ()))
        if len(values) > 1:
            raise NoHandler(f'more than one installed package has a handler "{source}": {" and ".join(values)}')
        return values[0] if values else ""

    def _file(self, source: str) -> ModuleType:
        name = f"{source}.py"
        path = os.path.join(self._directory, name)
        if not source or "/" in source or source.startswith("."):
            raise NoHandler(f'"{source}" is not the name of a handler')
        try:
            # Not blocking: it may be a FIFO.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoHandler(f'there is no handler "{source}": no package brings it, nor is there a {path}') from None
        except OSError as error:
            why = "is a link" if os.path.islink(path) else error.strerror
            raise NoHandler(f'cannot load "{source}": {path}: {why}') from error
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NoHandler(f'cannot load "{source}": {path} is not a regular file')
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._files.pop(source, None)
            if known is None or known[0] != stamp:
                known = (stamp, _loaded(source, path, file.read()))
        self._files[source] = known
        return known[1]


def _loaded(source: str, path: str, text: bytes) -> ModuleType:
    """A module of these bytes.

    Without the import system: its cache of compiled files knows only whole seconds and would take the version before
    an edit for the one after it, and it would write into the base directory.
    """
    module = ModuleType("syncagent_handler_" + source.replace(".", "_").replace("-", "_"))
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102 - this is what a handler is
    except BaseException as error:
        del sys.modules[module.__name__]
        raise _unloadable(source, error) from error
    return module


def _unloadable(source: str, error: BaseException) -> NoHandler:
    traceback.print_exception(error)
    return NoHandler(f'cannot load "{source}": {type(error).__name__}: {error}')
