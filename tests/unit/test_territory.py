"""Who owns a path: the longest one, never the inbox, the firmware or the state; and which names are temporary."""

from __future__ import annotations

import pytest

from syncagent.core.settings import Carrier, SendAddress, Watch
from syncagent.core.territory import Territory, is_wanted, is_within

DEFAULT = Watch()


def address(name: str, path: str, *, duration: str | float = "on_change", watch: Watch = DEFAULT) -> SendAddress:
    carrier = Carrier(name=f"carrier-{name}", bucket_name="b", path=path, watch=watch)
    return SendAddress(name=name, configured_name=name, message_type="image_info", carrier=carrier, duration=duration)


def wanted(path: str) -> bool:
    return is_wanted(path, include=DEFAULT.include, ignore=DEFAULT.ignore)


@pytest.mark.parametrize(
    "path",
    [
        ".img_0001.jpg.Xy12Zq",  # rsync
        "night/.img_0001.jpg.Xy12Zq",
        ".~tmp~/img_0001.jpg",  # rsync --delay-updates: the final name in a temporary directory
        ".rsync-partial/img_0001.jpg",
        "tmpfileAb3dE9",  # gphoto2
        "tmpfileAb3dE9/img_0001.jpg",
        "img_0001.jpg.tmp",  # ffmpeg -atomic_writing
        "img_0001.jpg.part",  # Firefox, curl users
        "img_0001.jpg.partial",
        "Unconfirmed 12345.crdownload",  # Chromium
        ".img_0001.jpg.swp",  # vim
        "notes.swp",
        "notes.txt~",
        "a/b/.cache/c/d.jpg",
        "upload.part/d.jpg",
        ".nfs0000000000000001",
    ],
)
def test_temporary_names_are_ignored_and_so_is_all_in_a_temporary_directory(path: str) -> None:
    assert not wanted(path)


@pytest.mark.parametrize(
    "path",
    [
        "img_0001.jpg",
        "a/b/c.jpg",
        "tmpfile.jpg",
        "tmpfile1234567",  # seven characters are no mkstemp
        "partial/x.jpg",
        "x.tmp.jpg",
        "a.swp.b",
        "with\nnewline.jpg",
        "caf\udce9.jpg",
        "~x",
    ],
)
def test_final_names_are_wanted(path: str) -> None:
    assert wanted(path)


def test_include_takes_names_and_paths_and_ignore_wins() -> None:
    assert is_wanted("a/b.jpg", include=("*.jpg",), ignore=())
    assert is_wanted("a/b.png", include=("a/*",), ignore=())
    assert not is_wanted("c/b.png", include=("a/*", "*.jpg"), ignore=())
    assert not is_wanted("a/b.jpg", include=("*.jpg",), ignore=("a/*",))
    assert not is_wanted("B.JPG", include=("*.jpg",), ignore=())  # as the disk has it
    assert is_wanted(".x", include=("*",), ignore=())


@pytest.mark.parametrize(
    ("path", "directory", "expected"),
    [("a", "", True), ("a", "a", True), ("a/b", "a", True), ("ab", "a", False), ("a", "a/b", False), ("", "", True)],
)
def test_within_means_at_or_below_by_whole_names(path: str, directory: str, expected: bool) -> None:
    assert is_within(path, directory) is expected


def test_the_longest_path_owns_what_lies_in_it() -> None:
    territory = Territory([address("all", ""), address("camera", "camera"), address("night", "camera/night")])
    owners = {
        path: territory.owner_of(path) for path in ("x.jpg", "camera/x.jpg", "camera/night/x.jpg", "camera/nights")
    }
    assert {path: owner and owner.path for path, owner in owners.items()} == {
        "x.jpg": "",
        "camera/x.jpg": "camera",
        "camera/night/x.jpg": "camera/night",
        "camera/nights": "camera",
    }


def test_a_path_that_only_sends_when_asked_still_owns_its_files() -> None:
    territory = Territory([address("all", ""), address("asked", "asked", duration="as_needed")])
    assert territory.owner_of("asked/x.jpg") is None
    assert territory.owner_of("x.jpg") is not None
    assert [owner.path for owner in territory.owners] == [""]


def test_an_address_that_gathers_for_some_seconds_wants_files_by_itself() -> None:
    assert [owner.path for owner in Territory([address("gather", "g", duration=60.0)]).owners] == ["g"]


def test_two_addresses_of_one_path_both_want_its_files_and_share_the_longest_quiet_time() -> None:
    slow = address("slow", "camera", watch=Watch(settle_s=7.0, scan_s=60.0, max_unsettled_s=90.0, events="off"))
    quick = address("quick", "camera", watch=Watch(settle_s=0.5, scan_s=5.0, include=("*.jpg",)))
    (owner,) = Territory([slow, quick]).owners
    assert owner.settle_s == 7.0
    assert owner.scan_s == 5.0
    assert owner.max_unsettled_s == 90.0
    assert owner.has_events
    assert {each.name for each in owner.wanting("camera/x.jpg")} == {"slow", "quick"}
    assert {each.name for each in owner.wanting("camera/x.png")} == {"slow"}


@pytest.mark.parametrize(
    "path", ["messages", "messages/image_info/x.json", "firmware", "firmware/x/img", ".state/journal.db"]
)
def test_inbox_firmware_and_state_belong_to_nobody(path: str) -> None:
    territory = Territory([address("all", "")], reserved=["firmware", ".state"])
    assert territory.is_reserved(path)
    assert territory.owner_of(path) is None


def test_names_that_only_begin_like_a_reserved_one_are_files_like_others() -> None:
    territory = Territory([address("all", "")], reserved=["firmware"])
    assert territory.owner_of("messages.txt") is not None
    assert territory.owner_of("firmware2/x") is not None


def test_an_ignored_directory_is_not_entered_unless_one_address_wants_it() -> None:
    (owner,) = Territory([address("a", "camera")]).owners
    assert owner.enters("camera")
    assert owner.enters("camera/night")
    assert not owner.enters("camera/.thumbnails")
    assert not owner.enters("camera/a/.thumbnails/b")
    both = Territory([address("a", "camera"), address("b", "camera", watch=Watch(ignore=()))])
    assert both.owners[0].enters("camera/.thumbnails")


def test_below_is_seen_from_the_watched_directory_so_that_its_own_name_is_never_ignored() -> None:
    (owner,) = Territory([address("a", ".hidden")]).owners
    assert owner.below(".hidden/x.jpg") == "x.jpg"
    assert owner.wanting(".hidden/x.jpg")
    assert not owner.wanting(".hidden/.x.jpg")
