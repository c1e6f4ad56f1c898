"""One version of one file goes, and nothing else that may have come under its name."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.model import Facts
from syncagent.core.territory import ASIDE
from syncagent.edges import removal
from syncagent.edges.files import Lease, facts_of
from syncagent.edges.removal import Outcome, aside_name, parse_aside, put_back, remove
from tests.servers import wait_until


@pytest.fixture(autouse=True)
def sigio_ignored() -> Iterator[None]:
    """As the agent does: it is what the kernel tells the holder of a lease."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content")
    return path


def facts(path: Path) -> Facts:
    return facts_of(os.stat(path))


def go(path: Path, known: Facts | None = None) -> Outcome:
    return remove(str(path.parent), path.name, known or facts(path), row_id=7).outcome


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def test_the_version_that_was_confirmed_goes(picture: Path) -> None:
    assert go(picture) is Outcome.REMOVED
    assert names(picture) == []


def test_a_file_whose_size_mtime_ctime_or_inode_is_new_stays(picture: Path) -> None:
    now = facts(picture)
    for other in (
        Facts(now.size_bytes + 1, now.mtime_ns, now.ctime_ns, now.inode),
        Facts(now.size_bytes, now.mtime_ns - 1, now.ctime_ns, now.inode),
        Facts(now.size_bytes, now.mtime_ns, now.ctime_ns - 1, now.inode),
        Facts(now.size_bytes, now.mtime_ns, now.ctime_ns, now.inode + 1),
    ):
        assert go(picture, other) is Outcome.CHANGED
    assert picture.read_bytes() == b"content" and facts(picture) == now


def test_a_file_that_somebody_has_open_for_writing_stays(picture: Path) -> None:
    known = facts(picture)
    with open(picture, "ab"):
        assert go(picture, known) is Outcome.BUSY
    assert facts(picture) == known


def test_a_file_that_is_not_there_has_vanished_and_a_link_is_no_file(tmp_path: Path, picture: Path) -> None:
    known = facts(picture)
    assert remove(str(tmp_path), "no/a.jpg", known, row_id=1).outcome is Outcome.VANISHED
    os.rename(picture, tmp_path / "b.jpg")
    os.symlink("b.jpg", picture)
    assert go(picture, known) is Outcome.VANISHED
    assert (tmp_path / "b.jpg").exists()


def between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, after: bool) -> None:
    """Something happens just before, or just after, the file is set aside."""
    rename = os.rename

    def renamed(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        if not after:
            act()
        rename(*args, **kwargs)
        if after:
            act()

    monkeypatch.setattr(os, "rename", renamed)


def test_a_file_that_is_replaced_before_it_is_set_aside_is_never_deleted(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = facts(picture), picture.with_name("new")
    new.write_bytes(b"other!!")
    os.utime(new, ns=(known.mtime_ns, known.mtime_ns))
    between(monkeypatch, lambda: os.replace(new, picture), after=False)
    assert go(picture, known) is Outcome.CHANGED
    assert names(picture) == ["a.jpg"] and picture.read_bytes() == b"other!!"


def test_a_new_file_under_the_name_of_one_that_is_being_removed_stays(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = facts(picture)
    between(monkeypatch, lambda: picture.write_bytes(b"next"), after=True)
    assert go(picture, known) is Outcome.REMOVED
    assert names(picture) == ["a.jpg"] and picture.read_bytes() == b"next"


def test_both_stay_when_a_file_was_replaced_and_then_written_anew(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = facts(picture), picture.with_name("new")
    new.write_bytes(b"second")
    rename = os.rename

    def renamed(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        os.replace(new, picture)
        rename(*args, **kwargs)
        picture.write_bytes(b"third")

    monkeypatch.setattr(os, "rename", renamed)
    assert go(picture, known) is Outcome.CHANGED
    assert {path.read_bytes() for path in picture.parent.iterdir()} == {b"second", b"third"}
    assert "a.jpg" in names(picture) and not any(name.startswith(ASIDE) for name in names(picture))


def test_whoever_opens_the_file_for_writing_in_the_middle_waits_and_keeps_it(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = facts(picture)
    begun = threading.Event()

    def write() -> None:
        begun.set()
        with open(picture, "ab") as file:
            file.write(b" and more")

    def wait_for_the_writer() -> None:
        thread.start()
        begun.wait(10)
        # /proc/locks shows the lease as BREAKING once the writer waits for it.
        wait_until(lambda: "BREAKING" in Path("/proc/locks").read_text(), what="the writer waits for the lease")

    thread = threading.Thread(target=write)
    between(monkeypatch, wait_for_the_writer, after=False)
    assert go(picture, known) is Outcome.CHANGED
    thread.join(10)
    assert picture.read_bytes() == b"content and more"


def test_in_a_full_directory_that_takes_no_other_name_the_file_goes_all_the_same(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    assert go(picture) is Outcome.REMOVED
    assert names(picture) == []


def test_where_no_lease_can_be_had_the_facts_decide(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_take_lease", lambda fd: Lease.UNAVAILABLE)
    assert go(picture) is Outcome.REMOVED


def test_of_another_name_of_the_file_it_tells_what_is_true_now_while_nobody_can_have_written(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(name: str) -> Facts | None:
        done = remove(str(picture.parent), name, facts(picture), row_id=7)
        assert done.outcome is Outcome.REMOVED
        return done.twin

    for name in ("b.jpg", "c.jpg", "d.jpg"):
        os.link(picture, picture.with_name(name))
    assert removed("b.jpg") == facts(picture)
    with monkeypatch.context() as patch:
        held = iter([True, False])
        patch.setattr(removal, "_is_held", lambda _fd: next(held))
        assert removed("c.jpg") is None
    with monkeypatch.context() as patch:
        patch.setattr(removal, "_take_lease", lambda fd: Lease.UNAVAILABLE)
        assert removed("d.jpg") is None
    assert removed("a.jpg") is None


def test_a_file_left_aside_is_put_back_and_never_over_another(picture: Path) -> None:
    aside = picture.with_name(aside_name("a.jpg", 7))
    os.rename(picture, aside)
    assert put_back(str(picture.parent), aside.name, "a.jpg") == "a.jpg"
    os.rename(picture, aside)
    picture.write_bytes(b"new")
    assert put_back(str(picture.parent), aside.name, "a.jpg") == "a.put-back-1.jpg"
    assert picture.read_bytes() == b"new"
    assert picture.with_name("a.put-back-1.jpg").read_bytes() == b"content"


def test_a_file_is_put_back_where_there_are_no_hard_links(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    aside = picture.with_name(aside_name("a.jpg", 7))
    os.rename(picture, aside)
    assert put_back(str(picture.parent), aside.name, "a.jpg") == "a.jpg"
    os.rename(picture, aside)
    picture.write_bytes(b"new")
    assert put_back(str(picture.parent), aside.name, "a.jpg") == "a.put-back-1.jpg"


def test_what_is_set_aside_has_a_name_that_fits_and_tells_whose_it_is() -> None:
    for name in ("a.jpg", "ä" * 127, "\udcff" * 255, "1.2.3"):
        aside = aside_name(name, 12)
        assert len(os.fsencode(aside)) <= 255
        parsed = parse_aside(aside)
        assert parsed is not None and parsed[0] == 12 and os.fsencode(name).startswith(os.fsencode(parsed[1]))
    assert parse_aside("a.jpg") is None and parse_aside(f"{ASIDE}x.y") is None
    assert parse_aside(f"{ASIDE}².y") is None and parse_aside(f"{ASIDE}{1 << 64}.y") is None
