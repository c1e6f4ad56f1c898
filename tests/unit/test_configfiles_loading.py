"""What a configuration directory means: inheritance, keywords, lists of types, what is active and what is ignored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.settings import Settings
from syncagent.core.settings_view import origin_of
from syncagent.edges.configfiles import identify, load_settings

STORE = {"source": "s3", "bucket_name": "pictures"}
ADDRESS = {"message_type": "image_info", "carrier": "store", "duration": "on_change"}
GOOD: dict[str, Any] = {"carriers/store.json": STORE, "addresses/camera.json": ADDRESS}
EXAMPLES = Path(__file__).parents[2] / "configs"


def load(directory: Path, files: dict[str, Any], who: str = "pi") -> Settings:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return load_settings(str(directory), identity=lambda what: f"{who}-{what}")


def test_the_files_of_the_original_load_unchanged() -> None:
    settings = load_settings(str(EXAMPLES), identity=identify)
    assert settings.warnings == ()
    assert settings.system.id == "field-7"
    (address,) = settings.addresses
    assert (address.name, address.configured_name) == ("s3_upload_image_info", "s3_upload")
    assert (address.message_type, address.duration, address.sub_path) == ("image_info", "on_message", "field-7")
    assert (address.handler, address.handler_function) == (None, None)
    assert (address.carrier.name, address.carrier.path, address.carrier.system_id) == ("s3_image", "camera", "field-7")
    (task,) = settings.tasks
    assert (task.name, task.message_type) == ("download_new_firmware_image", "firmware_image")
    assert task.function == "handle_new_firmware_message"
    assert (task.carrier.path, task.carrier.firmware.component) == ("firmware_images", "s3_firmware_ota")
    assert set(settings.messages) == {"image_info", "firmware_image"}


def test_the_demo_is_a_configuration_of_its_own() -> None:
    settings = load_settings(str(EXAMPLES / "demo"), identity=identify)
    (address,) = settings.addresses
    assert settings.warnings == ()
    assert (address.duration, address.carrier.path, address.sub_path) == ("on_change", "camera", "demo-camera")
    assert address.carrier.endpoint_url == "http://127.0.0.1:9000"
    assert address.carrier.default_cloud_path == ""


def test_without_a_system_file_the_id_is_the_hostname_and_all_is_active(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD | {"addresses/other.json": ADDRESS})
    assert settings.system.id == "pi-hostname"
    assert [address.name for address in settings.addresses] == ["camera", "other"]


def test_only_what_the_system_file_names_is_active_and_the_rest_may_be_incomplete(tmp_path: Path) -> None:
    files = GOOD | {"system/s.json": {"id": "a", "addresses": ["camera"]}, "addresses/idea.json": {"duration": 5}}
    assert [address.name for address in load(tmp_path, files).addresses] == ["camera"]


def test_the_system_file_may_name_one_split_address(tmp_path: Path) -> None:
    address = ADDRESS | {"message_type": ["a", "b"]}
    files = GOOD | {"addresses/camera.json": address, "system/s.json": {"addresses": ["camera_b"]}}
    assert [address.name for address in load(tmp_path, files).addresses] == ["camera_b"]


@pytest.mark.parametrize("word", ["hostname", "machine_id", "pi_serial", "i2c"])
def test_the_id_may_be_asked_of_the_device(word: str, tmp_path: Path) -> None:
    assert load(tmp_path, GOOD | {"system/s.yaml": f"id: ${word}"}).system.id == f"pi-{word}"


def test_parents_are_merged_deeply_from_left_to_right_and_own_keys_come_last(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/one.json": {"upload": {"workers": 1, "stall_s": 11}, "watch": {"ignore": ["1"]}, "path": "one"},
        "carriers/two.yaml": "upload: {workers: 2}\nwatch: {ignore: ['2']}\npath: two\n",
        "carriers/store.json": STORE | {"inheritance": ["one", "two"], "path": "own"},
    }
    carrier = load(tmp_path, files).addresses[0].carrier
    assert (carrier.upload.workers, carrier.upload.stall_s) == (2, 11)
    assert carrier.watch.ignore == ("2",)
    assert carrier.path == "own"


def test_the_parents_of_a_parent_are_inherited(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/old.json": {"upload": {"workers": 7}},
        "carriers/base.json": {"inheritance": ["old"], "path": "base"},
        "carriers/store.json": STORE | {"inheritance": ["base"]},
    }
    carrier = load(tmp_path, files).addresses[0].carrier
    assert (carrier.upload.workers, carrier.path) == (7, "base")


def test_null_resets_what_a_parent_set(tmp_path: Path) -> None:
    base = {"upload": {"workers": 9, "metadata": {"a": "b", "c": "d"}}, "watch": {"settle_s": 5}}
    own = {"inheritance": ["base"], "upload": {"workers": None, "metadata": {"a": None}}, "watch": None}
    carrier = (
        load(tmp_path, GOOD | {"carriers/base.json": base, "carriers/store.json": STORE | own}).addresses[0].carrier
    )
    assert carrier.upload.workers == 4
    assert carrier.upload.metadata == {"c": "d"}
    assert carrier.watch.settle_s == 1


def test_a_parent_that_is_incomplete_is_not_active_itself(tmp_path: Path) -> None:
    files = {
        "carriers/store.json": STORE,
        "addresses/base.json": {"carrier": "store", "duration": 60},
        "addresses/camera.json": {"inheritance": ["base"], "message_type": "image_info"},
    }
    (address,) = load(tmp_path, files).addresses
    assert (address.name, address.duration) == ("camera", 60.0)


def test_a_list_of_message_types_makes_one_address_each(tmp_path: Path) -> None:
    files = GOOD | {"addresses/camera.json": ADDRESS | {"message_type": ["image_info", "clip"]}}
    addresses = load(tmp_path, files).addresses
    assert [address.name for address in addresses] == ["camera_image_info", "camera_clip"]
    assert {address.configured_name for address in addresses} == {"camera"}


def test_keywords_are_replaced_wherever_they_stand(tmp_path: Path) -> None:
    carrier = STORE | {
        "path": "img_$system_id-$msg_type",
        "default_cloud_path": "$name_x/{file_name}",
        "system_id": "$system_id",
        "upload": {"metadata": {"from": "a$$b$name", "price": "5$"}},
    }
    address = ADDRESS | {
        "message_type": ["a", "b"],
        "additional_info": {"sub_path": "$name", "deep": [{"x": "$msg_type"}]},
    }
    files = {"carriers/store.json": carrier, "addresses/camera.json": address, "system/s.json": {"id": "field-7"}}
    first, second = load(tmp_path, files).addresses
    assert first.carrier.path == "img_field-7-a"
    assert second.carrier.path == "img_field-7-b"
    assert first.carrier.default_cloud_path == "store_x/{file_name}"
    assert first.carrier.system_id == "field-7"
    assert first.carrier.upload.metadata == {"from": "a$bstore", "price": "5$"}
    assert (first.sub_path, second.sub_path) == ("camera_a", "camera_b")
    assert first.additional_info["deep"] == [{"x": "a"}]


def test_name_is_that_of_the_heir(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/base.json": {"path": "$name"},
        "carriers/store.json": STORE | {"inheritance": ["base"]},
    }
    assert load(tmp_path, files).addresses[0].carrier.path == "store"


def test_credentials_and_the_password_are_literal(tmp_path: Path) -> None:
    carrier = STORE | {"access_key_id": "$name$$", "secret_access_key": "${a$name"}
    files = GOOD | {"carriers/store.json": carrier, "system/s.json": {"id": "a", "web": {"password": "$$x"}}}
    settings = load(tmp_path, files)
    found = settings.addresses[0].carrier
    assert (found.access_key_id, found.secret_access_key) == ("$name$$", "${a$name")
    assert settings.system.web.password == "$$x"


def test_the_system_id_of_a_carrier_that_is_left_out_stays_default(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).addresses[0].carrier.system_id == "default"


def test_one_slash_at_either_end_is_taken_off(tmp_path: Path) -> None:
    files = GOOD | {"carriers/store.json": STORE | {"path": "/a/b/", "default_cloud_path": "/x/{file_name}"}}
    carrier = load(tmp_path, files).addresses[0].carrier
    assert (carrier.path, carrier.default_cloud_path) == ("a/b", "x/{file_name}")


def test_what_is_not_ours_is_ignored_with_one_warning_each(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/broker.json": {"source": "mqtt", "host": "192.0.2.1", "password": "hush"},
        "addresses/report.json": {"carrier": "broker", "duration": "always", "send_or_receive": "receive"},
        "tasks/blink.json": {"source_type": "sensor", "function": "blink", "config_name": "led", "duration": "always"},
        "tasks/reboot.json": {"source_type": "carrier", "function": "reboot", "config_name": "broker"},
        "filters/x.json": "{",
        "notes/readme.txt": "x",
        "stray.json": "{}",
        ".git/x.json": "{",
    }
    settings = load(tmp_path, files)
    named = sorted(os.path.relpath(warning.split(": ")[0], tmp_path) for warning in settings.warnings)
    ours = "addresses/report.json carriers/broker.json filters notes stray.json tasks/blink.json tasks/reboot.json"
    assert named == ours.split()
    assert "hush" not in "".join(settings.warnings)
    assert [address.name for address in settings.addresses] == ["camera"]
    assert settings.tasks == ()


def test_the_root_of_trust_is_not_said_to_be_ignored(tmp_path: Path) -> None:
    task = {"config_name": "ota", "message_type": "firmware_image", "function": "handle_new_firmware_message"}
    files: dict[str, Any] = {"root.json": {}, "other.json": {}, "tasks/t.json": task}
    for root, ignored in (("root.json", ["other.json"]), ("trust/root.json", ["other.json", "root.json"])):
        files["carriers/ota.json"] = STORE | {"path": "firmware_images", "firmware": {"root": root}}
        (tmp_path / "trust").mkdir(exist_ok=True)
        told = [warning.partition(": ignored")[0] for warning in load(tmp_path, files).warnings]
        assert [os.path.basename(path) for path in told] == [*ignored, *(["trust"] if root == "root.json" else [])]


def test_an_address_that_is_not_ours_may_be_named_as_active(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/broker.json": {"source": "mqtt"},
        "addresses/report.json": {"carrier": "broker"},
        "system/s.json": {"addresses": ["camera", "report"]},
    }
    assert [address.name for address in load(tmp_path, files).addresses] == ["camera"]


def test_other_files_folders_and_hidden_names_in_a_folder_are_ignored(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/notes.txt": "x",
        "carriers/.x.json": "{",
        "carriers/old/y.json": "{",
        "carriers/z.json~": "{",
    }
    assert load(tmp_path, files).warnings == ()


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    (tmp_path / "addresses" / "..data").mkdir()
    (tmp_path / "addresses" / "..data" / "linked.json").write_text(json.dumps(ADDRESS))
    (tmp_path / "addresses" / "linked.json").symlink_to("..data/linked.json")
    assert [address.name for address in load(tmp_path, {}).addresses] == ["camera", "linked"]


def test_a_handler_is_resolved(tmp_path: Path) -> None:
    address = ADDRESS | {"handler": "thumb", "handler_function": "shrink"}
    files = GOOD | {"addresses/camera.json": address, "handlers/thumb.json": {"source": "thumbnails"}}
    (found,) = load(tmp_path, files).addresses
    assert found.handler is not None
    assert (found.handler.name, found.handler.source, found.handler_function) == ("thumb", "thumbnails", "shrink")


def test_a_device_is_kept_with_its_address_as_a_number(tmp_path: Path) -> None:
    files = GOOD | {
        "devices/base.json": {"bus": 3},
        "devices/clock.json": {"inheritance": ["base"], "source": "ds3231", "address": "0x68"},
    }
    devices = load(tmp_path, files).devices
    assert list(devices) == ["clock"]
    expected = {"source": "ds3231", "bus": 3, "address": 0x68, "attach": False}
    assert {key: devices["clock"][key] for key in expected} == expected


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    files = GOOD | {"carriers/store.json": "\ufeff" + json.dumps(STORE)}
    del files["addresses/camera.json"]
    files["addresses/camera.yaml"] = "\ufeffmessage_type: image_info\ncarrier: store\nduration: on_change\n"
    assert len(load(tmp_path, files).addresses) == 1


def test_yaml_words_that_are_no_json_words_stay_strings(tmp_path: Path) -> None:
    info = "{a: no, b: 08:00, c: 2024-01-02, d: 0x10, e: 010, f: True, g: 1_000, h: 1e3, i: ~, j: '5', k: =, l: .inf}"
    text = f"message_type: off\ncarrier: store\nduration: 5\nadditional_info: {info}\n"
    files = {"carriers/store.json": STORE, "addresses/camera.yaml": text}
    (address,) = load(tmp_path, files).addresses
    assert address.message_type == "off"
    expected = {"a": "no", "b": "08:00", "c": "2024-01-02", "d": "0x10", "e": "010", "f": "True", "g": "1_000"}
    expected_rest = {"h": 1000.0, "i": None, "j": "5", "k": "=", "l": ".inf"}
    assert address.additional_info == expected | expected_rest


def test_every_value_knows_the_file_and_line_that_set_it(tmp_path: Path) -> None:
    files = GOOD | {
        "carriers/base.yaml": "upload:\n  workers: 2\n",
        "carriers/store.json": STORE | {"inheritance": ["base"]},
    }
    settings = load(tmp_path, files)
    prefix = ("addresses", "camera", "carrier")
    assert origin_of(settings, (*prefix, "upload", "workers")) == f"{tmp_path}/carriers/base.yaml:2"
    assert origin_of(settings, (*prefix, "bucket_name")) == f"{tmp_path}/carriers/store.json:3"
    assert origin_of(settings, (*prefix, "name")) == f"{tmp_path}/addresses/camera.json:3"
    assert origin_of(settings, (*prefix, "upload", "stall_s")) == "default"


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://[2001:db8::1]:9000",
        "http://[fe80::1%25eth0]:9",
        "https://nas-1.example.:443",
        "http://nas",
        "http://192.0.2.1",
    ],
)
def test_an_endpoint_is_a_name_or_an_address_of_either_kind(endpoint: str, tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD | {"carriers/store.json": STORE | {"endpoint_url": endpoint}})
    (address,) = settings.addresses
    assert address.carrier.endpoint_url == endpoint
