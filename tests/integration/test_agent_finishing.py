"""When a file counts as finished, and what never counts as a file, on a running agent.

Shows the README's promises of which files reach the bucket, and which bytes of them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.agent import Agent, puts, sent, suffixed, write_file
from tests.servers import VerifyingS3, wait_until

Start = Callable[..., Agent]


@pytest.fixture
def start(tmp_path: object, verifying: VerifyingS3) -> Iterator[Start]:
    """Starts an agent on the store; keywords are those of `configure`, and `without` names capabilities."""
    with contextlib.ExitStack() as stack:

        def begin(*, without: tuple[str, ...] = (), **options: object) -> Agent:
            agent = stack.enter_context(Agent(str(tmp_path), without=without))
            watch = {"scan_s": 1, **options.pop("watch", {})}  # type: ignore[dict-item]
            agent.configure(verifying.endpoint_url, watch=watch, **options)  # type: ignore[arg-type]
            agent.start()
            return agent

        yield begin


def arrives(store: VerifyingS3, key: str, content: bytes, *, deadline_s: float = 20) -> None:
    wait_until(lambda: sent(store).get(key) == content, deadline_s=deadline_s, what=f"{key} arrives")


def scans_pass(agent: Agent, count: int = 2) -> None:
    """Wait until the agent has looked at everything `count` times more."""
    before = agent.status()["facts"]["watcher"]["scans"]
    wait_until(lambda: agent.status()["facts"]["watcher"]["scans"] >= before + count, what="the scans pass")


def held_open(agent: Agent, relative: str) -> bool:
    return any(
        entry["path"].endswith("/" + relative) and entry["why"] == "open for writing"
        for entry in agent.ask("settling") or []
    )


@pytest.mark.parametrize("events", ["auto", "off"])
def test_a_file_whose_writer_pauses_with_it_open_is_sent_only_when_it_is_closed(
    start: Start, verifying: VerifyingS3, events: str
) -> None:
    agent = start(watch={"events": events})
    with open(agent.path("clip.mp4"), "wb") as file:
        file.write(b"first half ")
        file.flush()
        wait_until(lambda: held_open(agent, "clip.mp4"), what="the writer is noticed")
        agent.write("other.jpg", b"passes by")
        arrives(verifying, agent.key("other.jpg"), b"passes by")
        scans_pass(agent)
        assert set(sent(verifying)) == {agent.key("other.jpg")}
        file.write(b"second half")
    arrives(verifying, agent.key("clip.mp4"), b"first half second half")


def test_a_file_that_is_mapped_by_its_writer_is_sent_only_when_the_mapping_ends(
    start: Start, verifying: VerifyingS3
) -> None:
    agent = start()
    with open(agent.path("map.raw"), "w+b") as file:
        file.write(bytes(8192))
        file.flush()
        mapping = mmap.mmap(file.fileno(), 8192)
    mapping[:4] = b"head"
    wait_until(lambda: held_open(agent, "map.raw"), what="the mapped writer is noticed")
    scans_pass(agent)
    assert not sent(verifying)
    mapping[-4:] = b"tail"
    mapping.close()
    arrives(verifying, agent.key("map.raw"), b"head" + bytes(8184) + b"tail")


@pytest.mark.parametrize("events", ["auto", "off"])
def test_files_renamed_in_linked_in_and_moved_in_with_their_directory_arrive(
    start: Start, verifying: VerifyingS3, events: str
) -> None:
    agent = start(watch={"events": events})
    outside = os.path.join(agent.base_dir, "outside")
    renamed = write_file(os.path.join(outside, "renamed"), b"renamed in")
    linked = write_file(os.path.join(outside, "linked"), b"linked in")
    write_file(os.path.join(outside, "day/night/deep.jpg"), b"moved in")
    os.rename(renamed, agent.path("renamed.jpg"))
    os.link(linked, agent.path("linked.jpg"))
    os.rename(os.path.join(outside, "day"), agent.path("day"))
    arrives(verifying, agent.key("renamed.jpg"), b"renamed in")
    arrives(verifying, agent.key("linked.jpg"), b"linked in")
    arrives(verifying, agent.key("day/night/deep.jpg"), b"moved in")
    agent.write("day/night/later.jpg", b"in the moved directory")
    arrives(verifying, agent.key("day/night/later.jpg"), b"in the moved directory")


def test_each_name_of_a_hard_link_is_an_object(start: Start, verifying: VerifyingS3) -> None:
    agent = start()
    agent.write("one.jpg", b"two names")
    arrives(verifying, agent.key("one.jpg"), b"two names")
    os.link(agent.path("one.jpg"), agent.path("two.jpg"))
    arrives(verifying, agent.key("two.jpg"), b"two names")
    assert len(puts(verifying)) == 2, "the first name has a new ctime and is no new version"


def test_temporary_names_are_no_files_until_they_are_renamed(start: Start, verifying: VerifyingS3) -> None:
    agent = start()
    temporary = {
        ".img.jpg.Qx81Ab": "rsync.jpg",
        ".~tmp~/img.jpg": "rsync-delayed.jpg",
        "tmpfileAb12Cd": "gphoto2.jpg",
        "clip.mp4.tmp": "ffmpeg.mp4",
        "clip.mp4.part": "wget.mp4",
        "big.iso.crdownload": "browser.iso",
        "big.zip.partial": "other-browser.zip",
        ".note.txt.swp": "vim.txt",
        "note.txt~": "editor.txt",
    }
    for name in temporary:
        agent.write(name, name.encode())
    agent.write("plain.jpg", b"plain")
    arrives(verifying, agent.key("plain.jpg"), b"plain")
    scans_pass(agent)
    assert set(sent(verifying)) == {agent.key("plain.jpg")}
    for name, final in temporary.items():
        os.rename(agent.path(name), agent.path(final))
    for name, final in temporary.items():
        arrives(verifying, agent.key(final), name.encode())


def test_a_file_of_no_bytes_arrives(start: Start, verifying: VerifyingS3) -> None:
    agent = start()
    agent.write("empty.flag", b"")
    arrives(verifying, agent.key("empty.flag"), b"")


@pytest.mark.parametrize("on_rewrite", ["suffix", "overwrite"])
def test_of_a_name_that_is_overwritten_all_the_time_only_finished_versions_appear(
    start: Start, verifying: VerifyingS3, on_rewrite: str
) -> None:
    agent = start(upload={"on_rewrite": on_rewrite})
    versions = [bytes([number]) * (20_000 + number) for number in range(30)]
    pause = threading.Event()
    for version in versions:
        with open(agent.path("latest.jpg"), "wb") as file:
            file.write(version[:10_000])
            file.flush()
            pause.wait(0.02)
            file.write(version[10_000:])
        pause.wait(0.03)
    last = versions[-1]
    keys = {agent.key("latest.jpg"), suffixed(agent.key("latest.jpg"), last)}
    wait_until(lambda: any(sent(verifying).get(key) == last for key in keys), what="the last version arrives")
    wait_until(lambda: agent.count("settling") == agent.count("sending") == 0, what="all is quiet")
    assert set(sent(verifying).values()) <= set(versions)
    if on_rewrite == "overwrite":
        assert sent(verifying) == {agent.key("latest.jpg"): last}


def test_without_a_lease_the_quiet_decides_and_the_status_says_so(start: Start, verifying: VerifyingS3) -> None:
    assert os.geteuid() == 0, "only root can make a file of another owner: run the tests as root"
    agent = start(without=("lease",))
    path = agent.write("foreign.jpg", b"another owner's")
    os.chown(path, 65534, 65534)
    arrives(verifying, agent.key("foreign.jpg"), b"another owner's")
    wait_until(lambda: "no lease: " in agent.status()["facts"]["watcher"]["reason"], what="the status says so")
    assert agent.status()["facts"]["watcher"]["ok"]


def test_fifos_sockets_devices_and_links_are_no_files_and_hold_up_nothing(start: Start, verifying: VerifyingS3) -> None:
    assert os.geteuid() == 0, "only root can make a device: run the tests as root"
    agent = start()
    secret = write_file(os.path.join(agent.base_dir, "secret/private.key"), b"secret")
    os.mkfifo(agent.path("fifo.jpg"))
    os.mknod(agent.path("device.jpg"), 0o20644, os.makedev(1, 5))
    os.symlink(secret, agent.path("link.jpg"))
    os.symlink("nowhere", agent.path("dangling.jpg"))
    os.symlink(os.path.dirname(secret), agent.path("linked_directory"))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(agent.data_dir, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket.jpg")
        os.close(here)
        agent.write("plain.jpg", b"plain")
        arrives(verifying, agent.key("plain.jpg"), b"plain")
        scans_pass(agent)
    assert set(sent(verifying)) == {agent.key("plain.jpg")}
    status = agent.status()
    assert status["healthy"]
    assert status["facts"]["watcher"]["not_files"] == {"fifo": 1, "device": 1, "link": 3, "socket": 1}


def test_a_directory_that_is_swapped_for_a_link_while_it_is_read_leaks_nothing(
    start: Start, verifying: VerifyingS3
) -> None:
    agent = start(watch={"settle_s": 0})
    secret = os.path.join(agent.base_dir, "secret")
    for number in range(20):
        write_file(os.path.join(secret, f"img_{number}.jpg"), b"secret")
        agent.write(f"day/img_{number}.jpg", b"public")
    ended = threading.Event()

    def swap() -> None:
        number = 0
        while not ended.is_set():
            os.rename(agent.path("day"), agent.path("kept"))
            os.symlink(secret, agent.path("day"))
            ended.wait(0.0005)
            os.unlink(agent.path("day"))
            os.rename(agent.path("kept"), agent.path("day"))
            number += 1
            # A file to be looked at, and sent, just when the directory is swapped.
            agent.write(f"day/img_{number % 20}.jpg", b"public %d" % number)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        scans_pass(agent, 4)
    finally:
        ended.set()
        thread.join()
    wait_until(lambda: not agent.missing(sent(verifying)), deadline_s=30, what="the public files arrive")
    assert sent(verifying)
    assert b"secret" not in sent(verifying).values()


def test_a_directory_that_cannot_be_read_holds_up_nothing_and_is_named(start: Start, verifying: VerifyingS3) -> None:
    agent = start(without=("dac_override", "dac_read_search"))
    agent.write("closed/hidden.jpg", b"hidden")
    arrives(verifying, agent.key("closed/hidden.jpg"), b"hidden")
    os.chmod(agent.path("closed"), 0)
    try:
        agent.write("plain.jpg", b"plain")
        arrives(verifying, agent.key("plain.jpg"), b"plain")
        wait_until(
            lambda: "generated_data/camera/closed" in agent.status()["facts"]["watcher"]["reason"],
            what="the directory is named",
        )
        assert agent.states("closed/hidden.jpg") == ["confirmed"], "what cannot be seen is not gone"
    finally:
        os.chmod(agent.path("closed"), 0o755)
    agent.write("closed/later.jpg", b"later")
    arrives(verifying, agent.key("closed/later.jpg"), b"later")


def test_a_file_that_may_not_be_read_waits_and_says_why(start: Start, verifying: VerifyingS3) -> None:
    agent = start(without=("dac_override", "dac_read_search"))
    path = os.path.join(agent.base_dir, "locked.jpg")
    write_file(path, b"locked")
    os.chmod(path, 0)
    os.rename(path, agent.path("locked.jpg"))
    agent.write("plain.jpg", b"plain")
    arrives(verifying, agent.key("plain.jpg"), b"plain")
    wait_until(lambda: "locked.jpg" in str(agent.status()["last_errors"]), what="the file is named")
    os.chmod(agent.path("locked.jpg"), 0o644)
    arrives(verifying, agent.key("locked.jpg"), b"locked")


def test_names_that_no_key_can_hold_are_escaped_and_others_are_not(start: Start, verifying: VerifyingS3) -> None:
    agent = start()
    keys = {
        b"caf\xe9.jpg": "caf%E9.jpg",
        "café ü.jpg".encode(): "café ü.jpg",
        b"100%.jpg": "100%.jpg",
        b"is%41.jpg": "is%2541.jpg",
        b"tab\there\x7f.jpg": "tab%09here%7F.jpg",
        b"new\nline.jpg": "new%0Aline.jpg",
        b"a+b & c;d'e\"f?g#h.jpg": "a+b & c;d'e\"f?g#h.jpg",
        b" leading and trailing ": " leading and trailing ",
        b"dir\xff/in%20it.jpg": "dir%FF/in%2520it.jpg",
    }
    for name in keys:
        agent.write(os.fsdecode(name), name)
    for name, key in keys.items():
        arrives(verifying, agent.key(key), name)
    assert len(sent(verifying)) == len(keys)


def test_a_file_whose_key_is_too_long_is_parked_and_the_others_pass(start: Start, verifying: VerifyingS3) -> None:
    agent = start()
    deep = "/".join(["d" * 200] * 6)
    agent.write(f"{deep}/far.jpg", b"far")
    agent.write("near.jpg", b"near")
    arrives(verifying, agent.key("near.jpg"), b"near")
    wait_until(lambda: agent.count("parked") == 1, what="it is parked")
    assert agent.status()["queue"]["parked"]["reasons"] == {"key too long": 1}
    assert agent.status()["healthy"] and agent.status()["state"] == "degraded"


def test_a_file_that_its_writer_removes_before_it_is_sent_is_gone_and_no_error(
    start: Start, verifying: VerifyingS3
) -> None:
    from tests.s3_model import Fault

    verifying.faults.append(Fault.throttled(1))
    agent = start()
    agent.write("brief.jpg", b"brief")
    agent.write("stays.jpg", b"stays")
    wait_until(lambda: bool(agent.states("brief.jpg")), what="it is recorded")
    os.unlink(agent.path("brief.jpg"))
    wait_until(lambda: agent.states("brief.jpg") == ["gone"], what="it is gone")
    verifying.faults.clear()
    arrives(verifying, agent.key("stays.jpg"), b"stays", deadline_s=40)
    assert agent.key("brief.jpg") not in sent(verifying)
    assert "brief.jpg" not in str(agent.status()["last_errors"])


@pytest.mark.parametrize("events", ["auto", "off"])
def test_a_watched_directory_that_is_deleted_and_made_anew_is_watched_again(
    start: Start, verifying: VerifyingS3, events: str
) -> None:
    agent = start(watch={"events": events})
    agent.write("before.jpg", b"before")
    arrives(verifying, agent.key("before.jpg"), b"before")
    shutil.rmtree(os.path.join(agent.base_dir, "generated_data"))
    wait_until(lambda: agent.states("before.jpg") == ["removed"], what="the loss is noticed")
    agent.write("day/after.jpg", b"after")
    arrives(verifying, agent.key("day/after.jpg"), b"after")
    agent.write("day/later.jpg", b"later")
    arrives(verifying, agent.key("day/later.jpg"), b"later")
    wait_until(lambda: agent.status()["healthy"], what="all is well again")


def test_files_made_while_the_agent_was_down_arrive(start: Start, verifying: VerifyingS3) -> None:
    agent = start()
    agent.write("before.jpg", b"before")
    arrives(verifying, agent.key("before.jpg"), b"before")
    assert agent.stop() == 0
    agent.write("meanwhile/img.jpg", b"meanwhile")
    agent.write("before.jpg", b"rewritten")
    agent.start()
    arrives(verifying, agent.key("meanwhile/img.jpg"), b"meanwhile")
    arrives(verifying, suffixed(agent.key("before.jpg"), b"rewritten"), b"rewritten")
    assert sent(verifying)[agent.key("before.jpg")] == b"before"
