"""Keys that the service manager hands over."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncagent.assembly import open_store
from syncagent.core.settings import Carrier
from syncagent.edges.clock import Clock
from syncagent.edges.credentials import given_keys


def put(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_services_directory_comes_before_the_machines_store(tmp_path: Path) -> None:
    put(tmp_path / "given", access_key_id="A\n", secret_access_key="s\n")
    put(tmp_path / "store", syncagent__access_key_id="B", syncagent__secret_access_key="t")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / "given")}
    assert given_keys(environment, store=str(tmp_path / "store")) == ("A", "s")
    assert given_keys({}, store=str(tmp_path / "store")) == ("B", "t")
    assert given_keys({}, store=str(tmp_path / "nowhere")) is None


def test_half_a_key_is_none(tmp_path: Path) -> None:
    put(tmp_path / "given", access_key_id="A", secret_access_key="")
    assert given_keys({"CREDENTIALS_DIRECTORY": str(tmp_path / "given")}, store=str(tmp_path)) is None


def test_a_carriers_own_keys_count_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path / "given", access_key_id="A", secret_access_key="s")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "given"))
    for own, used in ((None, "A"), ("OWN", "OWN")):
        carrier = Carrier(
            name="c",
            bucket_name="b",
            endpoint_url="http://127.0.0.1:1",
            region="x",
            access_key_id=own,
            secret_access_key=own and "t",
        )
        store = open_store(carrier, Clock())
        assert store._settings.access_key_id == used
