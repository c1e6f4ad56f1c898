"""Imports point downwards, edges stay apart, and each library and clock has one door."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator

import pytest

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "syncagent")

#: What each layer may import of ours. Modules directly in the package stand above these three, below cli.
BELOW = {
    "core": {"core"},
    "edges": {"core"},
    "docks": {"core", "edges", "docks"},
    "workers": {"core", "edges", "docks"},
    # The publisher's side of firmware: the command line's, and no worker's.
    "publish": {"core", "edges", "publish"},
    # A process of its own, and programs of others in it: nobody else may know it.
    "handlers": {"core", "handlers"},
}
#: Edges of one family are one edge in several files, and may know one another: the object store, the journal.
#: May touch the outside: the edges, and the demo, which plays the outside (a store, a camera, a bad link).
OUTSIDE = ("edges", "demo")
FAMILIES = (
    {
        "objects",
        "bucket",
        "multipart",
        "sender",
        "payload",
        "wire",
        "connection",
        "reading",
        "answers",
        "signing",
        "sigv4",
        "dialing",
        "orders",
        "getting",
        "probing",
        "synchrony",
    },
    {"journal", "schema"},
    {"files", "inbox", "removal", "reserve"},
)
#: Every edge may know the clock: it owns the types `Clock` and `Stop`, which constructors are given.
COMMON = {"clock"}
#: Only edges may touch what is outside of this process.
FOREIGN = {"boto3", "botocore", "http", "smbus2", "socket", "sqlite3", "urllib3", "watchdog", "yaml"}
#: Who decides whom to believe: one edge, and the publisher's side, which signs.
TRUST = {"cryptography", "securesystemslib", "tuf"}
TRUSTED = ("edges.trust", "publish")
#: Whose faults with strange pictures must not be the agent's.
PICTURES = {"PIL"}
#: Beside the standard library, core may import these (and tenacity in core/retry.py).
CORE_LIBRARIES = {"attrs", "attr", "cattrs"}
CLOCKS = {"time.sleep", "time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}
#: Ask the C library, whose time may have 32 bits.
NARROW = {"datetime.fromtimestamp", "datetime.utcfromtimestamp", "date.fromtimestamp", "time.gmtime", "time.localtime"}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from a import b` gives both a and a.b.

    `package` is where the module lies: what a relative import begins from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, "base.attribute" or bare name) of everything that is called or read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
            yield node.lineno, f"{name}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


def broken_rules(package: str) -> list[str]:
    """Each breach as "path:line: what"; the folder's own name is the name of the package."""
    top = os.path.basename(package)
    modules: dict[str, str] = {}
    for folder, _, names in os.walk(package):
        for name in (n for n in names if n.endswith(".py")):
            path = os.path.relpath(os.path.join(folder, name), package)
            modules[path[:-3].replace(os.sep, ".").removesuffix(".__init__")] = path
    found = []
    for module, path in sorted(modules.items()):
        with open(os.path.join(package, path), encoding="utf-8") as source:
            tree = ast.parse(source.read(), path)
        is_package = os.path.basename(path) == "__init__.py"
        breaches = _breaches(top, module, tree, set(modules), is_package=is_package)
        found += [f"{path}:{line}: {what}" for line, what in breaches]
    return sorted(set(found))


