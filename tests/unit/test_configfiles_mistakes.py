"""Every mistake is told at once, with its file, line and key, what is wrong and the way out."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.errors import ConfigError, Problem
from syncagent.edges.configfiles import load_settings

STORE = {"source": "s3", "bucket_name": "pictures"}
ADDRESS = {"message_type": "image_info", "carrier": "store", "duration": "on_change"}
GOOD: dict[str, Any] = {"carriers/store.json": STORE, "addresses/camera.json": ADDRESS}


def write(directory: Path, files: dict[str, Any]) -> str:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content, indent=1)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(directory)


def problems_of(directory: Path, files: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(directory, files), identity=lambda what: "pi")
    for problem in caught.value.problems:
        assert problem.what and problem.remedy, "a problem without a way out"
    return caught.value.problems


def carrier(**keys: object) -> dict[str, Any]:
    return GOOD | {"carriers/store.json": STORE | keys}


def address(**keys: object) -> dict[str, Any]:
    return GOOD | {"addresses/camera.json": ADDRESS | keys}


def added(name: str, content: object) -> dict[str, Any]:
    return GOOD | {name: content}


TASK = {
    "source_type": "carrier",
    "config_name": "store",
    "function": "handle_new_firmware_message",
    "message_type": "firmware_image",
}


def ota(component: str | None) -> dict[str, Any]:
    return STORE | {"firmware": {"component": component}}


#: Two tasks, each with a carrier of its own.
TWO_TASKS = GOOD | {"tasks/one.json": TASK | {"config_name": "ota1"}, "tasks/two.json": TASK | {"config_name": "ota2"}}

#: (files, what the text of one problem must contain)
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "two carriers for one component": (
        TWO_TASKS | {"carriers/ota1.json": ota("cam"), "carriers/ota2.json": ota("cam")},
        'carriers/ota2.json:5: firmware.component: the component "cam" gets its firmware from ',
    ),
    "a component that is called as another's carrier": (
        TWO_TASKS | {"carriers/ota1.json": ota(None), "carriers/ota2.json": ota("ota1")},
        "carriers/ota1.json already (task one) -- give one of them another firmware.component",
    ),
    "a carrier whose name no component can have": (
        GOOD | {"tasks/one.json": TASK | {"config_name": "s3.ota"}, "carriers/s3.ota.json": ota(None)},
        "firmware.component: the carrier's name, \"s3.ota\", cannot be a component's -- name the component, with",
    ),
    "a string for a number": (carrier(upload={"workers": "4"}), 'upload.workers: a string ("4") is not a whole'),
    "true for a number": (carrier(watch={"settle_s": True}), "watch.settle_s: true or false (true) is not a number"),
    "a float for an int": (carrier(upload={"workers": 4.0}), "upload.workers: a number (4.0) is not a whole number"),
    "a number for a string": (carrier(path=4), "path: a number (4) is not a string"),
    "a scalar for a group": (carrier(watch=3), "watch: a number is not a mapping"),
    "a string for a list": (carrier(watch={"ignore": "*.x"}), "watch.ignore: a string is not a list"),
    "a part too small": (carrier(upload={"part_bytes": 1024}), "upload.part_bytes: 1024 is below 5242880"),
    "a negative time": (carrier(watch={"settle_s": -1}), "watch.settle_s: -1 is below 0"),
    "no include": (carrier(watch={"include": []}), "watch.include: this is empty"),
    "an unknown word": (carrier(upload={"order": "newst"}), 'did you mean "newest"?'),
    "an unknown key": (carrier(bucket="x"), 'bucket: unknown key -- did you mean "bucket_name"?'),
    "an unknown key that is null": (carrier(buket_name=None), "buket_name: unknown key"),
    "an unknown key in a group": (
        carrier(upload={"worker": 4}),
        'upload.worker: unknown key -- did you mean "workers"',
    ),
    "a key of a group outside": (carrier(settle_s=1), 'settle_s: unknown key -- it belongs into "watch"'),
    "a sub_path outside": (address(sub_path="x"), 'it belongs into "additional_info"'),
    "no bucket": (added("carriers/store.json", {"source": "s3"}), "bucket_name: an active carrier needs its bucket"),
    "no source": (
        added("carriers/store.json", {"bucket_name": "b"}),
        'source: this key is missing -- say "source": "s3"',
    ),
    "half of the credentials": (carrier(access_key_id="a"), "secret_access_key: access_key_id is set and this is not"),
    "a source in capitals": (carrier(source="S3"), 'source: "S3" is not known -- did you mean "s3"?'),
    "a source with a slip": (carrier(source="s4"), 'did you mean "s3"?'),
    "a source with decoration": (carrier(source="aws_s3"), 'did you mean "s3"?'),
    "an empty segment": (carrier(path="a//b"), 'path: "a//b" has the segment ""'),
    "two slashes": (carrier(path="a//"), 'path: "a//" has the segment ""'),
    "a dot segment": (carrier(path="./a"), 'has the segment "."'),
    "a way up": (carrier(system_id="../x"), 'system_id: "../x" has the segment ".."'),
    "a way up in sub_path": (
        address(additional_info={"sub_path": "a/../b"}),
        'additional_info.sub_path: "a/../b" has the segment ".."',
    ),
    "a control character": (carrier(path="a\nb"), "path: a control character"),
    "the inbox as a path": (carrier(path="messages/x"), "choose another path"),
    "an unknown placeholder": (
        carrier(default_cloud_path="{filename}"),
        "{filename} is no placeholder -- did you mean",
    ),
    "an empty placeholder": (carrier(default_cloud_path="a/{}"), "{} is no placeholder"),
    "a template that leads up": (carrier(default_cloud_path="../{file_name}"), 'has the segment ".."'),
    "an endpoint with a path": (carrier(endpoint_url="http://h/x"), "endpoint_url: this is no endpoint"),
    "an endpoint without scheme": (carrier(endpoint_url="h:9000"), "endpoint_url: this is no endpoint"),
    "an endpoint with a bad port": (carrier(endpoint_url="http://h:99999"), "the port is no number"),
    "an endpoint whose bracket stays open": (carrier(endpoint_url="http://[::1"), "this is no host name or address"),
    "an endpoint with brackets around nothing": (carrier(endpoint_url="http://[]:9"), "this is no host name or"),
    "an endpoint with IPv4 in brackets": (carrier(endpoint_url="http://[192.0.2.1]:9"), "this is no host name or"),
    "an endpoint without brackets": (carrier(endpoint_url="http://2001:db8::1"), "this is no host name or address"),
    "an endpoint of dots": (carrier(endpoint_url="http://.."), "this is no host name or address"),
    "an endpoint with an underscore": (carrier(endpoint_url="http://my_nas:9000"), "this is no host name or address"),
    "an endpoint beyond ASCII": (carrier(endpoint_url="https://münchen.example"), "this is no host name or address"),
    "a timetable without zeros": (carrier(upload={"timetable": {"8:00-9:00": 1}}), '"8:00-9:00" is no time of day'),
    "a timetable past midnight": (carrier(upload={"timetable": {"08:00-25:00": 1}}), "is no time of day"),
    "an empty window": (carrier(upload={"timetable": {"08:00-08:00": 1}}), '"08:00-08:00" is empty'),
    "windows that overlap": (
        carrier(upload={"timetable": {"22:00-06:00": 1, "05:00-07:00": 2}}),
        '"05:00-07:00" overlaps "22:00-06:00"',
    ),
    "metadata that is no string": (carrier(upload={"metadata": {"site": 4}}), "upload.metadata.site: a number (4)"),
    "metadata beyond ASCII": (carrier(upload={"metadata": {"site": "café"}}), "does not fit a header"),
    "metadata of ours": (carrier(upload={"metadata": {"syncagent-x": "y"}}), "is the agent's own"),
    "a relative root": (carrier(upload={"allowed_roots": ["x"]}), 'upload.allowed_roots[0]: "x" is no absolute path'),
    "waits in the wrong order": (carrier(upload={"retry_min_s": 400}), "400 is above retry_max_s, 300"),
    "a metered key": (carrier(upload={"metered": {"budget": 1}}), "upload.metered.budget: unknown key"),
    "an unknown keyword": (carrier(path="$sytem_id"), 'path: $sytem_id is not a keyword -- did you mean "$system_id"?'),
    "a keyword run on": (carrier(path="$namex"), "path: $namex is not a keyword"),
    "an identity in a carrier": (carrier(path="$hostname"), "$hostname is not a keyword"),
    "a keyword in braces": (carrier(path="${name}"), '"${" begins no keyword'),
    "always": (
        address(duration="always"),
        '"always" is not defined for this carrier -- use on_change, on_message, as_n',
    ),
    "seconds in quotes": (address(duration="60"), "write the number of seconds without quotes"),
    "no time at all": (address(duration=0), "duration: 0 seconds"),
    "true as a duration": (address(duration=True), "duration: true or false is no duration"),
    "an unknown duration": (address(duration="onchange"), 'did you mean "on_change"?'),
    "no duration": (address(duration=None), "duration: this key is missing"),
    "no carrier": (address(carrier=None), "carrier: this key is missing"),
    "a missing carrier": (address(carrier="stoer"), 'there is no "stoer" in carriers/ -- did you mean "store"?'),
    "receive": (address(send_or_receive="receive"), "send_or_receive: receiving is not defined for an s3 carrier"),
    "no message type": (address(message_type=None), "message_type: this key is missing"),
    "an empty list of types": (address(message_type=[]), "message_type: an empty list"),
    "a type twice": (address(message_type=["a", "a"]), "message_type: a message type stands twice"),
    "a type that is a path": (address(message_type="a/b"), 'message_type: "a/b" is no message type'),
    "a type that is a folder of ours": (address(message_type="rejected"), '"rejected" is where refused'),
    "a missing handler": (address(handler="x", handler_function="f"), 'there is no "x" in handlers/'),
    "a handler without function": (
        address(handler="x") | {"handlers/x.json": {"source": "x"}},
        "handler_function: handler is set and this is not",
    ),
    "a missing parent": (address(inheritance=["bse"]), 'inheritance[0]: there is no "bse" in addresses/'),
    "a parent that is no list": (address(inheritance="base"), "inheritance: a string is not a list"),
    "a parent of itself": (address(inheritance=["camera"]), "a cycle of inheritance: camera -> camera"),
    "an unknown active address": (
        added("system/s.json", {"addresses": ["camera", "camra"]}),
        'addresses[1]: there is no "camra" in addresses/ -- did you mean "camera"?',
    ),
    "nothing active": (added("system/s.json", {"addresses": [], "tasks": []}), "nothing active remains"),
    "two systems": (GOOD | {"system/a.json": {}, "system/b.json": {}}, "there is more than one system file"),
    "an open page": (added("system/s.json", {"web": {"listen": "0.0.0.0:80"}}), "web.listen: "),
    "a page nowhere": (added("system/s.json", {"web": {"listen": "here"}}), '"here" is no address'),
    "an id that leads up": (added("system/s.json", {"id": ".."}), 'id: ".." has the segment ".."'),
    "a keyword beside an id that is asked": (
        added("system/s.json", {"id": "$hostname", "web": {"listen": "$nme"}}),
        "web.listen: $nme is not a keyword",
    ),
    "an id of itself": (added("system/s.json", {"id": "$system_id"}), "$system_id has no meaning here"),
    "a nearly known folder": (added("carrier/x.json", {}), 'rename it to "carriers"'),
    "another nearly known folder": (added("adresses/x.json", {}), 'rename it to "addresses"'),
    "a folder in capitals": (added("Tasks/x.json", {}), 'rename it to "tasks"'),
    "a nearly known function": (
        added("tasks/t.json", TASK | {"function": "handle_new_firmware_mesage"}),
        'did you mean "handle_new_firmware_message"?',
    ),
    "a task without a carrier": (added("tasks/t.json", TASK | {"config_name": "x"}), 'config_name: there is no "x"'),
    "two files of one name": (added("carriers/store.yaml", "source: s3"), "has the same name"),
    "an unknown device": (added("devices/clock.json", {"source": "ds3213"}), 'did you mean "ds3231"?'),
    "a device without source": (added("devices/clock.json", {}), "source: this key is missing"),
    "two devices at one address": (
        added("devices/a.json", {"source": "lm75", "address": "0x48"})
        | added("devices/b.json", {"source": "tmp102", "address": 72}),
        "devices/a is at 0x48 on bus 1, too",
    ),
    "two names of one identity": (
        added("devices/a.json", {"source": "at24mac", "address": "0x50"})
        | added("devices/b.json", {"source": "at24mac"}),
        "devices/a is at 0x58 on bus 1, too",
    ),
    "an address off the bus": (added("devices/c.json", {"source": "ds3231", "address": "0x78"}), "is no I2C address"),
    "a pause above its end": (
        added("devices/c.json", {"source": "ina219", "pause_below_v": 4, "resume_above_v": 3}),
        "3 is below pause_below_v, 4",
    ),
    "a limit on what is not measured": (
        added("devices/c.json", {"source": "ina219", "pause_below_percent": 15}),
        'pause_below_percent: "ina219" does not measure that -- it measures volts and amps',
    ),
    "a limit on a part that measures nothing": (
        added("devices/c.json", {"source": "at24mac", "pause_above_c": 60}),
        'pause_above_c: "at24mac" does not measure that -- it measures nothing',
    ),
    "a key twice in JSON": (
        added("carriers/x.json", '{"path": "a",\n "path": "b"}'),
        "x.json:2: path: this key stands twice",
    ),
    "a key twice in YAML": (added("carriers/x.yaml", "path: a\npath: b\n"), "x.yaml:2: path: this key stands twice"),
    "NaN": (
        added("carriers/x.json", '{"watch":\n {"settle_s": NaN}}'),
        "x.json:2: watch.settle_s: NaN and Infinity are not values",
    ),
    "minus infinity": (added("carriers/x.json", '{"a": -Infinity}'), "NaN and Infinity are not values"),
    "a number beyond floats": (added("carriers/x.json", '{"a": 1e999}'), "this number is too large"),
    "a trailing comma": (added("carriers/x.json", '{"a": 1,\n}'), "x.json:2: a key in double quotes is missing here"),
    "a missing quote": (added("carriers/x.json", '{"a": "b,\n "c": 1}'), "x.json:1: a string has no closing quote"),
    "text behind the end": (added("carriers/x.json", "{}\n{}"), "x.json:2: there is text after the end"),
    "an empty JSON file": (added("carriers/x.json", ""), "x.json:1: a value is missing"),
    "an empty YAML file": (added("carriers/x.yaml", ""), "this is no mapping"),
    "a list as a file": (added("carriers/x.json", "[]"), "this is no mapping"),
    "half a character": (added("carriers/x.json", '{"path": "\\ud800"}'), "names half a character"),
    "deep nesting": (added("carriers/x.json", "[" * 5000), "nested deeper than 32"),
    "deep nesting in YAML": (added("carriers/x.yaml", "[" * 500), "nested deeper than 32"),
    "a huge file": (added("carriers/x.json", " " * 2_000_000), "larger than 1048576 bytes"),
    "Latin-1": (added("carriers/x.json", b'{"source": "s3",\n "path": "caf\xe9"}'), "x.json:2: this is not UTF-8"),
    "broken YAML": (added("carriers/x.yaml", "a: b\n  c: d\n"), "x.yaml:2: this is not YAML"),
    "two documents": (added("carriers/x.yaml", "a: b\n---\nc: d\n"), "a second document"),
    "a merge key": (
        added("carriers/x.yaml", "a: &a {b: c}\nd:\n  <<: *a\n"),
        '"<<" is not known here -- use "inheritance"',
    ),
    "a number as a key": (added("carriers/x.yaml", "1: b\n"), "a key that is no string"),
    "a tag": (added("carriers/x.yaml", "a: !!python/name:os.system x\n"), "a tag"),
    "an alias to itself": (added("carriers/x.yaml", "a: &a [*a]\n"), "an alias to what it stands in"),
    "an alias without anchor": (added("carriers/x.yaml", "a: *b\n"), "an alias without its anchor"),
    "an escape beyond Unicode": (added("carriers/x.yaml", 'a: "\\UFFFFFFFF"\n'), "an escape names no character"),
    "a bomb of aliases": (
        added(
            "carriers/x.yaml", "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 20))
        ),
        "more than 20000 values",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_the_way_out(name: str, tmp_path: Path) -> None:
    files, text = MISTAKES[name]
    problems = problems_of(tmp_path, files)
    assert any(text in str(problem) for problem in problems), "\n".join(map(str, problems))
    # One slip is one complaint, not a cascade.
    assert len(problems) == 1, "\n".join(map(str, problems))


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "carriers/store.json": '{\n "source": "s3",\n "bucket_name": 5,\n "watch": {\n  "settle_s": "x"}}',
        "carriers/other.json": "{",
        "addresses/camera.yaml": "message_type: image_info\ncarrier: store\nduration: always\n",
        "system/system.json": {"log_level": "loud"},
    }
    found = [(Path(p.file).name, p.line, p.key) for p in problems_of(tmp_path, files)]
    assert ("store.json", 3, "bucket_name") in found
    assert ("store.json", 5, "watch.settle_s") in found
    assert ("camera.yaml", 3, "duration") in found
    assert ("system.json", 2, "log_level") in found
    assert ("other.json", 1, "") in found


def test_a_mistake_hides_no_other_of_the_same_file(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "carriers/store.json": STORE,
        "addresses/a.json": ADDRESS
        | {"duration": "always", "carrier": "nope", "handler": "no", "handler_function": "f"},
        "addresses/b.json": {"message_type": "image_info", "carrier": "neither"},
        "tasks/t.json": TASK | {"duration": "always", "config_name": "nor"},
        "system/s.json": {"foo": 1, "addresses": ["a", "b", "bb", 5], "tasks": ["t", "tt"]},
    }
    found = sorted((Path(p.file).name, p.key) for p in problems_of(tmp_path, files))
    assert found == [
        ("a.json", "carrier"),
        ("a.json", "duration"),
        ("a.json", "handler"),
        ("b.json", "carrier"),
        ("b.json", "duration"),
        ("s.json", "addresses[2]"),
        ("s.json", "addresses[3]"),
        ("s.json", "foo"),
        ("s.json", "tasks[1]"),
        ("t.json", "config_name"),
        ("t.json", "duration"),
    ]


def test_the_mistakes_of_one_mapping_are_all_told_and_each_by_the_name_of_its_entry(tmp_path: Path) -> None:
    keys = {
        "upload": {
            "timetable": {"25:00-26:00": 1, "8:00-9:00": 2, "10:00-10:00": 3, "11:00-12:00": 0, "noon": None},
            "metadata": {"x y": "a", "syncagent-x": "b", "site": "é", "lens": 4},
        },
        "firmware": {"hooks": {"befor_install": "/a", "after": "b", "confirm": "c"}},
    }
    found = sorted(problem.key for problem in problems_of(tmp_path, carrier(**keys)))
    assert found == [
        "firmware.hooks.after",
        "firmware.hooks.befor_install",
        "firmware.hooks.confirm",
        "upload.metadata.lens",
        "upload.metadata.site",
        "upload.metadata.syncagent-x",
        "upload.metadata.x y",
        "upload.timetable.10:00-10:00",
        "upload.timetable.11:00-12:00",
        "upload.timetable.25:00-26:00",
        "upload.timetable.8:00-9:00",
        "upload.timetable.noon",
    ]


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_key_that_stands_twice_and_a_value_that_is_none_hide_nothing(ending: str, tmp_path: Path) -> None:
    text = (
        '{"source": "s3",\n "bucket_name": "pictures",\n "path": "a",\n "path": "b",\n "bukket_name": 1,\n'
        ' "watch": {"settle_s": 1e999,\n  "scan_s": "x",\n  "include": ["*",\n   1e999],\n  "include": []},\n'
        ' "secret_access_key": {"hush":\n  1e999}}'
    )
    files: dict[str, Any] = {
        f"carriers/store.{ending}": text,
        "addresses/camera.json": ADDRESS | {"handler": 5},
        "system/s.json": '{"id": "a",\n "id": "b",\n "heartbeat_s": "x", "addresses": ["camera", "nope"]}',
    }
    found = sorted((Path(p.file).name, p.line, p.key) for p in problems_of(tmp_path, files))
    assert found == [
        ("camera.json", 5, "handler"),
        ("s.json", 2, "id"),
        ("s.json", 3, "addresses[1]"),
        ("s.json", 3, "heartbeat_s"),
        (f"store.{ending}", 4, "path"),
        (f"store.{ending}", 5, "bukket_name"),
        (f"store.{ending}", 6, "watch.settle_s"),
        (f"store.{ending}", 7, "watch.scan_s"),
        (f"store.{ending}", 9, "watch.include[1]"),
        (f"store.{ending}", 10, "watch.include"),
        (f"store.{ending}", 11, "secret_access_key"),
        (f"store.{ending}", 12, "secret_access_key"),
    ]


def test_a_parent_that_is_missing_does_not_hide_what_the_heir_says_wrong_itself(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "carriers/store.json": STORE | {"inheritance": ["nope"], "watch": {"settle_s": -1}},
        "carriers/broker.json": {"source": "mqtt", "inheritance": ["nor"], "host": "a"},
        "carriers/unsaid.json": {"inheritance": ["neither"], "host": "a"},
        "addresses/camera.json": ADDRESS | {"inheritance": ["never"], "duration": "always", "foo": 1},
        "addresses/foreign.json": {"inheritance": ["ever"], "carrier": "broker", "foo": 1},
        "tasks/t.json": TASK | {"inheritance": ["at all"], "config_nam": "store"},
        "system/s.json": {"inheritance": ["any"], "log_level": "loud"},
    }
    found = sorted((Path(p.file).name, p.key) for p in problems_of(tmp_path, files))
    parents = [
        (f"{name}.json", "inheritance[0]") for name in ("broker", "camera", "foreign", "s", "store", "t", "unsaid")
    ]
    own = [
        ("camera.json", "duration"),
        ("camera.json", "foo"),
        ("s.json", "log_level"),
        ("store.json", "watch.settle_s"),
        ("t.json", "config_nam"),
    ]
    assert found == sorted(parents + own)


@pytest.mark.parametrize("slip", ['"host": 1, "host": 2', '"port": NaN', '"inheritance": ["nope"]'])
def test_a_mistake_in_a_carrier_that_is_not_ours_makes_none_of_what_hangs_on_it(slip: str, tmp_path: Path) -> None:
    files: dict[str, Any] = GOOD | {
        "carriers/broker.json": f'{{"source": "mqtt", {slip}}}',
        "addresses/foreign.json": {"carrier": "broker", "send_or_receive": "receive", "duration": "always", "qos": 1},
        "tasks/foreign.json": {"config_name": "broker", "source_type": "carrier", "topic": "x"},
    }
    assert [Path(problem.file).name for problem in problems_of(tmp_path, files)] == ["broker.json"]


def test_an_inherited_mistake_points_at_the_file_that_made_it_and_names_the_heirs(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "carriers/base.json": '{\n "source": "s3",\n "upload": {\n  "part_bytes": 1024}}',
        "carriers/store.json": {"inheritance": ["base"], "bucket_name": "pictures"},
        "addresses/camera.json": ADDRESS,
    }
    (problem,) = problems_of(tmp_path, files)
    assert (Path(problem.file).name, problem.line, problem.key) == ("base.json", 4, "upload.part_bytes")
    assert "1024 is below 5242880" in problem.what
    assert "inherited by carriers/store" in problem.what


def test_a_cycle_is_printed_as_a_chain(tmp_path: Path) -> None:
    files = GOOD | {f"carriers/{a}.json": STORE | {"inheritance": [b]} for a, b in ("ab", "bc", "ca")}
    problems = problems_of(tmp_path, files)
    assert any("a -> b -> c -> a" in problem.what for problem in problems)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"secret_access_key": "hush-hush, "a": 1}'),
        ("x.json", '{"secret_access_key": hush-hush}'),
        ("x.json", '{"secret_access_key" "hush-hush"}'),
        ("x.yaml", 'secret_access_key: "hush-hush\nb: c\n'),
        ("x.yaml", "secret_access_key: @hush-hush\n"),
        ("x.yaml", "secret_access_key: *hush-hush\n"),
        ("x.yaml", "secret_access_key: !hush-hush a\n"),
        ("x.json", '{"secret_access_key": {"hush-hush": "hush-hush"}}'),
        ("x.json", '{"secret_access_key": ["hush-hush"]}'),
        ("x.json", '{"access_key_id": {"a": "hush-hush"}}'),
        ("x.json", '{"secret_acess_key": "hush-hush"}'),
        ("x.json", '{"endpoint_url": "http://me:hush-hush@127.0.0.1:9000"}'),
    ],
)
def test_a_mistake_beside_a_secret_does_not_quote_it(name: str, text: str, tmp_path: Path) -> None:
    problems = problems_of(tmp_path, GOOD | {f"carriers/{name}": text})
    assert "hush" not in "".join(map(str, problems))


def test_a_password_in_the_place_of_its_group_is_not_quoted(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, added("system/s.json", {"web": "hush-hush"}))
    assert "hush" not in "".join(map(str, problems))


def test_a_missing_directory_is_told_with_the_option_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such directory.*--config-dir"):
        load_settings(str(tmp_path / "nowhere"), identity=lambda what: "pi")


def test_a_pipe_in_the_place_of_a_file_is_told_and_holds_up_nothing(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    os.mkfifo(tmp_path / "carriers" / "pipe.json")
    with pytest.raises(ConfigError, match="no regular file"):
        load_settings(str(tmp_path), identity=lambda what: "pi")


@pytest.mark.parametrize("kind", ["carriers", "addresses", "system"])
def test_a_folder_that_may_not_be_listed_makes_no_name_in_it_unknown(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, added("system/s.json", {"addresses": ["camera"], "tasks": []}))
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if os.path.basename(path) == kind:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ConfigError) as caught:
        load_settings(str(tmp_path), identity=lambda what: "pi")
    (problem,) = caught.value.problems
    assert (problem.file, problem.what) == (str(tmp_path / kind), "this directory cannot be read (Permission denied)")


def test_a_dangling_link_is_told(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "carriers" / "away.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(str(tmp_path), identity=lambda what: "pi")


def test_a_device_that_cannot_tell_who_it_is_says_why_and_what_to_do(tmp_path: Path) -> None:
    def identity(what: str) -> str:
        raise LookupError("the bus is switched off")

    write(tmp_path, added("system/s.json", {"id": "$i2c"}))
    with pytest.raises(ConfigError, match=r"\$i2c: the bus is switched off -- give this device an id"):
        load_settings(str(tmp_path), identity=identity)


def test_two_components_and_two_tasks_of_one_carrier_are_no_mistake(tmp_path: Path) -> None:
    two = TWO_TASKS | {"carriers/ota1.json": ota("cam"), "carriers/ota2.json": ota("motor")}
    assert len(load_settings(write(tmp_path / "a", two), identity=lambda what: "pi").tasks) == 2
    same = TWO_TASKS | {"carriers/ota1.json": ota("cam"), "tasks/two.json": TASK | {"config_name": "ota1"}}
    assert len(load_settings(write(tmp_path / "b", same), identity=lambda what: "pi").tasks) == 2


@pytest.mark.parametrize("kind", ["system", "carriers", "addresses", "devices"])
@pytest.mark.parametrize("odd", ["a link to nowhere", "a file"])
def test_what_has_the_name_of_a_kind_and_is_no_folder_is_not_taken_for_one_that_is_not_there(
    kind: str, odd: str, tmp_path: Path
) -> None:
    write(tmp_path, {name: content for name, content in GOOD.items() if not name.startswith(kind)})
    place = tmp_path / kind
    if odd == "a file":
        place.write_text("{}")
    else:
        place.symlink_to("/nowhere/at/all")
    found = problems_of(tmp_path, {})
    assert (str(place), "this is no folder, or a link to none") in [(problem.file, problem.what) for problem in found]


def test_a_chain_of_parents_that_is_too_long_is_a_mistake_and_no_bug(tmp_path: Path) -> None:
    parents = {f"carriers/c{n}.json": {"inheritance": [f"c{n + 1}"]} for n in range(1000, 3000)}
    found = problems_of(tmp_path, GOOD | parents | {"carriers/c3000.json": STORE})
    assert any("through more than 100 objects" in problem.what for problem in found)
