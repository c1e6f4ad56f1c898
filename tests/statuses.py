"""Status objects for whoever shows them, with everything in them that can be shown."""

from __future__ import annotations

from typing import Any

from syncagent.core.board import Complaint, Fact
from syncagent.core.model import State
from syncagent.core.status import Cell, Snapshot, build

#: What a name may hold, and a page must not believe: markup, quotes, line breaks, half a character, a turned line.
HOSTILE = "<script>alert(1)</script>'\"&\\\n\t\x00\x1b[31m\udcff\u202egpj.exe</td>"


def status(*, hostile: bool = False, **more: Any) -> dict[str, Any]:
    """A busy agent; `hostile`: every text that comes from outside is HOSTILE."""
    word = HOSTILE if hostile else ""
    address = word or "camera"
    return build(
        Snapshot(
            version="1.2.3",
            system_id=word or "field-7",
            time="2026-06-01T12:00:00Z",
            is_running=True,
            pid=7,
            uptime_s=3661.5,
            max_unsent_s=3600.0,
            cells=[
                Cell(address, State.CONFIRMED, "", 1200, 4_000_000_000),
                Cell(address, State.WAITING, word or "link", 3, 9_000_000),
                Cell(address, State.PARKED, word or "key too long", 1, 1_000),
            ],
            facts={
                "watcher": Fact(True, "events", "", {"settling": 0}),
                "uploader": Fact(True, "ok"),
                "link/a": Fact(False, "link", word or "nothing answers", {"remedy": word or "look at the cable"}),
                "disk": Fact(
                    True, "ok", "", {"free_bytes": 12_000_000_000, "free_percent": 41.5, "free_inodes_percent": 90.0}
                ),
                "clock": Fact(True, "ok", "", {"skew_s": -0.4}),
            },
            addresses=[address],
            oldest_unsent_s=75.0,
            oldest_by_address={address: 75.0},
            complaints=[Complaint(word or "a.jpg", word or "upload", word or "nothing answers", word or "wait", 90.0)],
            monotonic=100.0,
            rates={"files_per_s": 0.25, "bytes_per_s": 125_000.0},
            wire={"bytes_today": 1_500_000, "bytes_month": 70_000_000},
            warnings=[word] if hostile else [],
            devices={
                word or "battery": {
                    "source": "max17048",
                    "ok": True,
                    "state": word or "ok",
                    "reason": word,
                    "values": {"percent": 75.0, "voltage_v": 3.9},
                }
            },
            firmware={word or "cam": {"release": word or "r-7", "state": "confirmed", "reason": word}},
            **more,
        )
    )
