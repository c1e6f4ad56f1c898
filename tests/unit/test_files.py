"""The file system as it is: no link followed, no device opened, writers seen, and no byte of another version read."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from syncagent.core.errors import AlreadyRunning, FileChanged, FileVanished, Transient, Trouble
from syncagent.core.model import Facts
from syncagent.edges import files
from syncagent.edges.files import (
    READ_BYTES,
    Content,
    Hold,
    Lease,
    Listing,
    PinnedFile,
    facts_of,
    is_held,
    look,
    open_file,
    scan_directory,
    sight,
)
from tests.fakes import BadEntries
from tests.narrow import IS_NARROW

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def lease_signal_is_ignored() -> Iterator[None]:
    """A writer that comes while a lease is held sends SIGIO, whose default action ends the process."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs that print a line when they are ready, and go on until they read one."""
    running: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in running:
        child.kill()
        child.communicate()


def step(child: subprocess.Popen[str]) -> None:
    """Let the program go on to its next "ready"."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "ready\n"


def pinned(root: Path, name: str = "f", *, unsettled: bool = False) -> PinnedFile:
    return PinnedFile.open(str(root), name, facts=facts_of(os.stat(root / name)), unsettled=unsettled)


# -- leases -----------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print("ready", flush=True); sys.stdin.readline()
os.close(fd)
print("ready", flush=True); sys.stdin.readline()
"""

