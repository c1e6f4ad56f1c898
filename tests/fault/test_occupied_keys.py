"""Nothing in the bucket is replaced, though the journal is new and the camera counts from one again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.agent import suffixed, write_file
from tests.fault.field import AnyStore, Field, field_of, until
from tests.s3_model import Fault
from tests.servers import MotoS3, RcloneS3, VerifyingS3, s3_client

SIZE_BYTES = 20_000
FILES = 30
#: Requests of a new journal that are for no file: a listing, the probe, and what the first answers teach.
SURVEY = 8


@pytest.fixture(params=["rclone", "strict", "strict without conditions", "moto"])
def here(request: pytest.FixtureRequest, tmp_path: object, rclone: RcloneS3, moto: MotoS3) -> Iterator[Field]:
    """A field in front of each store; rclone ignores If-None-Match."""
    with VerifyingS3() as strict:
        strict.has_conditional_writes = request.param == "strict"
        servers: dict[str, AnyStore] = {"rclone": rclone, "moto": moto}
        with field_of(str(tmp_path), servers.get(request.param, strict)) as field:
            yield field


@pytest.fixture(params=["strict", "moto"])
def conditional(request: pytest.FixtureRequest, tmp_path: object, moto: MotoS3) -> Iterator[Field]:
    """A field in front of each store with conditional writes."""
    with field_of(str(tmp_path), moto if request.param == "moto" else None) as field:
        yield field


def change_card(field: Field) -> dict[str, bytes]:
    """An empty card: no journal, no files. Returns what the bucket holds."""
    assert field.agent.stop() == 0
    before = field.objects()
    shutil.rmtree(field.agent.base_dir)
    os.makedirs(field.agent.data_dir)
    field.files.clear()
    return before


def put_as_somebody_else(field: Field, name: str, content: bytes) -> str:
    key = field.agent.key(name)
    s3_client(field.store.endpoint_url).put_object(Bucket=field.bucket, Key=key, Body=content)
    return key


@pytest.mark.timeout(120)
def test_an_empty_card_whose_camera_counts_from_one_again_replaces_nothing(here: Field) -> None:
    here.agent.start()
    names = here.shoot_many(FILES, SIZE_BYTES)
    here.all_confirmed(deadline_s=60)
    before = change_card(here)
    same, other = names[0], names[1:]
    asked, sent = here.requests(), here.link.up_bytes
    here.agent.start()
    here.files[same] = before[here.agent.key(same)]
    here.agent.write(same, here.files[same])
    for name in other:
        here.shoot(name, SIZE_BYTES)
    here.all_confirmed(deadline_s=60)
    added = {suffixed(here.agent.key(name), here.files[name]): here.files[name] for name in other}
    assert here.objects() == {**before, **added}
    # One request for each file that went, none for the one that was there already, a handful to look around.
    assert here.requests() - asked <= len(other) + SURVEY
    assert here.link.up_bytes - sent <= (len(other) + 0.5) * SIZE_BYTES + (len(other) + SURVEY) * 1500
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_the_same_files_on_a_new_card_are_adopted_and_not_sent_again(here: Field) -> None:
    here.agent.start()
    here.shoot_many(FILES, SIZE_BYTES)
    here.all_confirmed(deadline_s=60)
    files = dict(here.files)
    before = change_card(here)
    asked, sent = here.requests(), here.link.up_bytes
    here.files.update(files)
    for name, content in files.items():
        here.agent.write(name, content)
    here.agent.start()
    here.all_confirmed(deadline_s=60)
    assert here.objects() == before
    assert here.requests() - asked <= SURVEY
    assert here.link.up_bytes - sent <= SURVEY * 2000
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_lost_journal_beside_the_same_files_sends_nothing_again(here: Field) -> None:
    here.agent.start()
    here.shoot_many(FILES, SIZE_BYTES)
    here.all_confirmed(deadline_s=60)
    assert here.agent.stop() == 0
    before, sent = here.objects(), here.link.up_bytes
    shutil.rmtree(here.agent.state_dir)
    here.agent.start()
    here.all_confirmed(deadline_s=60)
    assert here.objects() == before
    assert here.link.up_bytes - sent <= SURVEY * 2000
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_key_that_another_writer_took_after_the_listing_is_not_replaced(conditional: Field) -> None:
    here = conditional
    here.agent.start()
    here.shoot("before.jpg", SIZE_BYTES)
    here.all_confirmed(deadline_s=30)
    theirs = put_as_somebody_else(here, "img_0001.jpg", b"somebody else's")
    ours = here.shoot("img_0001.jpg", SIZE_BYTES)
    here.all_confirmed(deadline_s=30)
    assert here.objects() == {
        here.agent.key("before.jpg"): here.files["before.jpg"],
        theirs: b"somebody else's",
        suffixed(theirs, ours): ours,
    }
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_key_of_somebodys_choice_replaces_nothing(here: Field) -> None:
    client = s3_client(here.store.endpoint_url)
    client.put_object(Bucket=here.bucket, Key="archive/x.jpg", Body=b"somebody else's")
    here.agent.start()
    path = write_file(os.path.join(here.agent.base_dir, "generated_data", "elsewhere", "x.jpg"), b"ours")
    sent = here.agent.cli("send", path, "--cloud-path", "archive/x.jpg", "--wait")
    assert sent.returncode == 0
    assert here.objects() == {"archive/x.jpg": b"somebody else's", suffixed("archive/x.jpg", b"ours"): b"ours"}
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_large_file_does_not_replace_what_another_writer_put_meanwhile(conditional: Field) -> None:
    here = conditional
    here.agent.start()
    here.shoot("before.jpg", SIZE_BYTES)
    here.all_confirmed(deadline_s=30)
    theirs = put_as_somebody_else(here, "film.mp4", b"somebody else's")
    ours = here.shoot("film.mp4", 9_000_000)
    here.all_confirmed(deadline_s=60)
    found = here.objects()
    assert found[theirs] == b"somebody else's"
    assert found[suffixed(theirs, ours)] == ours
    if isinstance(here.store, VerifyingS3):
        until(lambda: not here.strict.uploads, deadline_s=40, what="no upload of ours is left")
    assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_without_the_right_to_list_a_conditional_write_still_guards_what_is_there(
    tmp_path: object, verifying: VerifyingS3
) -> None:
    with field_of(str(tmp_path), verifying) as here:
        verifying.faults.append(Fault("ListObjectsV2", status=403, code="AccessDenied"))
        theirs = put_as_somebody_else(here, "img_0001.jpg", b"somebody else's")
        here.agent.start()
        ours = here.shoot("img_0001.jpg", SIZE_BYTES)
        here.all_confirmed(deadline_s=30)
        assert here.objects() == {theirs: b"somebody else's", suffixed(theirs, ours): ours}
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_store_that_neither_lists_nor_guards_its_keys_is_named_in_the_status(
    tmp_path: object, verifying: VerifyingS3
) -> None:
    with field_of(str(tmp_path), verifying) as here:
        verifying.has_conditional_writes = False
        verifying.faults.append(Fault("ListObjectsV2", status=403, code="AccessDenied"))
        here.agent.start()
        here.shoot("img_0001.jpg", SIZE_BYTES)
        here.all_confirmed(deadline_s=30)
        assert "cannot list" in here.fact("store")["reason"]
        assert here.agent.stop() == 0


@pytest.mark.timeout(120)
def test_the_probe_lies_in_the_agents_own_corner_and_is_put_once_in_the_life_of_a_journal(
    tmp_path: object, verifying: VerifyingS3
) -> None:
    with field_of(str(tmp_path), verifying) as here:
        for number in range(2):
            here.agent.start()
            here.shoot(f"img_{number}.jpg", SIZE_BYTES)
            here.all_confirmed(deadline_s=30)
            assert here.agent.stop() == 0
        probes = {event.key for event in verifying.requests() if event.key.endswith("/probe")}
        assert probes == {"camera/field-7/.syncagent/probe"}
        assert len([event for event in verifying.requests() if event.key in probes]) == 2
        assert len(verifying.requests(operation="ListObjectsV2")) == 1


@pytest.mark.timeout(120)
def test_a_store_whose_etags_are_no_md5s_costs_one_request_per_file_as_any_other(
    tmp_path: object, verifying: VerifyingS3
) -> None:
    with field_of(str(tmp_path), verifying) as here:
        verifying.etag_is_md5 = False
        here.agent.start()
        here.shoot_many(FILES, SIZE_BYTES)
        here.all_confirmed(deadline_s=30)
        assert here.objects() == here.expected()
        assert len(verifying.requests()) <= FILES + SURVEY
        assert verifying.requests(operation="GetObject") == []
        assert here.agent.stop() == 0
