"""The doorbell on a real kernel: what rings, what makes it deaf, and that it hears again."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

import syncagent
from syncagent.edges.watch import Doorbell, DoorbellFacts, Hints

DEADLINE_S = 20.0


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, f"never happened: {what}"
        pause.wait(0.005)


class Clock:
    """Monotonic time that a test moves, so that no backoff is waited for."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Heard(Hints):
    """Hints that are gathered as they are taken, as the intake would."""

    def __init__(self, limit: int = 20_000) -> None:
        super().__init__(limit)
        self.paths: set[str] = set()
        self.suspects: dict[str, str] = {}

    def gather(self) -> Heard:
        paths, suspects = self.take()
        self.paths |= paths
        self.suspects |= suspects
        return self

    def clear(self) -> None:
        self.take()
        self.paths, self.suspects = set(), {}

    def expect(self, *paths: str | Path) -> None:
        wanted = {os.fspath(path) for path in paths}
        wait_until(lambda: wanted <= self.gather().paths, f"hints for {wanted - self.paths}")


class Bench:
    """A doorbell at a root, its hints and its clock."""

    def __init__(self, root: Path, *others: Path, hints: Heard | None = None, events: bool = True) -> None:
        self.root = root
        self.hints = hints or Heard()
        self.clock = Clock()
        roots = [os.fspath(one) for one in (root, *others)]
        self.bell = Doorbell(roots, self.hints, events=events, monotonic=self.clock)

    def check_later(self, after_s: float) -> DoorbellFacts:
        self.clock.now_s += after_s
        return self.bell.check()

    def check_until(self, is_so: Callable[[DoorbellFacts], bool], *, each_s: float = 0.0) -> DoorbellFacts:
        last: list[DoorbellFacts] = []

        def look() -> bool:
            last.append(self.check_later(each_s))
            return is_so(last[-1])

        wait_until(look, f"facts as wanted, last {last[-1:]}")
        return last[-1]

    def expect_hearing(self) -> None:
        """Proves with a file, not with the facts, that events arrive."""
        self.hints.clear()
        (self.root / "proof").write_bytes(b"x")
        self.hints.expect(self.root / "proof")


