"""Random things that people and cameras do to files, with events on, off and lossy.

Shows the README's promises of which files reach the bucket, and that no other bytes are seen there. The disk is the
model: after each operation every regular file's bytes are a finished version of its name. In the end the bucket has
the last one of each, and never showed anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncagent.app import App
from syncagent.assembly import Directories
from syncagent.edges.configfiles import identify, load_settings
from syncagent.edges.watch import Hints
from tests.agent import Agent, is_own, journal_rows, regular_files, sent, suffixed, write_file
from tests.servers import VerifyingS3, wait_until

DIRECTORIES = ("", "d", "d/e", "f")
NAMES = ("a.jpg", "b.jpg", "c.tar.gz")
SETTLE_S = 0.1
EXAMPLES = 6
_numbers = itertools.count(1)

#: Larger than what is read into memory at once, too.
SIZES = (0, 1, 700, 3000, 3000, 1_100_000)
PAUSES_S = (0.02, 0.09, 0.11, 0.25)
KINDS = (
    *("create", "create", "create", "create", "append", "rewrite", "rewrite", "rewrite_quietly", "pause", "pause"),
    *("rename", "rename", "link", "symlink", "delete", "touch", "chmod", "move", "move", "mkdir", "rmdir"),
    "remove_tree",
)
#: What, and two numbers that choose among the files and names that there are.
Operation = tuple[str, int, int]
operations = st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99))
scripts = st.lists(operations, min_size=15, max_size=40)


class Disk:
    """Does the operations, and remembers every finished version of every name."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._bytes = random.Random(7)
        self.versions: dict[str, set[bytes]] = {}

    def do(self, name: str, first: int, second: int) -> None:
        """One operation; one that makes no sense here does nothing, as the system would have it."""
        with contextlib.suppress(OSError):
            getattr(self, name)(first, second)
        for relative, content in regular_files(self._agent.data_dir).items():
            self.versions.setdefault(relative, set()).add(content)

    def _name(self, number: int) -> str:
        """A name that may or may not be taken."""
        directory, name = DIRECTORIES[number % len(DIRECTORIES)], NAMES[number // len(DIRECTORIES) % len(NAMES)]
        return self._agent.path(f"{directory}/{name}".lstrip("/"))

    def _file(self, number: int) -> str:
        """One of the files that are there."""
        names = sorted(regular_files(self._agent.data_dir))
        return self._agent.path(names[number % len(names)]) if names else self._name(number)

    def _directory(self, number: int) -> str:
        return self._agent.path(DIRECTORIES[1 + number % (len(DIRECTORIES) - 1)])

    def create(self, first: int, second: int) -> None:
        write_file(self._name(first), self._bytes.randbytes(SIZES[second % len(SIZES)]))

    def append(self, first: int, second: int) -> None:
        with open(self._file(first), "ab") as file:
            file.write(self._bytes.randbytes(1 + second))

    def rewrite(self, first: int, _: int) -> None:
        """Other bytes of the same length in the same inode."""
        with open(self._file(first), "r+b") as file:
            length = os.fstat(file.fileno()).st_size
            file.write(self._bytes.randbytes(length))

    def rewrite_quietly(self, first: int, second: int) -> None:
        """As `exiftool -P` does: other bytes, and the old mtime."""
        path = self._file(first)
        before = os.stat(path)
        self.rewrite(first, second)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def rename(self, first: int, second: int) -> None:
        os.rename(self._file(first), self._name(second))

    def link(self, first: int, second: int) -> None:
        os.link(self._file(first), self._name(second))

    def symlink(self, first: int, second: int) -> None:
        os.symlink(self._file(first), self._name(second))

    def delete(self, first: int, _: int) -> None:
        os.unlink(self._file(first))

    def touch(self, first: int, _: int) -> None:
        os.utime(self._file(first))

    def chmod(self, first: int, _: int) -> None:
        path = self._file(first)
        os.chmod(path, os.stat(path).st_mode ^ 0o004)

    def move(self, first: int, second: int) -> None:
        os.rename(self._directory(first), self._directory(second))

    def mkdir(self, first: int, _: int) -> None:
        os.makedirs(self._directory(first))

    def rmdir(self, first: int, _: int) -> None:
        os.rmdir(self._directory(first))

    def remove_tree(self, first: int, _: int) -> None:
        shutil.rmtree(self._directory(first))

    def pause(self, first: int, _: int) -> None:
        """Long enough, or not quite, for something to be taken for finished."""
        threading.Event().wait(PAUSES_S[first % len(PAUSES_S)])


@contextlib.contextmanager
def signals_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGIO)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run_beside(agent: Agent, work: Callable[[App], None]) -> None:
    """The agent in this process, while `work` happens in a thread beside it."""
    directories = Directories(agent.config_dir, os.path.realpath(agent.base_dir), os.path.realpath(agent.state_dir))
    app = App(load_settings(agent.config_dir, identity=identify), directories)
    errors: list[BaseException] = []

    def beside() -> None:
        try:
            work(app)
        except BaseException as error:
            errors.append(error)
        finally:
            app.stop.set()

    thread = threading.Thread(target=beside)
    with signals_restored():
        thread.start()
        code = app.run()
        thread.join()
    if errors:
        raise errors[0]
    assert code == 0


