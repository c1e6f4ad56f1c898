"""What Prometheus reads, by the rules of its text format 0.0.4, read here by a strict reader of our own."""

from __future__ import annotations

import json
import re
from typing import Any

from syncagent.core.metrics import metrics_of
from tests.statuses import HOSTILE, status

COUNTS = {"syncagent_sent_files_total": ("Files that\narrived.", 5)}
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    """Every sample; fails for whatever the format does not allow."""
    text.encode()  # UTF-8
    assert text.endswith("\n")
    samples: Samples = {}
    told: dict[str, str] = {}
    helped: set[str] = set()
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            name, help_text = re.fullmatch(rf"# HELP ({_NAME}) (.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            assert name not in helped
            assert re.fullmatch(r"(?:[^\\]|\\\\|\\n)*", help_text, re.DOTALL)
            helped.add(name)
        elif line.startswith("# TYPE "):
            name, kind = re.fullmatch(rf"# TYPE ({_NAME}) (gauge|counter)", line).groups()  # type: ignore[union-attr]
            assert name not in told
            assert name in helped
            assert (kind == "counter") == name.endswith("_total")
            told[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            name, inner, value = match.groups()
            assert name == list(told)[-1], "samples stand behind their type"
            labels, at = [], 0
            while inner and at < len(inner):
                label = _LABEL.match(inner, at)
                assert label, inner[at:]
                labels.append((label[1], re.sub(r"\\.", lambda found: _ESCAPES[found[0]], label[2])))
                at = label.end()
            key = (name, tuple(labels))
            assert key not in samples
            samples[key] = float(value)
    assert told.keys() == helped
    return samples


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(labels.items())]


def test_the_metrics_say_what_the_status_says() -> None:
    samples = read(metrics_of(status(), COUNTS))
    assert of(samples, "syncagent_info", version="1.2.3", system_id="field-7") == 1
    assert of(samples, "syncagent_healthy") == 0
    assert of(samples, "syncagent_state", state="broken") == 1
    assert of(samples, "syncagent_state", state="ok") == 0
    assert of(samples, "syncagent_oldest_unsent_seconds") == 75
    assert of(samples, "syncagent_queue_files", state="waiting") == 3
    assert of(samples, "syncagent_queue_files", state="settling") == 0, "every state, always"
    assert of(samples, "syncagent_address_queue_bytes", address="camera", state="parked") == 1000
    assert of(samples, "syncagent_fact_ok", fact="link") == 0
    assert of(samples, "syncagent_fact_ok", fact="watcher") == 1
    assert of(samples, "syncagent_disk_free_bytes") == 12e9
    assert of(samples, "syncagent_disk_free_bytes_ratio") == 0.415
    assert of(samples, "syncagent_clock_skew_seconds") == -0.4
    assert of(samples, "syncagent_wire_bytes_month") == 7e7
    assert of(samples, "syncagent_sent_bytes_per_second") == 125_000
    assert of(samples, "syncagent_sent_files_total") == 5
    assert of(samples, "syncagent_device_value", device="battery", quantity="percent") == 75
    assert of(samples, "syncagent_firmware", component="cam", release="r-7", state="confirmed") == 1
    assert of(samples, "syncagent_errors") == 1


def test_names_of_any_kind_are_escaped_and_say_the_same_when_read() -> None:
    samples = read(metrics_of(status(hostile=True), COUNTS))
    said = HOSTILE.replace("\udcff", "\\udcff")
    assert of(samples, "syncagent_info", version="1.2.3", system_id=said) == 1
    assert of(samples, "syncagent_address_queue_files", address=said, state="waiting") == 3


def test_what_is_not_known_has_no_sample() -> None:
    bare: dict[str, Any] = json.loads(json.dumps(status()))
    bare["wire"] = {"bytes_today": None, "bytes_month": None}
    bare["rates"], bare["devices"], bare["firmware"], bare["oldest_unsent_s"] = {}, {}, {}, None
    bare["facts"]["disk"] = {"ok": False, "state": "away", "reason": ""}
    samples = read(metrics_of(bare, {}))
    names = {name for name, _ in samples}
    assert not names & {"syncagent_wire_bytes_today", "syncagent_disk_free_bytes", "syncagent_device_ok"}
    assert of(samples, "syncagent_oldest_unsent_seconds") == 0