@contextmanager
def ringing(root: Path, *others: Path, hints: Heard | None = None, events: bool = True) -> Iterator[Bench]:
    bench = Bench(root, *others, hints=hints, events=events)
    bench.bell.open()
    try:
        yield bench
    finally:
        bench.bell.close(5.0)
        assert not [one for one in threading.enumerate() if one.name == "doorbell"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def bench(root: Path) -> Iterator[Bench]:
    with ringing(root) as made:
        assert set(made.hints.gather().suspects) == {os.fspath(root)}
        made.hints.clear()
        yield made


# ---- what rings


def test_opening_asks_for_a_scan_because_what_came_before_was_not_heard(root: Path) -> None:
    with ringing(root) as bench:
        assert bench.hints.gather().suspects == {os.fspath(root): "watching begins"}
        facts = bench.bell.check()
        assert facts == DoorbellFacts(ok=True, state="events", reason="", watches=1, overflows=0, restarts=0)


def test_a_file_written_renamed_in_linked_in_and_removed_rings_each_time(bench: Bench, tmp_path: Path) -> None:
    file, link = bench.root / "file", bench.root / "link"
    file.write_bytes(b"x")
    bench.hints.expect(file)
    bench.hints.clear()
    os.link(file, link)
    bench.hints.expect(link)
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    outside.rename(bench.root / "came")
    bench.hints.expect(bench.root / "came")
    bench.hints.clear()
    file.unlink()
    (bench.root / "came").rename(outside)
    bench.hints.expect(file, bench.root / "came")


def test_an_append_rings_when_its_writer_closes_and_not_before(bench: Bench) -> None:
    file = bench.root / "log"
    file.write_bytes(b"x")
    bench.hints.expect(file)
    with file.open("ab", buffering=0) as writer:
        (bench.root / "before").write_bytes(b"x")
        bench.hints.expect(bench.root / "before")
        bench.hints.clear()
        for _ in range(1000):
            writer.write(b"x")
        (bench.root / "between").write_bytes(b"x")
        bench.hints.expect(bench.root / "between")  # the kernel keeps the order: nothing of `log` came before it
        assert os.fspath(file) not in bench.hints.paths
    bench.hints.expect(file)


def test_a_chmod_does_not_ring(bench: Bench) -> None:
    file = bench.root / "file"
    file.write_bytes(b"x")
    (bench.root / "first").write_bytes(b"x")
    bench.hints.expect(file, bench.root / "first")
    bench.hints.clear()
    file.chmod(0o600)
    (bench.root / "next").write_bytes(b"x")
    bench.hints.expect(bench.root / "next")
    assert os.fspath(file) not in bench.hints.paths


def test_a_name_that_is_not_utf8_arrives_as_the_string_that_opens_it(bench: Bench) -> None:
    directory = os.path.join(os.fsencode(bench.root), b"d\xff\xfe")
    os.mkdir(directory)
    bench.hints.expect(os.fsdecode(directory))
    path = os.path.join(directory, b"caf\xe9")
    with open(path, "wb"):
        pass
    bench.hints.expect(os.fsdecode(path))


def test_files_in_directories_made_a_moment_ago_are_all_covered(bench: Bench) -> None:
    """A file is covered when it rang itself, or a directory above it rang when the file was there."""
    expected = set()
    for number in range(200):
        directory = bench.root / f"d{number}" / "e" / "f"
        directory.mkdir(parents=True)
        for name in ("1", "2", "3"):
            (directory / name).write_bytes(b"x")
            expected.add(os.fspath(directory / name))
    covered: set[str] = set()

    def all_covered() -> bool:
        for hint in bench.hints.take()[0]:
            covered.add(hint)
            covered.update(os.path.join(at, file) for at, _, files in os.walk(hint) for file in files)
        return expected <= covered

    wait_until(all_covered, "every file covered")
    assert bench.bell.check().watches == 601
    late = bench.root / "d7" / "e" / "f" / "late"
    late.write_bytes(b"x")
    bench.hints.expect(late)


def test_a_directory_moved_in_or_renamed_rings_and_is_heard_under_its_new_name(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside").rename(bench.root / "came")
    bench.hints.expect(bench.root / "came")
    (bench.root / "came" / "deep" / "1").write_bytes(b"x")
    bench.hints.expect(bench.root / "came" / "deep" / "1")

    (bench.root / "other").mkdir()
    bench.hints.expect(bench.root / "other")  # heard from now on: what is moved into it rings by itself
    (bench.root / "came").rename(bench.root / "other" / "moved")
    bench.hints.expect(bench.root / "came", bench.root / "other" / "moved")
    bench.hints.clear()
    (bench.root / "other" / "moved" / "deep" / "2").write_bytes(b"x")
    bench.hints.expect(bench.root / "other" / "moved" / "deep" / "2")
    assert not any(path.startswith(os.fspath(bench.root / "came")) for path in bench.hints.paths)
    assert bench.bell.check().watches == 4


def test_a_directory_moved_out_is_no_longer_heard_and_costs_no_watch(bench: Bench, tmp_path: Path) -> None:
    (bench.root / "d" / "deep").mkdir(parents=True)
    bench.hints.expect(bench.root / "d")
    wait_until(lambda: bench.bell.check().watches == 3, "both watched")
    (bench.root / "d").rename(tmp_path / "gone")
    wait_until(lambda: bench.bell.check().watches == 1, "both forgotten")
    bench.hints.clear()
    (tmp_path / "gone" / "deep" / "file").write_bytes(b"x")
    (bench.root / "last").write_bytes(b"x")
    bench.hints.expect(bench.root / "last")
    assert not any(path.endswith("file") for path in bench.hints.paths)


def test_a_directory_that_came_into_a_new_one_before_it_was_heard_is_heard_there(bench: Bench) -> None:
    """Whether the walk of the new directory or its event is first, each file below has a hint at or above it."""
    (bench.root / "d" / "deep").mkdir(parents=True)
    for number in range(200):
        new = bench.root / f"new{number}"
        old = bench.root / "d" if number == 0 else bench.root / f"new{number - 1}" / "d"
        new.mkdir()
        old.rename(new / "d")
        file = new / "d" / "deep" / f"file{number}"
        file.write_bytes(b"x")
        above = {os.fspath(one) for one in (file, *file.parents) if one.is_relative_to(bench.root / new.name)}
        wait_until(lambda above=above: bool(above & bench.hints.gather().paths), f"a hint for {file}")  # type: ignore[misc]
        bench.hints.clear()
    (bench.root / "all-moved").touch()
    bench.hints.expect(bench.root / "all-moved")  # the kernel keeps the order: no move is still to be heard of
    last = bench.root / "new199" / "d" / "deep" / "last"
    last.write_bytes(b"x")
    bench.hints.expect(last)
    wait_until(lambda: bench.bell.check().watches == 203, "as many watches as directories")


def test_a_thousand_renames_of_a_directory_neither_lose_nor_hoard_watches(bench: Bench) -> None:
    (bench.root / "a0" / "b").mkdir(parents=True)
    for number in range(1000):
        (bench.root / f"a{number}").rename(bench.root / f"a{number + 1}")
    last = bench.root / "a1000" / "b" / "file"
    bench.hints.expect(bench.root / "a1000")
    last.write_bytes(b"x")
    bench.hints.expect(last)
    wait_until(lambda: bench.bell.check().watches == 3, "three watches")


def test_a_link_to_a_directory_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bench.root / "link").symlink_to(tmp_path / "elsewhere")
    bench.hints.expect(bench.root / "link")
    assert bench.bell.check().watches == 1


def test_only_directories_are_watched(root: Path) -> None:
    for number in range(20):
        (root / f"d{number}").mkdir()
        for name in range(50):
            (root / f"d{number}" / str(name)).touch()
    with ringing(root) as bench:
        assert bench.bell.check().watches == 21


def test_a_root_in_a_root_rings_once_and_a_directory_never_to_be_heard_does_not(root: Path) -> None:
    (root / "inner").mkdir()
    (root / "state").mkdir()
    hints = Heard()
    names = [os.fspath(root / "inner"), os.fspath(root)]
    bell = Doorbell(names, hints, never=[os.fspath(root / "state")])
    bell.open()
    try:
        assert bell.check().watches == 2
        assert set(hints.gather().suspects) == {os.fspath(root)}
        (root / "state" / "journal").write_bytes(b"x")
        (root / "inner" / "file").write_bytes(b"x")
        hints.expect(root / "inner" / "file")
        assert os.fspath(root / "state" / "journal") not in hints.paths
    finally:
        bell.close(5.0)


def test_more_changes_than_the_set_holds_ask_for_one_rescan(root: Path) -> None:
    with ringing(root, hints=Heard(limit=50)) as bench:
        bench.hints.clear()
        for number in range(200):
            (root / str(number)).touch()
        wait_until(lambda: os.fspath(root) in bench.hints.gather().suspects, "a rescan")


# ---- what makes it deaf


class Gate(Heard):
    """Holds back the thread that reads events, so that the kernel's queue runs full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = threading.Event()
        self.is_open.set()
        self.held = threading.Event()

    def add(self, path: str) -> None:
        if not self.is_open.is_set():
            self.held.set()
            assert self.is_open.wait(DEADLINE_S)
        super().add(path)


def test_events_lost_by_the_kernel_ask_for_a_rescan_and_a_new_watcher_hears_what_was_made_meanwhile(
    root: Path,
) -> None:
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    hints = Gate()
    with ringing(root, hints=hints) as bench:
        hints.clear()
        hints.is_open.clear()
        (root / "first").touch()
        assert hints.held.wait(DEADLINE_S)
        one, two = os.fspath(root / "one"), os.fspath(root / "two")
        (root / "one").touch()
        for _ in range(room // 4 + 1000):  # each rename is two events, and one buffer is already read
            os.rename(one, two)
            os.rename(two, one)
        (root / "made-meanwhile").mkdir()  # its event is lost
        hints.is_open.set()
        facts = bench.check_until(lambda facts: facts.overflows == 1)
        assert "dropped events" in hints.gather().suspects[os.fspath(root)]
        facts = bench.check_later(5.0)
        assert (facts.ok, facts.state, facts.restarts) == (True, "events", 1)
        assert "max_queued_events" in facts.reason
        (root / "made-meanwhile" / "file").write_bytes(b"x")
        hints.expect(root / "made-meanwhile" / "file")
        assert bench.check_later(601.0).reason == ""


@pytest.mark.parametrize("how", ["deleted", "moved away", "replaced", "parent moved"])
def test_a_root_that_leaves_is_missed_and_heard_again_when_it_is_back(tmp_path: Path, how: str) -> None:
    root = tmp_path / "parent" / "root"
    root.mkdir(parents=True)
    with ringing(root) as bench:
        bench.expect_hearing()
        bench.hints.clear()
        if how == "deleted":
            shutil.rmtree(root)
        elif how == "parent moved":
            (tmp_path / "parent").rename(tmp_path / "elsewhere")
        else:
            root.rename(tmp_path / "parent" / "away")
        if how != "replaced":
            facts = bench.check_later(1.0)
            assert (facts.ok, facts.state) == (False, "missing")
            assert str(root) in facts.reason
            assert os.fspath(root) in bench.hints.gather().suspects
        root.mkdir(parents=True)
        bench.hints.clear()
        facts = bench.check_until(lambda facts: facts.restarts == 1, each_s=5.0)
        assert (facts.ok, facts.state, facts.watches) == (True, "events", 1)
        assert os.fspath(root) in bench.hints.gather().suspects
        bench.expect_hearing()


def test_a_root_deleted_and_made_again_between_two_checks_is_noticed_even_under_the_same_inode(
    root: Path,
) -> None:
    with ringing(root) as bench:
        for _ in range(5):
            before = bench.bell.check().restarts
            shutil.rmtree(root)
            root.mkdir()
            bench.check_until(lambda facts, before=before: facts.restarts == before + 1, each_s=60.0)  # type: ignore[misc]
            bench.expect_hearing()


def test_a_root_that_is_not_there_at_the_start_is_heard_as_soon_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "late"
    with ringing(root) as bench:
        assert bench.bell.check().state == "missing"
        root.mkdir()
        assert bench.bell.check().state == "events"
        assert os.fspath(root) in bench.hints.gather().suspects
        bench.expect_hearing()


def test_a_missing_root_does_not_silence_another(tmp_path: Path, root: Path) -> None:
    with ringing(root, tmp_path / "missing") as bench:
        assert bench.bell.check().state == "missing"
        bench.expect_hearing()


class Broken(Heard):
    fails = True

    def add(self, path: str) -> None:
        if self.fails:
            self.fails = False
            raise ValueError("broken on purpose")
        super().add(path)


def test_an_exception_while_handling_an_event_is_repaired_by_a_rescan_and_a_new_watcher(root: Path) -> None:
    with ringing(root, hints=Broken()) as bench:
        bench.hints.clear()
        (root / "file").touch()
        facts = bench.check_until(lambda facts: facts.restarts == 1, each_s=5.0)
        assert facts.ok
        assert "ValueError" in facts.reason
        assert "ValueError" in bench.hints.gather().suspects[os.fspath(root)]
        bench.expect_hearing()


def throw_into_the_watching_thread(error: type[BaseException], root: Path, name: str) -> threading.Thread:
    """Makes the next thing that the thread does raise."""
    (thread,) = (one for one in threading.enumerate() if one.name == "doorbell")
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))
    (root / name).touch()
    return thread


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is killed on purpose
@pytest.mark.parametrize("error", [SystemExit, MemoryError])
def test_a_watching_thread_that_died_is_noticed_and_replaced(root: Path, error: type[BaseException]) -> None:
    with ringing(root) as bench:
        bench.expect_hearing()
        bench.hints.clear()
        thread = throw_into_the_watching_thread(error, root, "last-words")
        facts = bench.check_until(lambda facts: facts.restarts == 1, each_s=5.0)
        assert not thread.is_alive()
        assert facts.ok
        assert "thread ended" in facts.reason or error.__name__ in facts.reason
        assert os.fspath(root) in bench.hints.gather().suspects
        bench.expect_hearing()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # they are killed on purpose
def test_watchers_that_keep_failing_are_built_ever_further_apart(root: Path) -> None:
    with ringing(root) as bench:
        built_at: list[float] = []
        restarts = 0
        while len(built_at) < 6:
            if bench.bell.check().watches:
                name = f"file-{bench.clock.now_s}"
                throw_into_the_watching_thread(SystemExit, root, name).join(DEADLINE_S)
            facts = bench.check_later(1.0)
            if facts.restarts > restarts:
                restarts = facts.restarts
                built_at.append(bench.clock.now_s)
        gaps = [later - earlier for earlier, later in pairwise(built_at)]
        assert min(built_at[0] - 1000.0, *gaps) >= 5.0
        assert gaps == sorted(gaps)
        assert gaps[-1] == 60.0


def test_switched_off_it_hears_nothing_and_still_misses_a_root(root: Path) -> None:
    with ringing(root, events=False) as bench:
        assert bench.bell.check() == DoorbellFacts(True, "off", "", 0, 0, 0)
        assert not [one for one in threading.enumerate() if one.name == "doorbell"]
        root.rmdir()
        assert bench.bell.check().state == "missing"
        root.mkdir()
        assert bench.bell.check().ok
        assert os.fspath(root) in bench.hints.gather().suspects


# ---- limits of the kernel, in a namespace of our own so that nobody else feels them

PREFACE = """
import os, subprocess, sys, threading, time
import syncagent
from syncagent.edges.watch import Doorbell, Hints

root = sys.argv[1]
now = [1000.0]
hints = Hints()

def limit(name, value):
    with open(f"/proc/sys/user/{name}", "w") as file:
        file.write(str(value))

def hears(path):
    hints.take()
    with open(path, "wb"):
        pass
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path in hints.take()[0]:
            return True
        threading.Event().wait(0.005)
    return False

bell = Doorbell([root], hints, monotonic=lambda: now[0])

def later(after_s):
    now[0] += after_s
    return bell.check()

def until(is_so, each_s=0.0):
    deadline = time.monotonic() + 20
    while not is_so(facts := later(each_s)):
        assert time.monotonic() < deadline, facts
        threading.Event().wait(0.005)
    return facts
"""


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def run_in_namespace(root: Path, script: str, *, namespace: tuple[str, ...] = NAMESPACE) -> None:
    command = [*namespace, sys.executable, "-c", PREFACE + script, str(root)]
    package = os.path.dirname(os.path.dirname(os.path.abspath(syncagent.__file__)))
    env = os.environ | {"PYTHONPATH": package}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_directories_without_a_watch_are_counted_with_the_remedy_and_heard_once_there_are_watches(
    root: Path,
) -> None:
    for number in range(10):
        (root / f"d{number}").mkdir()
    run_in_namespace(
        root,
        """
limit("max_inotify_watches", 6)
bell.open()
facts = bell.check()
assert (facts.ok, facts.state, facts.watches) == (False, "polling", 6), facts
assert "5 directories" in facts.reason and "fs.inotify.max_user_watches" in facts.reason, facts
assert hears(root + "/file")
os.mkdir(root + "/later")                      # made when there is none left: rings, and is counted
until(lambda facts: "6 directories" in facts.reason)
hints.take()
facts = later(60)                              # still none: nobody is made to scan for it
assert facts.state == "polling" and facts.restarts == 0 and hints.take() == (set(), {}), facts
limit("max_inotify_watches", 100)
assert later(30).state == "polling"
facts = later(30)
assert (facts.ok, facts.state, facts.watches) == (True, "events", 12), facts
assert root in hints.take()[1]
assert hears(root + "/later/file") and hears(root + "/d0/file") and hears(root + "/d9/file")
bell.close(5)
""",
    )


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("max_inotify_watches", "fs.inotify.max_user_watches"),
        ("max_inotify_instances", "fs.inotify.max_user_instances"),
    ],
)
def test_a_root_that_cannot_be_watched_is_left_to_scans_and_tried_every_minute(
    root: Path, name: str, remedy: str
) -> None:
    run_in_namespace(
        root,
        f"""
limit("{name}", 0)
bell.open()
before = len(os.listdir("/proc/self/fd"))
for _ in range(5):
    facts = later(60)
    assert (facts.ok, facts.state, facts.watches) == (False, "polling", 0), facts
    assert "{remedy}" in facts.reason, facts
    assert hints.take() == (set(), {{}})
assert len(os.listdir("/proc/self/fd")) == before
limit("{name}", 10)
assert later(59).state == "polling"
facts = later(1)
assert (facts.ok, facts.state) == (True, "events"), facts
assert root in hints.take()[1]
assert hears(root + "/file")
bell.close(5)
""",
    )


def test_a_directory_that_we_may_not_read_silences_no_other(root: Path) -> None:
    for name in ("a", "locked", "z"):
        (root / name).mkdir()
    (root / "locked").chmod(0o000)
    if os.getuid() == 0:
        os.chown(root / "locked", 12345, 12345)  # not mapped into the namespace: its root is nobody to it
    try:
        run_in_namespace(
            root,
            """
bell.open()
facts = bell.check()
assert (facts.ok, facts.state, facts.watches) == (True, "events", 3), facts
assert hears(root + "/a/file") and hears(root + "/z/file")
bell.close(5)
""",
            namespace=NAMESPACE if os.getuid() == 0 else (),
        )
    finally:
        (root / "locked").chmod(0o700)


@pytest.mark.parametrize("how", [[], ["-l"]])
def test_a_root_that_is_mounted_or_unmounted_is_heard_where_it_is_now(root: Path, how: list[str]) -> None:
    run_in_namespace(
        root,
        f"""
def call(*command):
    subprocess.run(command, check=True)

bell.open()
assert hears(root + "/file")
call("mount", "-t", "tmpfs", "none", root)
hints.take()
facts = until(lambda facts: facts.restarts == 1, 5)
assert facts.ok and root in hints.take()[1], facts
os.mkdir(root + "/below")
assert hears(root + "/card")
call("umount", *{how!r}, root)
hints.take()
facts = until(lambda facts: facts.restarts == 2, 5)
assert facts.ok and "unmount" in facts.reason and root in hints.take()[1], facts
assert hears(root + "/file")
bell.close(5)
""",
    )


def test_a_file_system_mounted_below_a_root_is_heard_and_so_is_what_lies_beneath_when_it_is_gone(
    root: Path,
) -> None:
    (root / "in ner" / "deep").mkdir(parents=True)
    run_in_namespace(
        root,
        """
bell.open()
card = root + "/in ner"
assert hears(card + "/deep/file")
subprocess.run(["mount", "-t", "tmpfs", "none", card], check=True)
facts = until(lambda facts: facts.restarts == 1, 5)
assert facts.ok and "mounted" in facts.reason and root in hints.take()[1], facts
assert hears(card + "/file")
subprocess.run(["umount", card], check=True)
facts = until(lambda facts: facts.restarts == 2, 5)
assert facts.ok and root in hints.take()[1], facts
assert hears(card + "/deep/file")
bell.close(5)
""",
    )


# ---- cost


def test_an_idle_doorbell_wakes_no_thread(root: Path) -> None:
    for number in range(100):
        (root / f"d{number}").mkdir()
    with ringing(root) as bench:
        bench.expect_hearing()
        (thread,) = (one for one in threading.enumerate() if one.name == "doorbell")

        def switches() -> int:
            text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            return sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line)

        def is_settled() -> bool:
            before = switches()
            threading.Event().wait(0.2)
            return switches() == before

        wait_until(is_settled, "the events of the proof are over")
        before = switches()
        for _ in range(10):
            bench.bell.check()
            threading.Event().wait(0.1)
        assert switches() == before


def test_opening_and_closing_gives_every_descriptor_and_thread_back(root: Path) -> None:
    with ringing(root):
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with ringing(root):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
