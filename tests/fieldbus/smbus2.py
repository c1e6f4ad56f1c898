"""A stand-in for smbus2 in the agent's process: the chips are in a file, which the test replaces while the agent runs.

FAKE_I2C names a JSON file: {"0x36": {"0x02": "c0003280", …}, "0x48": 16, "0x49": "hang"}; a number is the errno of
every transfer. It is read at each transfer. "….opened" beside it grows by a line whenever a bus is opened.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any


class SMBus:
    funcs = 0x0EFF0009

    def __init__(self, path: str) -> None:
        with open(os.environ["FAKE_I2C"] + ".opened", "a") as file:
            file.write(path + "\n")

    def close(self) -> None:
        pass

    def read_i2c_block_data(self, address: int, register: int, length: int) -> list[int]:
        chip = {int(each, 16): bytes.fromhex(data) for each, data in self._chip(address).items()}
        start = max(each for each in chip if each <= register)
        whole = chip[start][register - start :] + (chip[start] if set(chip) == {0} else b"")
        return list(whole[:length])

    def write_i2c_block_data(self, address: int, register: int, data: list[int]) -> None:
        self._chip(address)

    def _chip(self, address: int) -> dict[str, str]:
        with open(os.environ["FAKE_I2C"]) as file:
            chips: dict[str, Any] = json.load(file)
        chip = chips.get(f"0x{address:02x}", 6)
        if chip == "hang":
            threading.Event().wait()
        if isinstance(chip, int):
            raise OSError(chip, os.strerror(chip))
        assert isinstance(chip, dict)
        return chip
