"""Every key of the groups has the default that is documented for it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from syncagent.core.constraints import DURATIONS
from syncagent.core.settings import Carrier, System
from syncagent.core.settings_files import KINDS, SystemFile
from syncagent.core.settings_schema import json_schema

CARRIER: dict[str, object] = {
    "bucket_name": None,
    "access_key_id": None,
    "secret_access_key": None,
    "path": "",
    "default_cloud_path": "",
    "system_id": "default",
    "endpoint_url": None,
    "region": None,
    "watch.settle_s": 1.0,
    "watch.max_unsettled_s": None,
    "watch.scan_s": 30,
    "watch.events": "auto",
    "watch.include": ("*",),
    "watch.ignore": (".*", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.swp", "*~", "tmpfile??????"),
    "upload.workers": 4,
    "upload.multipart_bytes": 8388608,
    "upload.part_bytes": 5242880,
    "upload.order": "oldest",
    "upload.on_rewrite": "suffix",
    "upload.verify": "digest",
    "upload.retry_min_s": 1,
    "upload.retry_max_s": 300,
    "upload.connect_timeout_s": 10,
    "upload.stall_s": 30,
    "upload.max_bytes_per_s": None,
    "upload.timetable": {},
    "upload.metered": None,
    "upload.allowed_roots": (),
    "upload.storage_class": None,
    "upload.metadata": {},
    "retention.keep_days": None,
    "retention.keep_files": None,
    "retention.keep_bytes": None,
    "retention.min_free_percent": None,
    "retention.min_free_bytes": None,
    "retention.min_free_inodes_percent": None,
    "retention.when_full": "stop",
    "retention.drop_order": "oldest",
    "retention.remove_empty_directories": False,
    "firmware.poll_s": 900,
    "firmware.root": None,
    "firmware.channel": "stable",
    "firmware.component": None,
    "firmware.hardware": None,
    "firmware.max_image_bytes": 67108864,
    "firmware.keep": 1,
    "firmware.allow_unsigned": False,
    "firmware.hooks": {},
    "firmware.directory": None,
    "firmware.mode": "0644",
    "firmware.group": None,
    "firmware.expiry_grace_days": 0,
    "store.addressing_style": "auto",
    "store.checksums": None,
    "store.conditional_writes": None,
    "store.multipart": None,
}
SYSTEM: dict[str, object] = {
    "web.listen": "127.0.0.1:8384",
    "web.password": None,
    "heartbeat_s": 900,
    "messages.wait_file_s": 86400,
    "health.max_unsent_s": 3600,
    "log_level": "info",
}


def reach(value: object, key: str) -> object:
    for step in key.split("."):
        value = getattr(value, step)
    return value


def leaves(value: Any, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field in attrs.fields(type(value)):
        child = getattr(value, field.name)
        if attrs.has(type(child)):
            found |= leaves(child, f"{prefix}{field.name}.")
        else:
            found.add(prefix + field.name)
    return found


@pytest.mark.parametrize("key", CARRIER)
def test_a_carrier_key_has_its_documented_default(key: str) -> None:
    assert reach(Carrier(name="store"), key) == CARRIER[key]


@pytest.mark.parametrize("key", SYSTEM)
def test_a_system_key_has_its_documented_default(key: str) -> None:
    assert reach(System(id="field-7"), key) == SYSTEM[key]


def test_there_is_no_key_without_a_documented_default() -> None:
    assert leaves(Carrier(name="store")) == {*CARRIER, "name", "source"}
    assert leaves(System(id="field-7")) == {*SYSTEM, "id"}
    assert SystemFile().id == "$hostname"


def test_the_schema_of_every_kind_knows_every_key_and_no_other() -> None:
    for kind, cls in KINDS.items():
        schema: Any = json_schema(kind)
        assert set(schema["properties"]) == {field.name for field in attrs.fields(cls)}
        assert schema["additionalProperties"] is False


def test_the_schema_tells_the_same_bounds_that_are_enforced() -> None:
    carriers: Any = json_schema("carriers")
    upload = carriers["properties"]["upload"]["anyOf"][0]["properties"]
    assert upload["part_bytes"]["anyOf"][0]["minimum"] == 5242880
    assert upload["part_bytes"]["default"] == 5242880
    assert upload["order"]["anyOf"][0]["enum"][0] == "oldest"
    assert carriers["properties"]["secret_access_key"]["anyOf"][0]["writeOnly"] is True
    addresses: Any = json_schema("addresses")
    assert addresses["properties"]["duration"]["anyOf"][0]["anyOf"][0]["enum"] == list(DURATIONS)


def test_a_repr_shows_no_secret() -> None:
    carrier = Carrier(name="store", access_key_id="AKIA-hush", secret_access_key="hush-hush")
    assert "hush" not in repr(carrier) + str(carrier)