def _breaches(
    top: str, module: str, tree: ast.AST, modules: set[str], *, is_package: bool
) -> Iterator[tuple[int, str]]:
    layer, _, rest = module.partition(".")
    stem = rest.partition(".")[0]
    package = ".".join(filter(None, [top, module if is_package else module.rpartition(".")[0]]))
    for line, name in imports(tree, package):
        root, _, inner = name.partition(".")
        if root == top:
            their_layer, _, their_rest = inner.partition(".")
            theirs = their_rest.partition(".")[0]
            if not inner or layer in ("cli", "__main__") or their_layer not in {m.partition(".")[0] for m in modules}:
                continue  # the command line may know all; the package itself holds nothing but names
            is_sibling = their_layer == layer and layer in ("edges", "workers")
            is_family = layer == "edges" and (theirs in COMMON or any({stem, theirs} <= family for family in FAMILIES))
            if is_sibling and theirs and theirs != stem and not is_family:
                yield line, f"{layer} import one another: {stem} imports {theirs}"
            elif not is_sibling and not _is_below(layer, their_layer):
                yield line, f"{layer} must not import {their_layer}"
        elif root in FOREIGN and layer not in OUTSIDE:
            yield line, f"only edges import {root}"
        elif root in TRUST and not any(module == each or module.startswith(f"{each}.") for each in TRUSTED):
            yield line, f"only edges.trust and publish import {root}"
        elif root in PICTURES and layer not in ("handlers", "demo"):
            yield line, f"only handlers import {root}"
        elif layer == "core" and not _is_allowed_in_core(root, stem):
            yield line, f"core must not import {root}"
        if name in CLOCKS and module != "edges.clock":
            yield line, f"{name} belongs to edges/clock.py"
    for line, name in uses(tree):
        if name in CLOCKS and module != "edges.clock":
            yield line, f"{name} belongs to edges/clock.py"
        if name in NARROW:
            yield line, f"{name} ends in 2038 on a 32-bit machine: core/moments.py"
        if name == "print" and layer != "cli":
            yield line, "only cli prints"


def _is_below(layer: str, theirs: str) -> bool:
    if layer in BELOW:
        return theirs in BELOW[layer]
    return theirs == layer or (theirs not in ("cli", "demo", "handlers") and (theirs != "publish" or layer == "demo"))


def _is_allowed_in_core(root: str, stem: str) -> bool:
    return root in sys.stdlib_module_names | CORE_LIBRARIES or (root, stem) == ("tenacity", "retry")