def expected(agent: Agent, content_of: dict[str, bytes], *, on_rewrite: str) -> dict[str, set[str]]:
    """For every file the keys of which one must have its bytes."""
    keys = {}
    for relative, content in content_of.items():
        key = agent.key(relative)
        keys[relative] = {key} if on_rewrite == "overwrite" else {key, suffixed(key, content)}
    return keys


def prove(store: VerifyingS3, script: list[Operation], *, on_rewrite: str, events: str) -> None:
    """Do the script beside a running agent; then the bucket has the last version of each name and nothing foreign."""
    number = next(_numbers)
    with tempfile.TemporaryDirectory(prefix="operations-") as top:
        agent = Agent(top, system_id=f"p{number}")
        agent.configure(
            store.endpoint_url,
            watch={"settle_s": SETTLE_S, "scan_s": 1, "events": events},
            upload={"on_rewrite": on_rewrite},
        )
        disk = Disk(agent)

        def arrived() -> bool:
            objects, local = sent(store), regular_files(agent.data_dir)
            keys = expected(agent, local, on_rewrite=on_rewrite)
            return all(any(objects.get(key) == local[name] for key in keys[name]) for name in local)

        def at_rest(app: App) -> bool:
            queue = app.status()["queue"]
            return not any(queue[state]["files"] for state in ("settling", "ready", "sending", "waiting"))

        def work(app: App) -> None:
            for operation in script:
                disk.do(*operation)
            wait_until(lambda: arrived() and at_rest(app), deadline_s=30, what=f"all arrived of {script}")
            status = app.status()
            assert not status["queue"]["parked"]["files"], journal_rows(agent.state_dir)
            assert status["healthy"], status["reason"]

        run_beside(agent, work)
        allowed: dict[str, set[str]] = {}
        for relative, versions in disk.versions.items():
            for content in versions:
                for key in (agent.key(relative), suffixed(agent.key(relative), content)):
                    allowed.setdefault(key, set()).add(hashlib.sha256(content).hexdigest())
        for event in store.requests():
            if event.became_visible and event.key.startswith(agent.key("")) and not is_own(event.key):
                assert event.headers["x-amz-meta-syncagent-sha256"] in allowed.get(event.key, ()), event.key


@pytest.fixture(scope="module")
def store() -> Iterator[VerifyingS3]:
    with VerifyingS3() as server:
        yield server


quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
rewrites = st.sampled_from(("suffix", "overwrite"))


@quick
@given(script=scripts, on_rewrite=rewrites)
def test_with_events_the_bucket_gets_the_last_finished_version_of_every_name(
    store: VerifyingS3, script: list[Operation], on_rewrite: str
) -> None:
    prove(store, script, on_rewrite=on_rewrite, events="auto")


@quick
@given(script=scripts, on_rewrite=rewrites)
def test_without_events_the_bucket_gets_the_last_finished_version_of_every_name(
    store: VerifyingS3, script: list[Operation], on_rewrite: str
) -> None:
    prove(store, script, on_rewrite=on_rewrite, events="off")


@quick
@given(script=scripts, on_rewrite=rewrites, seed=st.integers(0, 1000))
def test_with_lost_events_the_bucket_gets_the_last_finished_version_of_every_name(
    store: VerifyingS3, script: list[Operation], on_rewrite: str, seed: int
) -> None:
    luck = random.Random(seed)
    hear = Hints.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hints, "add", lambda hints, path: hear(hints, path) if luck.random() < 0.5 else None)
        prove(store, script, on_rewrite=on_rewrite, events="auto")


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(quick, max_examples=150)
@given(script=scripts, on_rewrite=rewrites, seed=st.integers(0, 1000), events=st.sampled_from(("auto", "off")))
def test_many_scripts_of_operations_leave_the_bucket_with_the_last_finished_versions(
    store: VerifyingS3, script: list[Operation], on_rewrite: str, seed: int, events: str
) -> None:
    luck = random.Random(seed)
    hear = Hints.add
    with pytest.MonkeyPatch.context() as patch:
        if seed % 2:
            patch.setattr(Hints, "add", lambda hints, path: hear(hints, path) if luck.random() < 0.5 else None)
        prove(store, script, on_rewrite=on_rewrite, events=events)
