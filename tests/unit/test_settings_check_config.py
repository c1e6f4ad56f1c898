"""`check-config` prints what is in effect, masked, and ends with 78 when a file must be edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from syncagent.cli.check_config import check_config
from syncagent.cli.context import Context
from syncagent.core.settings_files import KINDS
from syncagent.core.tree import plain
from syncagent.edges.configfiles import parse_yaml


def run(directory: Path, *options: str) -> Result:
    return CliRunner().invoke(check_config, list(options), obj=Context.of(str(directory), ".", None))


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    carrier = {"source": "s3", "bucket_name": "b", "access_key_id": "AKhush", "secret_access_key": "hush"}
    for name, content in {
        "carriers/store.json": carrier,
        "carriers/broker.json": {"source": "mqtt"},
        "addresses/camera.json": {"message_type": "image_info", "carrier": "store", "duration": "on_change"},
        "system/s.json": {"id": "08:00", "web": {"password": "hush"}},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content, indent=1))
    return tmp_path


def test_yaml_and_json_say_the_same_and_warnings_go_to_stderr(config_dir: Path) -> None:
    as_yaml, as_json = run(config_dir), run(config_dir, "--json")
    assert (as_yaml.exit_code, as_json.exit_code) == (0, 0)
    effective = json.loads(as_json.stdout)
    assert plain(parse_yaml(as_yaml.stdout, "x")) == effective
    assert effective["system"]["id"] == "08:00"
    assert effective["addresses"]["camera"]["carrier"]["bucket_name"] == "b"
    assert as_json.stderr.count("warning: ") == 1
    assert "broker.json" in as_json.stderr


def test_secrets_are_masked_and_null_stays_null(config_dir: Path) -> None:
    for options in ([], ["--json"], ["--origin"], ["--json", "--origin"]):
        assert "hush" not in run(config_dir, *options).output
    effective = json.loads(run(config_dir, "--json").stdout)
    assert effective["addresses"]["camera"]["carrier"]["secret_access_key"] == "********"
    (config_dir / "carriers" / "store.json").write_text('{"source": "s3", "bucket_name": "b"}')
    effective = json.loads(run(config_dir, "--json").stdout)
    assert effective["addresses"]["camera"]["carrier"]["secret_access_key"] is None


def test_origin_names_file_and_line_or_default(config_dir: Path) -> None:
    origin = json.loads(run(config_dir, "--json", "--origin").stdout)["origin"]
    assert origin["addresses.camera.carrier.bucket_name"] == f"{config_dir}/carriers/store.json:3"
    assert origin["addresses.camera.carrier.watch.settle_s"] == "default"
    assert f"# {config_dir}/carriers/store.json:3" in run(config_dir, "--origin").stdout


def test_a_mistake_ends_with_78_and_nothing_on_stdout(config_dir: Path) -> None:
    (config_dir / "addresses" / "camera.json").write_text("{")
    result = run(config_dir)
    assert result.exit_code == 78
    assert result.stdout == ""
    assert "camera.json:1: " in result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_printed_without_a_configuration(kind: str, tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere", "--schema", kind)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == f"syncagent {kind}"


def test_an_address_that_gathers_for_longer_than_a_file_may_stay_unsent_is_warned_of(config_dir: Path) -> None:
    for name, seconds in (("slow", 7200), ("quick", 60)):
        document = {"message_type": "image_info", "carrier": "store", "duration": seconds}
        (config_dir / "addresses" / f"{name}.json").write_text(json.dumps(document))
    said = run(config_dir).stderr
    assert "addresses/slow: a duration of 7200 s is above health.max_unsent_s" in said
    assert "quick" not in said
