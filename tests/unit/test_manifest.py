"""The manifest's schema: what is complete and confined passes, and everything else is refused with its reason."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.core.errors import ManifestRejected
from syncagent.core.manifest import (
    Manifest,
    Rollout,
    Wave,
    config_text,
    image_name,
    parse_manifest,
    parse_time,
    parse_unsigned,
    target_path,
)

LEAST: dict[str, Any] = {
    "schema": 1,
    "id": "2026.1",
    "time": "2026-01-02T03:04:05Z",
    "file_name": "boot",
    "component": "cam",
    "version": "2026.1",
}
ORIGINAL: dict[str, Any] = {
    "id": "7",
    "time": "2026-01-02T03:04:05+02:00",
    "file_name": "boot",
    "cloud_path": "firmware_images/boot.bin",
    "disk_path": "generated_data/firmware_images/boot.bin",
    "config_path": "generated_data/latest_firmware.json",
    "confirm_receipt": True,
}


def test_what_is_left_out_has_its_default() -> None:
    manifest = parse_manifest(LEAST)
    assert (manifest.disk_path, manifest.config_path) == ("firmware_images/boot.bin", "latest_firmware.json")
    assert manifest.confirm_receipt and manifest.is_signed
    assert (manifest.security_version, manifest.hardware, manifest.keep) == (0, None, None)
    assert manifest.rollout == Rollout() and manifest.config_format == "text"
    assert manifest.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_manifest_survives_being_written_and_read() -> None:
    waves = (Wave(25, datetime(2026, 1, 3, tzinfo=UTC)), Wave(10_000, datetime(2026, 2, 3, tzinfo=UTC)))
    manifest = Manifest(
        id="r1",
        time=datetime(2026, 1, 2, tzinfo=UTC),
        file_name="böot",
        component="s3_firmware_ota",
        version="1.2",
        hardware="pi4",
        security_version=3,
        cloud_path="x/y",
        disk_path="a/b.bin",
        config_path="a/c.json",
        confirm_receipt=False,
        rollout=Rollout("salz", waves, True),
        config_format="json",
        requires_agent="1.0",
        requires_free_bytes=10,
        keep=2,
    )
    custom = json.loads(json.dumps(manifest.to_custom()))
    assert parse_manifest(custom) == manifest
    assert custom["rollout"]["waves"][0]["percent"] == "0.25" and custom["rollout"]["waves"][1]["percent"] == 100


def test_a_rollout_without_a_salt_survives_being_written_and_read() -> None:
    manifest = parse_manifest(LEAST)
    assert manifest.rollout.salt == "" == manifest.to_custom()["rollout"]["salt"]
    assert parse_manifest(manifest.to_custom()) == manifest


def test_fields_that_a_newer_publisher_adds_are_passed_over() -> None:
    assert parse_manifest({**LEAST, "colour": "green"}) == parse_manifest(LEAST)


@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_field_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ManifestRejected, match=name):
        parse_manifest({key: value for key, value in LEAST.items() if key != name})


@pytest.mark.parametrize("name", [*LEAST, "hardware", "security_version", "cloud_path", "disk_path", "config_path"])
@pytest.mark.parametrize("value", [True, [], {}, -1, 1.5])
def test_a_field_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(ManifestRejected):
        parse_manifest({**LEAST, name: value})


@pytest.mark.parametrize(
    "more",
    [
        {"schema": 2},
        {"schema": "1"},
        {"id": "a b"},
        {"id": "x" * 65},
        {"time": "yesterday"},
        {"time": "2026-01-02"},
        {"time": "2026-02-30T00:00:00Z"},
        {"file_name": "a/b"},
        {"file_name": ".."},
        {"file_name": "a\nb"},
        {"file_name": "a\0b"},
        {"file_name": "\ud800"},
        {"file_name": "x" * 201},
        {"component": "a/b"},
        {"version": ""},
        {"version": "1\n2"},
        {"security_version": 2**63},
        {"confirm_receipt": 1},
        {"config_format": "xml"},
        {"keep": 101},
        {"requires": []},
        {"requires": {"free_bytes": -1}},
        {"requires": {"agent": "new"}},
        {"rollout": {"waves": {}}},
        {"rollout": {"waves": [{"percent": 5}]}},
        {"rollout": {"waves": [{"percent": 101, "not_before": "2026-01-02T03:04:05Z"}]}},
        {"rollout": {"waves": [{"percent": 0.5, "not_before": "2026-01-02T03:04:05Z"}]}},
        {"rollout": {"waves": [{"percent": True, "not_before": "2026-01-02T03:04:05Z"}]}},
        {"rollout": {"halt": "no"}},
    ],
)
def test_a_value_out_of_its_bounds_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ManifestRejected):
        parse_manifest({**LEAST, **more})


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../x", "a//b", "a/", "./a", ".", "..", "a\0b", "a\x1bb", "x" * 300, "a/" * 20 + "b"],
)
@pytest.mark.parametrize("name", ["disk_path", "config_path"])
def test_a_path_that_leads_out_is_refused(name: str, path: str) -> None:
    with pytest.raises(ManifestRejected, match=name):
        parse_manifest({**LEAST, name: path})


@pytest.mark.parametrize(("disk", "config"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_image_and_config_may_not_be_in_each_others_way(disk: str, config: str) -> None:
    with pytest.raises(ManifestRejected):
        parse_manifest({**LEAST, "disk_path": disk, "config_path": config})


@pytest.mark.parametrize("custom", [None, [], "x", 1, {1: 2}])
def test_what_is_no_object_is_no_manifest(custom: object) -> None:
    with pytest.raises(ManifestRejected):
        parse_manifest(custom)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from([*LEAST, "rollout", "waves", "requires"]), inner)
        ),
    )
)
def test_whatever_is_signed_it_is_a_manifest_or_refused(value: object) -> None:
    for custom in (value, {**LEAST, "rollout": value}, {**LEAST, "requires": value}):
        with contextlib.suppress(ManifestRejected):
            parse_manifest(custom)


def test_the_original_s_manifest_is_read_and_is_not_signed() -> None:
    manifest = parse_unsigned(json.dumps(ORIGINAL).encode(), component="ota")
    assert (manifest.disk_path, manifest.config_path) == ("firmware_images/boot.bin", "latest_firmware.json")
    assert (manifest.component, manifest.version, manifest.is_signed, manifest.sha256) == ("ota", "7", False, None)
    whole = {"msg_id": "x", "msg_type": "firmware_image", "msg_content": {**ORIGINAL, "sha256": "AB" * 32}}
    assert parse_unsigned(json.dumps(whole).encode(), component="ota").sha256 == "ab" * 32


@given(st.binary(max_size=300))
def test_any_bytes_are_an_unsigned_manifest_or_refused(data: bytes) -> None:
    for each in (data, b"[" * 100_000, b"9" * 50_000, b""):
        with pytest.raises(ManifestRejected):
            parse_unsigned(each, component="ota")


@pytest.mark.parametrize("more", [{"cloud_path": None}, {"disk_path": "../x"}, {"sha256": "short"}, {"msg_content": 1}])
def test_an_unsigned_manifest_is_confined_as_well(more: dict[str, object]) -> None:
    with pytest.raises(ManifestRejected):
        parse_unsigned(json.dumps({**ORIGINAL, **more}).encode(), component="ota")


def test_the_config_is_the_name_alone_or_says_all() -> None:
    manifest = parse_manifest({**LEAST, "config_format": "json"})
    assert config_text(parse_manifest(LEAST), sha256="ab", size_bytes=3) == b"boot"
    said = json.loads(config_text(manifest, sha256="ab", size_bytes=3))
    assert said == {
        "file_name": "boot",
        "sha256": "ab",
        "length": 3,
        "version": "2026.1",
        "disk_path": "firmware_images/boot.bin",
    }


def test_names_in_metadata_and_bucket() -> None:
    assert target_path("stable", "cam") == "stable/cam/image"
    assert image_name("stable", "cam", "ab") == "stable/cam/ab.image"
    assert parse_time("2026-01-02t03:04:05.123456789+01:00").hour == 2