def test_imports_point_downwards_and_every_library_has_its_door() -> None:
    assert broken_rules(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "source", "what"),
    [
        ("core/rules.py", "from syncagent.edges import files", "core must not import edges"),
        ("core/rules.py", "def f():\n    import syncagent.workers.upload", "core must not import workers"),
        ("core/rules.py", "import rich", "core must not import rich"),
        ("core/rules.py", "import tenacity", "core must not import tenacity"),
        ("core/rules.py", "import sqlite3", "only edges import sqlite3"),
        ("core/rules.py", "from ..edges import files", "core must not import edges"),
        ("edges/files.py", "from .watch import a", "edges import one another: files imports watch"),
        ("edges/files.py", "from . import watch", "edges import one another: files imports watch"),
        ("edges/journal/__init__.py", "from ..watch import a", "edges import one another: journal imports watch"),
        ("app.py", "from syncagent.cli import main", "app must not import cli"),
        ("supervisor.py", "from .cli import main", "supervisor must not import cli"),
        (
            "edges/files.py",
            "from syncagent.edges.watch import a",
            "edges import one another: files imports watch",
        ),
        (
            "edges/files.py",
            "from syncagent.edges import watch",
            "edges import one another: files imports watch",
        ),
        (
            "edges/objects.py",
            "from syncagent.edges.watch import a",
            "edges import one another: objects imports watch",
        ),
        ("edges/files.py", "from syncagent.workers import upload", "edges must not import workers"),
        (
            "workers/upload.py",
            "from syncagent.workers.prune import a",
            "workers import one another: upload imports prune",
        ),
        ("workers/upload.py", "import syncagent.cli.main", "workers must not import cli"),
        ("workers/upload.py", "from syncagent import app", "workers must not import app"),
        ("workers/upload.py", "from botocore.config import Config", "only edges import botocore"),
        ("cli/main.py", "import boto3", "only edges import boto3"),
        ("app.py", "import socket", "only edges import socket"),
        ("edges/wire.py", "import tuf.api", "only edges.trust and publish import tuf"),
        ("core/keys.py", "import securesystemslib", "only edges.trust and publish import securesystemslib"),
        ("workers/upload.py", "import cryptography", "only edges.trust and publish import cryptography"),
        ("app.py", "import http.server", "only edges import http"),
        ("workers/upload.py", "import time\ntime.sleep(1)", "time.sleep belongs to edges/clock.py"),
        ("workers/upload.py", "from time import time", "time.time belongs to edges/clock.py"),
        (
            "edges/files.py",
            "import datetime\ndatetime.datetime.now()",
            "datetime.now belongs to edges/clock.py",
        ),
        (
            "edges/files.py",
            "from datetime import datetime\ndatetime.fromtimestamp(0)",
            "datetime.fromtimestamp ends in 2038 on a 32-bit machine: core/moments.py",
        ),
        ("edges/files.py", "print('x')", "only cli prints"),
        ("edges/files.py", "from syncagent.handlers import host", "edges must not import handlers"),
        ("app.py", "from syncagent.handlers import host", "app must not import handlers"),
        ("app.py", "from PIL import Image", "only handlers import PIL"),
        ("workers/upload.py", "from syncagent.publish import keys", "workers must not import publish"),
        ("edges/files.py", "import tuf.ngclient", "only edges.trust and publish import tuf"),
        ("app.py", "from syncagent.publish import keys", "app must not import publish"),
        ("publish/keys.py", "from syncagent.workers import upload", "publish must not import workers"),
        ("handlers/host.py", "from syncagent.edges import files", "handlers must not import edges"),
        ("handlers/host.py", "from syncagent.cli import main", "handlers must not import cli"),
        ("handlers/host.py", "import boto3", "only edges import boto3"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: os.PathLike[str], path: str, source: str, what: str) -> None:
    top = _plant(tmp_path, {path: source})
    line = source.count("\n") + 1
    assert broken_rules(top) == [f"{path}:{line}: {what}"]


def test_what_is_allowed_is_not_reported(tmp_path: os.PathLike[str]) -> None:
    top = _plant(
        tmp_path,
        {
            "core/retry.py": "import re\nimport attrs\nimport tenacity\nfrom syncagent.core import keys",
            "edges/clock.py": "import time\nfrom datetime import datetime\ntime.sleep(1)\ndatetime.now()",
            "edges/trust.py": "import tuf\nimport cryptography",
            "publish/signing.py": "import tuf\nfrom syncagent.edges import trust",
            "edges/objects.py": "import boto3\nfrom syncagent.edges import wire, clock",
            "workers/upload.py": "import time\nfrom syncagent.edges.objects import S3Store\ntime.monotonic()",
            "cli/main.py": "from syncagent import app\nfrom syncagent.cli import status\nprint()",
            "app.py": "from syncagent.workers import upload, prune\nfrom syncagent import supervisor",
            "edges/journal/__init__.py": "from .base import a\nfrom . import base\nfrom ..clock import Clock",
            "handlers/host.py": "from PIL import Image\nfrom syncagent.core import keys\nfrom . import sources",
            "handlers/sources.py": "",
            "edges/journal/base.py": "import sqlite3\nfrom .rows import b\nfrom syncagent.edges.journal import rows",
        },
    )
    assert broken_rules(top) == []


def _plant(tmp_path: os.PathLike[str], files: dict[str, str]) -> str:
    """A small package of every layer with these files in it."""
    empty = [
        "core/keys.py",
        "core/rules.py",
        "edges/wire.py",
        "edges/watch.py",
        "workers/upload.py",
        "workers/prune.py",
        "handlers/host.py",
        "publish/keys.py",
    ]
    empty += ["cli/main.py", "cli/status.py", "app.py", "supervisor.py", "__init__.py", "edges/__init__.py"]
    top = os.path.join(tmp_path, "syncagent")
    for path, source in {**dict.fromkeys(empty, ""), **files}.items():
        os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
        with open(os.path.join(top, path), "w", encoding="utf-8") as file:
            file.write(source)
    return top
