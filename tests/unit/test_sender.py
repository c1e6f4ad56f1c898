"""What the environment and the user's files say of the store, as boto3's users know it."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncagent.edges.sender import DEFAULT_REGION, find_region, new_session


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_the_region_is_found_where_botocore_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    assert find_region() == DEFAULT_REGION
    (tmp_path / "file").write_text("[default]\nregion = eu-north-1\n")
    monkeypatch.setenv(variable, "~/file")
    assert find_region() == "eu-north-1" == new_session().get_config_variable("region")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert find_region() == "eu-west-3"
