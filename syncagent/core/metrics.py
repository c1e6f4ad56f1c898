"""The status as Prometheus reads it: its text format, version 0.0.4.

Names are promises like those of the status: added, never renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("ok", "degraded", "broken", "stopped")

_Value = float | int | bool | None
_Labels = Mapping[str, str]


class Exposition:
    """Families of samples, each with its help and type before it."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, help_text: str, samples: Iterable[tuple[_Labels, _Value]]) -> None:
        """A family; samples without a value are left out, and so is a family without samples."""
        told = [f"{_series(name, labels)} {_number(value)}" for labels, value in samples if value is not None]
        if told:
            help_text = help_text.replace("\\", r"\\").replace("\n", r"\n")
            self._lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *told]

    def gauge(self, name: str, help_text: str, value: _Value, **labels: str) -> None:
        self.add(name, "gauge", help_text, [(labels, value)])

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


def _series(name: str, labels: _Labels) -> str:
    if not labels:
        return name
    return name + "{" + ",".join(f'{label}="{escape_label(value)}"' for label, value in labels.items()) + "}"


def escape_label(value: str) -> str:
    """A label's value as it stands between quotes. What UTF-8 cannot carry is named by its number."""
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float | int | bool) -> str:
    return str(int(value)) if isinstance(value, bool | int) else repr(float(value))


def metrics_of(status: Mapping[str, Any], counts: Mapping[str, tuple[str, int]]) -> str:
    """The status object, and counters since the start: name -> (help, value)."""
    out = Exposition()
    out.gauge(
        "syncagent_info",
        "The agent: its version, and which device it is.",
        1,
        version=status["version"],
        system_id=status["system_id"],
    )
    out.gauge("syncagent_healthy", "Whether files get through.", status["healthy"])
    states = [({"state": state}, state == status["state"]) for state in _STATES]
    out.add("syncagent_state", "gauge", "The state of the agent: 1 at the one that it is in.", states)
    out.gauge("syncagent_uptime_seconds", "Seconds since the agent started.", status["uptime_s"])
    out.gauge(
        "syncagent_oldest_unsent_seconds",
        "Age of the oldest file that the bucket does not have; 0 when it has all.",
        status["oldest_unsent_s"] or 0.0,
    )
    _queues(out, status)
    _facts(out, status["facts"])
    out.gauge(
        "syncagent_wire_bytes_today", "Bytes over the wire today (UTC), both ways.", status["wire"]["bytes_today"]
    )
    out.gauge(
        "syncagent_wire_bytes_month", "Bytes over the wire this month (UTC), both ways.", status["wire"]["bytes_month"]
    )
    for name, what in (("files", "Files"), ("bytes", "Bytes")):
        out.gauge(
            f"syncagent_sent_{name}_per_second",
            f"{what} per second, over the last minute.",
            status["rates"].get(f"{name}_per_s"),
        )
    for name, (help_text, count) in counts.items():
        out.add(name, "counter", help_text, [({}, count)])
    out.gauge("syncagent_lost_files", "Files that were dropped unsent, for lack of space.", status["losses"])
    out.gauge("syncagent_warnings", "How many warnings the status holds.", len(status["warnings"]))
    out.gauge("syncagent_errors", "How many troubles the status shows as the last ones.", len(status["last_errors"]))
    _parts(out, status)
    return out.text()


def _queues(out: Exposition, status: Mapping[str, Any]) -> None:
    queue, addresses = status["queue"], status["addresses"]
    for name, what in (("files", "Files"), ("bytes", "Bytes of the files")):
        out.add(
            f"syncagent_queue_{name}",
            "gauge",
            f"{what} in each state.",
            [({"state": state}, entry[name]) for state, entry in queue.items()],
        )
        out.add(
            f"syncagent_address_queue_{name}",
            "gauge",
            f"{what} of each address in each state.",
            [
                ({"address": address, "state": state}, entry[name])
                for address, told in addresses.items()
                for state, entry in told["queue"].items()
            ],
        )
    out.add(
        "syncagent_address_oldest_unsent_seconds",
        "gauge",
        "Age of the oldest file of each address that the bucket does not have; 0 when it has all.",
        [({"address": address}, told["oldest_unsent_s"] or 0.0) for address, told in addresses.items()],
    )


def _facts(out: Exposition, facts: Mapping[str, Any]) -> None:
    out.add(
        "syncagent_fact_ok",
        "gauge",
        "Whether each part of the way is good.",
        [({"fact": name}, fact["ok"]) for name, fact in facts.items()],
    )
    disk = facts["disk"]
    out.gauge("syncagent_disk_free_bytes", "Free space where the files are.", disk.get("free_bytes"))
    for name, key in (("bytes", "free_percent"), ("inodes", "free_inodes_percent")):
        percent = disk.get(key)
        out.gauge(
            f"syncagent_disk_free_{name}_ratio",
            f"Share of the {name} that are free where the files are.",
            None if percent is None else percent / 100,
        )
    out.gauge("syncagent_clock_skew_seconds", "The store's time minus ours.", facts["clock"].get("skew_s"))


def _parts(out: Exposition, status: Mapping[str, Any]) -> None:
    """Firmware and devices."""
    out.add(
        "syncagent_firmware",
        "gauge",
        "The release of each component, and how far it is: always 1.",
        [
            ({"component": name, "release": str(face.get("release") or ""), "state": str(face.get("state", ""))}, 1)
            for name, face in status["firmware"].items()
        ],
    )
    devices = status["devices"]
    out.add(
        "syncagent_device_ok",
        "gauge",
        "Whether each device of the I2C bus is there and believed.",
        [({"device": name, "source": str(face.get("source", ""))}, face["ok"]) for name, face in devices.items()],
    )
    out.add(
        "syncagent_device_value",
        "gauge",
        "What each device of the I2C bus measures.",
        [
            ({"device": name, "quantity": quantity}, value)
            for name, face in devices.items()
            for quantity, value in face.get("values", {}).items()
        ],
    )