MAPPER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapped = mmap.mmap(fd, 0)
os.close(fd)
print("ready", flush=True); sys.stdin.readline()
mapped.close()
print("ready", flush=True); sys.stdin.readline()
"""

READER = """
import sys
file = open(sys.argv[1], "rb")
print("ready", flush=True); sys.stdin.readline()
"""


@pytest.mark.parametrize("program", [WRITER, MAPPER], ids=["open descriptor", "mapping whose descriptor was closed"])
def test_a_writer_in_another_process_is_seen_until_it_lets_go(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]], program: str
) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert sight(str(tmp_path), "f").lease is Lease.FREE
    writer = spawn(program, str(tmp_path / "f"))
    assert sight(str(tmp_path), "f").lease is Lease.BUSY
    with pytest.raises(FileChanged, match="opened for writing"):
        pinned(tmp_path)
    step(writer)
    assert sight(str(tmp_path), "f").lease is Lease.FREE
    pinned(tmp_path).close()


def test_a_reader_does_not_hold_a_file_up(tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    spawn(READER, str(tmp_path / "f"))
    assert sight(str(tmp_path), "f").lease is Lease.FREE


def test_a_lease_is_given_back_so_that_writers_are_not_held_up(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    fd = open_file(str(tmp_path), "f")
    assert files.ask_lease(fd) == (Lease.FREE, "")
    # Were it still held, opening for writing without waiting would fail.
    os.close(os.open(tmp_path / "f", os.O_WRONLY | os.O_NONBLOCK))
    os.close(fd)


def test_where_there_are_no_leases_it_is_said_why(tmp_path: Path) -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    lease, why = files.ask_lease(fd)
    os.close(fd)
    if lease is not Lease.FREE:
        assert lease is Lease.UNAVAILABLE and why
    (tmp_path / "theirs").write_bytes(CONTENT)
    os.chmod(tmp_path, 0o755)
    os.chmod(tmp_path / "theirs", 0o644)
    program = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); os.setgid(65534); os.setuid(65534)\n"
        "from syncagent.edges.files import ask_lease; print(*ask_lease(fd))"
    )
    if os.getuid() == 0:
        done = subprocess.run(
            [sys.executable, "-c", "import syncagent.edges.files\n" + program, str(tmp_path / "theirs")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Lease.UNAVAILABLE" in done.stdout and "CAP_LEASE" in done.stdout


def test_a_file_is_read_without_changing_its_access_time(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    os.utime(tmp_path / "f", ns=(1, 10**18))
    with pinned(tmp_path) as file:
        file.digest()
    assert os.stat(tmp_path / "f").st_atime_ns == 1


# -- links, FIFOs, sockets, devices -----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "d" / "f").write_bytes(CONTENT)
    return tmp_path / "root"


def test_a_link_in_place_of_the_file_or_on_the_way_is_never_followed(tree: Path) -> None:
    os.symlink("../outside/secret", tree / "leaf")
    os.symlink("../outside", tree / "middle")
    os.symlink("d/f", tree / "inner")
    for path in ("leaf", "middle/secret", "inner", "middle"):
        with pytest.raises(FileVanished):
            open_file(str(tree), path)
    assert look(str(tree), "middle/secret") is None
    assert not files.is_file(look(str(tree), "leaf"))
    (listing,) = scan_directory(str(tree), "middle")
    assert listing.missing and not listing.files


def test_a_directory_that_is_swapped_for_a_link_while_it_is_looked_at_leaks_nothing(tree: Path) -> None:
    os.symlink("../outside", tree / "link")
    (tree / "d" / "secret").write_text("harmless")
    parked = tree / "parked"
    for _ in range(200):
        os.rename(tree / "d", parked)
        os.rename(tree / "link", tree / "d")
        with pytest.raises(FileVanished):
            open_file(str(tree), "d/secret")
        os.rename(tree / "d", tree / "link")
        os.rename(parked, tree / "d")
        fd = open_file(str(tree), "d/secret")
        assert os.pread(fd, 10, 0) == b"harmless"
        os.close(fd)


@pytest.mark.parametrize("path", ["../outside/secret", "d/../../outside/secret", "d/../d/f", "./d/f", "d//f", "/d/f"])
def test_a_path_that_is_not_made_of_names_leads_nowhere(tree: Path, path: str) -> None:
    with pytest.raises(FileVanished):
        open_file(str(tree), path)
    assert look(str(tree), path) is None


def test_the_root_itself_may_be_a_link_for_the_owner_chose_it(tree: Path) -> None:
    os.symlink("root", tree.parent / "chosen")
    os.close(open_file(str(tree.parent / "chosen"), "d/f"))


def test_fifos_sockets_devices_and_directories_are_told_and_never_opened(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "socket"))
    names = {"fifo": "fifo", "socket": "socket"}
    os.symlink("nowhere", tree / "dangling")
    if os.getuid() == 0:
        os.mknod(tree / "device", 0o600 | 0o020000, os.makedev(1, 5))
        names["device"] = "device"
    opened: list[object] = []
    real_open = os.open

    def watched(path: object, *how: object, **more: object) -> int:
        opened.append(path)
        return real_open(path, *how, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", watched)
    for name in (*names, "d"):
        with pytest.raises(FileVanished, match="is now a"):
            open_file(str(tree), name)
    assert set(opened) == {str(tree)}
    (listing,) = scan_directory(str(tree), "")
    assert listing.odd == {**names, "dangling": "link"}
    assert listing.directories == ["d"]
    assert listing.files == {}


def test_what_is_not_there_has_vanished_and_what_may_not_be_read_is_trouble_of_its_own(tree: Path) -> None:
    for path in ("nothing", "nothing/f", "d/f/g"):
        with pytest.raises(FileVanished):
            open_file(str(tree), path)
        assert look(str(tree), path) is None
    with pytest.raises(Transient) as caught:
        open_file(str(tree), "d/" + "n" * 300)
    assert caught.value.trouble is Trouble.FILE
    with pytest.raises(FileVanished):
        open_file(str(tree / "no root"), "f")


def test_descriptors_are_closed_whatever_happens(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("fifo", "nothing", "d/nothing", "d/f/x", "../x", "d"):
        with pytest.raises(FileVanished):
            open_file(str(tree), path)
        look(str(tree), path)
    list(scan_directory(str(tree), "nothing"))
    with pytest.raises(FileChanged):
        PinnedFile.open(str(tree), "d/f", facts=facts_of(os.stat(tree)))
    with pinned(tree, "d/f"):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


# -- scanning ---------------------------------------------------------------------------------------------------------


def test_a_directory_is_listed_in_chunks_that_together_hold_every_file_once(tmp_path: Path) -> None:
    expected = {}
    for number in range(25):
        (tmp_path / f"{number}").write_bytes(b"x" * number)
        expected[f"{number}"] = facts_of(os.stat(tmp_path / f"{number}"))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "deep").write_text("not listed")
    listings = list(scan_directory(str(tmp_path), "", chunk=10))
    assert [len(listing.files) + len(listing.directories) for listing in listings] == [10, 10, 6]
    found: dict[str, object] = {}
    for listing in listings:
        found.update(listing.files)
    assert found == expected
    assert [name for listing in listings for name in listing.directories] == ["inner"]
    assert not any(listing.error or listing.missing for listing in listings)


def test_an_entry_that_cannot_be_looked_at_is_named_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(25):
        (tmp_path / f"{number}").write_bytes(b"x")
    monkeypatch.setattr(os, "scandir", BadEntries({"3", "7"}.__contains__))
    listings = list(scan_directory(str(tmp_path), "", chunk=10))
    assert sum(len(listing.files) for listing in listings) == 23
    assert {name: why for listing in listings for name, why in listing.unreadable.items()} == {
        "3": "Structure needs cleaning",
        "7": "Structure needs cleaning",
    }
    assert not any(listing.error or listing.missing for listing in listings)


def test_a_date_that_a_32_bit_system_cannot_read_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late").write_bytes(b"x")
    monkeypatch.setattr(os, "scandir", BadEntries({"late"}.__contains__, errno.EOVERFLOW))
    (listing,) = scan_directory(str(tmp_path), "")
    assert "after 2038" in listing.unreadable["late"]


@pytest.mark.skipif(not IS_NARROW, reason="only where a time_t has 32 bits can a date be beyond it")
def test_a_file_of_2050_is_unreadable_on_a_32_bit_system_and_its_neighbours_are_not(tmp_path: Path) -> None:
    for name in ("late", "timely"):
        (tmp_path / name).write_bytes(b"x")
    times = (ctypes.c_int64 * 4)(2_524_608_000, 0, 2_524_608_000, 0)  # two of struct __timespec64
    at_fdcwd = -100
    call = ctypes.CDLL(None, use_errno=True)["__utimensat64"]
    assert call(at_fdcwd, os.fsencode(tmp_path / "late"), times, 0) == 0, os.strerror(ctypes.get_errno())
    (listing,) = scan_directory(str(tmp_path), "")
    assert list(listing.files) == ["timely"]
    assert "after 2038" in listing.unreadable["late"]
    with pytest.raises(Transient) as caught:
        open_file(str(tmp_path), "late")
    assert caught.value.trouble is Trouble.FILE and "after 2038" in str(caught.value)


def test_no_chunk_of_a_directory_is_longer_than_asked_for_whatever_lies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        (tmp_path / f"directory{number}").mkdir()
        os.mkfifo(tmp_path / f"fifo{number}")
        (tmp_path / f"bad{number}").write_bytes(b"x")
    monkeypatch.setattr(os, "scandir", BadEntries(lambda name: name.startswith("bad")))
    listings = list(scan_directory(str(tmp_path), "", chunk=10))
    sizes = [len(each.directories) + len(each.odd) + len(each.unreadable) for each in listings]
    assert max(sizes) == 10 and sum(sizes) == 36


def test_names_that_are_not_utf8_survive_a_scan(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/d\xe9")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe9/f\xff\n")).write_bytes(b"x")
    (outer,) = scan_directory(str(tmp_path), "")
    (inner,) = scan_directory(str(tmp_path), outer.directories[0])
    assert [os.fsencode(name) for name in inner.files] == [b"f\xff\n"]
    assert sight(str(tmp_path), f"{inner.path}/{next(iter(inner.files))}").facts.size_bytes == 1


@pytest.mark.parametrize("path", ["missing", "file", "file/below"])
def test_a_directory_that_is_not_there_is_missing_and_no_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    assert list(scan_directory(str(tmp_path), path)) == [Listing(path, missing=True)]


def test_a_file_that_vanishes_during_the_scan_is_left_out(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"x")
    scan = scan_directory(str(tmp_path), "", chunk=5)
    first = next(scan)
    for name in os.listdir(tmp_path):
        if name not in first.files:
            os.unlink(tmp_path / name)
    rest = list(scan)
    assert not any(listing.error for listing in rest)


# -- pinned files -----------------------------------------------------------------------------------------------------


def test_a_pinned_file_reads_its_bytes_and_their_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    with pinned(tmp_path) as file:
        assert file.size_bytes == len(CONTENT)
        assert file.read(100, 300) == CONTENT[100:400]
        assert file.digest().sha256 == hashlib.sha256(CONTENT).digest()
        assert file.digest(256, 1000).md5 == hashlib.md5(CONTENT[256:1256]).digest()
        file.check()


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"other bytes")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 10),
    "grown": _append,
    "rewritten under its old size and mtime": _rewrite,
    "touched": lambda path: os.utime(path),
    "replaced": lambda path: os.replace(path.parent / "other", path),
    "removed": lambda path: os.unlink(path),
}


def backdated(path: Path, content: bytes = CONTENT) -> Path:
    """A file whose times lie so far back that every change of it shows, however coarse the kernel's clock."""
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    ctime_ns = os.stat(path).st_ctime_ns
    probe = path.parent / "probe"
    while True:  # until the kernel's clock has ticked
        probe.write_bytes(b"")
        if os.stat(probe).st_ctime_ns > ctime_ns:
            return path


