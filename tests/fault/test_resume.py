"""A large upload goes on where it stopped, whatever stopped it, and touches no upload of others."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fault.field import Field, field_of, until
from tests.proxy import Rule, up_and_down
from tests.s3_model import Fault
from tests.servers import s3_client

MB = 1_000_000
PART_BYTES = 5 * 1024 * 1024
FILM = "film.mp4"
#: Fast enough for a test, slow enough that a kill meets the upload in its middle: a part takes a third of a second.
LINK_BYTES_PER_S = 15.0 * MB
#: What may go over the link for a file of 60 MB, everything included.
MOST_RATIO = 1.3


@contextmanager
def large_field(top: object, **upload: object) -> Iterator[Field]:
    """A field on a throttled link, with an upload of somebody else under our own prefix."""
    with field_of(str(top), buffer_bytes=256 * 1024, upload={"stall_s": 5, **upload}) as here:
        here.link.rule = Rule(up_bytes_per_s=LINK_BYTES_PER_S)
        other = s3_client(here.strict.endpoint_url)
        other.create_multipart_upload(Bucket="bucket", Key=here.agent.key("somebody-elses.mp4"))
        yield here
        others = [upload.key for upload in here.strict.uploads.values()]
        assert others == [here.agent.key("somebody-elses.mp4")], (
            "an upload of ours is left, or one of others was aborted"
        )


def stored_parts(here: Field) -> int:
    """Parts that the store took whole, those of a second time included."""
    return len([event for event in here.strict.requests(operation="UploadPart") if event.status == 200])


def parts_arrive(here: Field, count: int) -> None:
    """Wait until so many more parts are stored."""
    wanted = stored_parts(here) + count
    until(lambda: stored_parts(here) >= wanted, deadline_s=60, what=here.story, every_s=0.01)


def arrived(here: Field, *, deadline_s: float = 90) -> None:
    """Wait until all is confirmed, and compare the bucket."""
    here.all_confirmed(deadline_s=deadline_s)
    assert here.objects() == here.expected()


def ratio(here: Field) -> float:
    return here.link.up_bytes / sum(len(content) for content in here.files.values())


def kill_in_the_middle(here: Field, kills: int, *, source: random.Random) -> None:
    """SIGKILL at random moments of the upload, and a new start after each; then it ends by itself."""
    each = max(1, 60 * MB // PART_BYTES // (kills + 1))
    for number in range(kills):
        if number:
            here.agent.start()
        parts_arrive(here, each)
        threading.Event().wait(source.uniform(0, PART_BYTES / LINK_BYTES_PER_S))
        here.agent.kill()
    here.agent.start()
    arrived(here)


def prove_kills(top: object, *, kills: int, source: random.Random) -> float:
    with large_field(top) as here:
        here.agent.start()
        here.shoot(FILM, 60 * MB)
        kill_in_the_middle(here, kills, source=source)
        print(f"{kills} kills in one upload of 60 MB: {ratio(here):.3f} times its size, {stored_parts(here)} parts")
        assert here.agent.stop() == 0
        # What no client can help: the part that is on its way is cut off.
        assert here.link.up_bytes <= 60 * MB + (kills + 0.2) * PART_BYTES
        return ratio(here)


@pytest.mark.timeout(200)
def test_three_kills_in_the_middle_of_an_upload_of_60_mb_send_less_than_a_third_twice(tmp_path: object) -> None:
    assert prove_kills(tmp_path, kills=3, source=random.Random(1)) <= MOST_RATIO


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_uploads_of_60_mb_each_killed_in_its_middle_send_less_than_a_third_twice(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for seed in range(10):
        assert prove_kills(tmp_path_factory.mktemp("field"), kills=1, source=random.Random(seed)) <= MOST_RATIO


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_kills_in_one_upload_cost_at_most_the_part_that_each_cut(tmp_path: object) -> None:
    # Beyond three kills the floor of 5 MiB for a part decides, so that no share of the file is promised.
    prove_kills(tmp_path, kills=10, source=random.Random(2))


@pytest.mark.timeout(120)
def test_a_list_of_parts_that_comes_in_pages_is_read_whole(tmp_path: object) -> None:
    with large_field(tmp_path) as here:
        here.strict.page_size = 2
        here.agent.start()
        here.shoot(FILM, 8 * PART_BYTES)
        parts_arrive(here, 5)
        here.agent.kill()
        before = stored_parts(here)
        here.agent.start()
        arrived(here)
        assert len(here.strict.requests(operation="ListParts")) >= 3
        # The store may have taken one more that was on its way when the process died.
        assert stored_parts(here) <= before + 8 - 5 + 1
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_sigterm_in_the_middle_of_an_upload_ends_the_agent_and_the_next_start_goes_on(tmp_path: object) -> None:
    with large_field(tmp_path) as here:
        here.agent.start()
        here.shoot(FILM, 6 * PART_BYTES)
        parts_arrive(here, 2)
        assert here.agent.stop(within_s=10) == 0
        here.agent.start()
        arrived(here)
        assert len(here.strict.requests(operation="CreateMultipartUpload")) == 2  # the other one is somebody else's
        assert here.link.up_bytes <= 7.2 * PART_BYTES
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("is_running", [True, False], ids=["while-it-is-sent", "while-the-agent-is-down"])
def test_a_file_that_changes_in_the_middle_starts_anew_and_its_old_upload_is_aborted(
    tmp_path: object, is_running: bool
) -> None:
    with large_field(tmp_path) as here:
        here.agent.start()
        here.shoot(FILM, 4 * PART_BYTES)
        parts_arrive(here, 1)
        if not is_running:
            here.agent.kill()
        here.shoot(FILM, 3 * PART_BYTES + 1)
        if not is_running:
            here.agent.start()
        until(lambda: here.confirmed() == 1, deadline_s=60, what=here.story)
        assert here.objects() == here.expected()
        until(lambda: len(here.strict.uploads) == 1, deadline_s=40, what="the old upload is aborted")
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_an_upload_that_the_store_forgot_starts_anew(tmp_path: object) -> None:
    with large_field(tmp_path) as here:
        here.agent.start()
        here.shoot(FILM, 4 * PART_BYTES)
        parts_arrive(here, 2)
        here.agent.kill()
        for upload_id, upload in list(here.strict.uploads.items()):  # as a lifecycle rule does
            if upload.key == here.agent.key(FILM):
                del here.strict.uploads[upload_id]
        here.agent.start()
        arrived(here)
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_run_once_leaves_no_orphan_of_a_file_that_it_finds_gone(tmp_path: object) -> None:
    with large_field(tmp_path) as here:
        here.agent.start()
        here.shoot(FILM, 6 * PART_BYTES)
        parts_arrive(here, 1)
        here.agent.kill()
        os.unlink(here.agent.path(FILM))
        here.files.clear()
        result = here.agent.run_once()
        assert result.returncode == 0, result.stderr
        assert here.agent.states(FILM) == ["gone"]


@pytest.mark.timeout(120)
def test_an_upload_whose_parts_the_store_does_not_take_leaves_no_orphan(tmp_path: object) -> None:
    with large_field(tmp_path) as here:
        here.strict.faults.append(Fault("CompleteMultipartUpload", times=1, status=400, code="InvalidPart"))
        here.agent.start()
        here.shoot(FILM, 2 * PART_BYTES)
        arrived(here)
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_an_upload_whose_file_is_gone_is_aborted_after_the_start(tmp_path: object) -> None:
    with large_field(tmp_path) as here:
        here.agent.start()
        here.shoot(FILM, 4 * PART_BYTES)
        parts_arrive(here, 1)
        here.agent.kill()
        assert len(here.strict.uploads) == 2
        os.unlink(here.agent.path(FILM))
        here.files.clear()
        here.agent.start()
        until(lambda: len(here.strict.uploads) == 1, deadline_s=40, what=here.story)
        assert here.objects() == {}
        assert here.agent.stop() == 0


def prove_coming_and_going(top: object, *, up_s: float, down_s: float, bytes_per_s: float, size_bytes: int) -> None:
    with large_field(top, retry_max_s=10) as here:
        here.agent.start()
        here.shoot("first.jpg", 1000)
        here.all_confirmed(deadline_s=30)
        here.link.timetable = up_and_down(up_s, down_s, up=Rule(up_bytes_per_s=bytes_per_s), down=Rule("refuse"))
        here.shoot(FILM, size_bytes)
        # As often as it takes, if each time up carried only one part.
        rounds = size_bytes / PART_BYTES
        arrived(here, deadline_s=rounds * (up_s + down_s))
        print(f"link up {up_s:g} s, down {down_s:g} s: {ratio(here):.3f} times the file's size")
        assert ratio(here) <= MOST_RATIO
        here.link.rule = Rule()
        assert here.agent.stop() == 0


@pytest.mark.timeout(200)
def test_a_link_that_comes_and_goes_carries_less_than_a_third_twice(tmp_path: object) -> None:
    prove_coming_and_going(tmp_path, up_s=6, down_s=5, bytes_per_s=5.0 * MB, size_bytes=60 * MB)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_link_that_is_up_for_20_s_and_down_for_60_s_carries_less_than_a_third_twice(tmp_path: object) -> None:
    prove_coming_and_going(tmp_path, up_s=20, down_s=60, bytes_per_s=1.5 * MB, size_bytes=60 * MB)
