"""What holds for any configuration: both formats mean the same, merging is orderly, secrets stay secret."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from syncagent.core.errors import ConfigError
from syncagent.core.jsontext import parse_json
from syncagent.core.settings_view import as_yaml, effective
from syncagent.core.tree import Node, TextError, merge, plain
from syncagent.edges.configfiles import load_settings, parse_text, parse_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = NUMBERS | TEXT
#: PyYAML writes "0e0" without quotes, because to YAML 1.1 it is no number; to JSON and YAML 1.2 it is.
WRITABLE = TEXT.filter(lambda text: not re.fullmatch(r"-?[0-9.]+[eE][-+]?[0-9]+", text))


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        NUMBERS | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=20,
    )


KEYS = st.sampled_from("abcd")
MAPPINGS = st.dictionaries(
    KEYS, st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
)
#: Never a piece of our own words: "access_key_i" is in every output.
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=12, max_size=30).map("ŝ".__add__)


def node(value: Any) -> Node:
    return parse_json(json.dumps(value), "x.json")


def same(left: object, right: object) -> bool:
    """Equal, and true is not 1."""
    return left == right and json.dumps(left) == json.dumps(right)


@given(values(TEXT))
def test_any_json_value_means_the_same_as_json_and_as_yaml(value: Any) -> None:
    text = json.dumps(value)
    assert same(plain(parse_json(text, "x.json")), value)
    assert same(plain(parse_yaml(text, "x.yaml")), value)


@given(values(WRITABLE))
def test_any_value_survives_the_yaml_that_others_write(value: Any) -> None:
    written = yaml.safe_dump(value, sort_keys=False)
    assert same(plain(parse_yaml(written, "x.yaml")), value)


@given(st.binary(max_size=200) | TEXT.map(str.encode))
def test_any_bytes_are_a_tree_or_one_error_with_a_line(data: bytes) -> None:
    for name in ("x.json", "x.yaml"):
        try:
            parse_text(data, name)
        except TextError as error:
            assert 0 <= error.line <= data.count(b"\n") + data.count(b"\r") + 20


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_merging_a_chain_is_the_same_from_either_end_when_no_value_hides_a_group(a: Any, b: Any, c: Any) -> None:
    left = merge(merge(node(a), node(b)), node(c))
    right = merge(node(a), merge(node(b), node(c)))
    if not any(_hides(x, y) for x, y in ((a, b), (a, c), (b, c))):
        assert same(_ordered(plain(left)), _ordered(plain(right)))


@given(MAPPINGS, MAPPINGS)
def test_own_keys_win_and_nothing_else_is_lost(base: Any, own: Any) -> None:
    merged: Any = plain(merge(node(base), node(own)))
    assert set(merged) == {*base, *own}
    for key, value in own.items():
        if not isinstance(value, dict) or not isinstance(base.get(key), dict):
            assert same(merged[key], value)
    for key in base.keys() - own.keys():
        assert same(merged[key], base[key])


@given(MAPPINGS)
def test_inheriting_twice_changes_nothing(value: Any) -> None:
    assert same(plain(merge(node(value), node(value))), value)


@settings(max_examples=60, deadline=None)
@given(
    secret=SECRETS,
    where=st.sampled_from(["access_key_id", "secret_access_key", "password"]),
    form=st.sampled_from(["right", "list", "mapping", "nested", "cut", "beside a mistake", "yaml cut"]),
)
def test_a_secret_is_never_shown(secret: str, where: str, form: str) -> None:
    wrong: Any = {"list": [secret], "mapping": {"a": secret}, "nested": {"a": [{"b": secret}]}}.get(form, secret)
    carrier: dict[str, Any] = {"source": "s3", "bucket_name": "b", "access_key_id": "id", "secret_access_key": "key"}
    system: dict[str, Any] = {"id": "pi", "web": {}}
    if where == "password":
        system["web"][where] = wrong
    else:
        carrier[where] = wrong
    if form == "beside a mistake":
        carrier["upload"] = {"workers": "many"}
    texts = {
        "carriers/store": json.dumps(carrier, ensure_ascii=False),
        "system/s": json.dumps(system, ensure_ascii=False),
    }
    if form.endswith("cut"):
        texts = {name: text[:-2] for name, text in texts.items()}
    ending = ".yaml" if form.startswith("yaml") else ".json"
    with tempfile.TemporaryDirectory() as directory:
        for name, text in texts.items():
            path = Path(directory, name + ending)
            path.parent.mkdir()
            path.write_text(text, encoding="utf-8")
        address = Path(directory, "addresses", "camera.json")
        address.parent.mkdir()
        address.write_text('{"message_type": "a", "carrier": "store", "duration": 5}')
        try:
            loaded = load_settings(directory, identity=lambda what: "pi")
        except ConfigError as error:
            shown = f"{error!r} {error} {error.problems} {error.__cause__!r}"
        else:
            shown = f"{loaded!r} {loaded} {effective(loaded)} {as_yaml(loaded, with_origin=True)}"
            assert form == "right"
    assert secret not in shown
    assert json.dumps(secret)[1:-1] not in shown


def _hides(low: Any, high: Any) -> bool:
    for key in low.keys() & high.keys():
        one, other = isinstance(low[key], dict), isinstance(high[key], dict)
        if one != other or (one and other and _hides(low[key], high[key])):
            return True
    return False


def _ordered(value: Any) -> Any:
    return {key: _ordered(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