@pytest.mark.parametrize("how", list(CHANGES))
def test_any_change_of_a_pinned_file_is_found_by_a_check_and_by_the_end_of_a_body(tmp_path: Path, how: str) -> None:
    backdated(tmp_path / "other")
    backdated(tmp_path / "f")
    with pinned(tmp_path) as file:
        body = file.stretch(0, file.size_bytes)
        assert body.read(1000) == CONTENT[:1000]
        CHANGES[how](tmp_path / "f")
        with pytest.raises(FileChanged):
            file.check()
        with pytest.raises(FileChanged):
            while body.read(4000):
                pass
        with pytest.raises(FileChanged):
            PinnedFile.open(str(tmp_path), "f", facts=file.facts) if how != "removed" else file.check()


def test_a_truncated_file_never_gives_fewer_bytes_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    with pinned(tmp_path) as file:
        os.truncate(tmp_path / "f", 10)
        with pytest.raises(FileChanged, match="cut short"):
            file.read(0, 20)
        with pytest.raises(FileChanged, match="cut short"):
            file.digest()


def test_a_stretch_can_be_sent_again(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    with pinned(tmp_path) as file:
        body = file.stretch(100, 1000)
        assert body.size_bytes == 1000
        for _ in range(2):
            assert b"".join(iter(lambda: body.read(64), b"")) == CONTENT[100:1100]
            body.rewind()
        assert body.read() == CONTENT[100:1100]
        assert body.read() == b""


def test_an_unsettled_version_may_grow_but_not_shrink(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    with open(tmp_path / "f", "ab") as writer, pinned(tmp_path, unsettled=True) as file:
        writer.write(b"more")
        writer.flush()
        assert file.stretch(0, file.size_bytes).read() == CONTENT
        os.truncate(tmp_path / "f", 10)
        with pytest.raises(FileChanged):
            file.check()


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pinned(tmp_path) as file:
        assert file.read(0, 0) == b""
        assert file.digest().md5 == hashlib.md5(b"").digest()
        assert file.stretch(0, 0).read() == b""


def test_content_in_memory_is_a_body_like_others() -> None:
    body = Content(CONTENT)
    assert body.size_bytes == len(CONTENT)
    assert b"".join(iter(lambda: body.read(1000), b"")) == CONTENT
    body.rewind()
    assert body.read() == CONTENT
    assert body.read(10) == b""


# -- holds ------------------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from syncagent.edges.files import Hold
hold = Hold(sys.argv[1])
print("ready", flush=True); sys.stdin.readline()
"""


def test_a_second_hold_is_refused_with_the_pid_of_the_first_and_a_dead_holders_is_free(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    path = str(tmp_path / "lock")
    assert is_held(path) is None
    holder = spawn(HOLDER, path)
    assert is_held(path) == holder.pid
    with pytest.raises(AlreadyRunning, match=rf"PID {holder.pid}\b"):
        Hold(path)
    holder.kill()
    holder.wait(30)
    assert is_held(path) is None
    hold = Hold(path)
    assert is_held(path) == os.getpid()
    with pytest.raises(AlreadyRunning):
        Hold(path)
    hold.release()
    assert is_held(path) is None
    Hold(path).release()


def test_a_hold_is_not_refused_because_somebody_asks_for_its_holder_at_that_moment(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    Hold(path).release()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    done = threading.Timer(0.2, os.close, (asking,))
    done.start()
    Hold(path).release()
    done.join()


def test_a_hold_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    os.symlink("precious", tmp_path / "lock")
    with pytest.raises(Transient):
        Hold(str(tmp_path / "lock"))
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_hold_for_which_the_disk_has_no_room_is_trouble_of_the_disk_and_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "lock")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("open", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(Transient, match="lock: No space left") as caught:
                Hold(path)
        assert caught.value.trouble is Trouble.DISK
    Hold(path).release()


def test_space_and_devices_of_what_is_away(tmp_path: Path) -> None:
    free, total, inodes = files.space_of(str(tmp_path))
    assert 0 <= free <= total and 0 <= inodes <= 100
    with pytest.raises(Transient) as caught:
        files.space_of(str(tmp_path / "away"))
    assert caught.value.trouble is Trouble.DISK
    assert files.device_of(str(tmp_path / "away")) is None
    (tmp_path / "file").write_text("x")
    with pytest.raises(Transient):
        files.make_directory(str(tmp_path / "file" / "d"))


def test_whoever_hashes_a_large_file_gets_a_turn_between_its_pieces_and_none_in_the_body_of_a_request(
    tmp_path: Path,
) -> None:
    (tmp_path / "f").write_bytes(bytes(3 * READ_BYTES))
    turns: list[int] = []
    with pinned(tmp_path) as file:
        file.pulse = turns.append
        file.digest()
        assert turns == [0, READ_BYTES, 2 * READ_BYTES]
        body = file.stretch(0, file.size_bytes)
        while body.read(READ_BYTES):
            pass
        assert len(turns) == 3


# -- facts ------------------------------------------------------------------------------------------------------------


def stat_result(**values: int) -> os.stat_result:
    sound = {"st_size": 1, "st_mtime_ns": 2, "st_ctime_ns": 3, "st_ino": 4}
    return SimpleNamespace(**{**sound, **values})  # type: ignore[return-value]


@pytest.mark.parametrize(
    "values",
    [
        {"st_mtime_ns": 10_413_792_000 * 10**9},  # the year 2300
        {"st_mtime_ns": -(10**20)},
        {"st_mtime_ns": -1},
        {"st_ctime_ns": 2**64},
        {"st_ino": 2**63},
        {"st_ino": 2**64 - 1},
    ],
)
def test_facts_fit_into_a_journal_whatever_the_disk_says_and_are_the_same_each_time(values: dict[str, int]) -> None:
    facts = facts_of(stat_result(**values))
    assert facts == facts_of(stat_result(**values))
    for number in (facts.mtime_ns, facts.ctime_ns, facts.inode):
        assert -(2**63) <= number < 2**63


def test_no_two_inodes_have_the_same_number_and_an_ordinary_time_is_what_it_was() -> None:
    numbers = [0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]
    assert len({facts_of(stat_result(st_ino=number)).inode for number in numbers}) == len(numbers)
    assert facts_of(stat_result(st_mtime_ns=-5, st_ctime_ns=2**62, st_ino=9)) == Facts(1, -5, 2**62, 9)


@pytest.mark.parametrize("path", ["x" * 256, "d" * 256 + "/x", "é" * 200])
def test_a_name_that_is_too_long_names_nothing_and_is_no_trouble_of_the_disk(tmp_path: Path, path: str) -> None:
    assert look(str(tmp_path), path) is None
