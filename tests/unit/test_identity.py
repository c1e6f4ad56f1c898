"""Who this device is: asked of the part that the device file names, and remembered for when it does not answer."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from syncagent.assembly import Directories, identity_of, remember_identity
from syncagent.core.errors import ConfigError
from syncagent.core.settings import Settings
from syncagent.edges.configfiles import load_settings
from syncagent.edges.i2c import Buses, SmbusBus
from tests import chips
from tests.fakes import FakeBus

EUI = "fcc23d123456"
WHO = {"source": "at24mac"}


class Home:
    """A device's directories, and its bus."""

    def __init__(self, top: Path) -> None:
        self.directories = Directories(str(top / "configs"), str(top), str(top / "state"))
        os.mkdir(self.directories.state_dir)
        self.bus = FakeBus({0x58: chips.at24mac(EUI)})
        self.buses = Buses(lambda number: SmbusBus(number, new=self.bus.open), wait=lambda _: None, call_s=30)

    def load(self, **devices: Any) -> Settings:
        files = {
            "system/s": {"id": "$i2c"},
            "carriers/store": {"source": "s3", "bucket_name": "b", "path": "camera", "system_id": "$system_id"},
            "addresses/a": {"message_type": "image_info", "carrier": "store", "duration": "on_change"},
            **{f"devices/{name}": device for name, device in devices.items()},
        }
        for name, content in files.items():
            path = os.path.join(self.directories.config_dir, f"{name}.json")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                json.dump(content, file)
        identity = identity_of(self.directories, buses=self.buses)
        return load_settings(self.directories.config_dir, identity=identity)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_id_is_what_the_part_says_and_is_used_wherever_the_id_stands(home: Home) -> None:
    settings = home.load(who=WHO)
    assert settings.system.id == EUI
    assert settings.addresses[0].carrier.system_id == EUI
    assert home.bus.opened == ["/dev/i2c-1"]


def test_the_part_is_asked_where_its_file_says_inherited_keys_included(home: Home) -> None:
    home.bus.chips = {0x5B: chips.at24mac("d880390102030405")}
    settings = home.load(base={"bus": 3, "address": "0x53"}, who={**WHO, "inheritance": ["base"]})
    assert settings.system.id == "d880390102030405"
    assert home.bus.opened == ["/dev/i2c-3"]


def test_without_a_device_file_there_is_no_identity_and_no_bus_is_opened(home: Home) -> None:
    with pytest.raises(ConfigError, match=r'\$i2c: no file in devices/ has "source": "at24mac"'):
        home.load(clock={"source": "ds3231"})
    assert home.bus.opened == []


def test_a_part_that_does_not_answer_leaves_the_identity_that_it_had(home: Home) -> None:
    remember_identity(home.directories, EUI)
    home.bus.always[0x58] = errno.EREMOTEIO
    assert home.load(who=WHO).system.id == EUI


def test_another_part_makes_another_device(home: Home) -> None:
    remember_identity(home.directories, "fcc23d000001")
    assert home.load(who=WHO).system.id == EUI


def test_a_part_that_never_answered_is_a_mistake_with_its_reason_and_a_way_out(home: Home) -> None:
    home.bus.always[0x58] = errno.EBUSY
    with pytest.raises(ConfigError, match=r"\$i2c: 0x58 on bus 1: a driver of the kernel .* give this device an id"):
        home.load(who=WHO)


def test_what_is_remembered_is_written_only_when_it_is_new(home: Home) -> None:
    remember_identity(home.directories, EUI)
    path = os.path.join(home.directories.state_dir, "identity")
    before = os.stat(path).st_ino
    remember_identity(home.directories, EUI)
    assert os.stat(path).st_ino == before
    remember_identity(home.directories, "fcc23d000002")
    with open(path) as file:
        assert file.read() == "fcc23d000002\n"


def test_the_other_identities_are_asked_of_the_system(home: Home) -> None:
    assert identity_of(home.directories)("hostname") == os.uname().nodename
