"""The page: what the status says, with the newest pictures and two plots, for people. Values in, HTML out.

Promises that every text is shown as text, whatever a camera, a store or a neighbour put into it; and that all of it is
there without a script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncagent.core.model import OWED
from syncagent.core.page.assets import SCRIPT, STYLE
from syncagent.core.page.markup import Child, Html, join, tag
from syncagent.core.page.plot import plot, unsent, wire_rate
from syncagent.core.samples import Sample
from syncagent.core.status import VITAL
from syncagent.core.words import age_words, size_words

#: Below so many percent free a bar is coloured.
_FEW_PERCENT, _LEAST_PERCENT = 15.0, 5.0
_LEAST_SPAN_S = 300.0
_LOOKS = {"ok": "good", "degraded": "warn", "broken": "bad", "stopped": "bad"}
_FIRMWARE_LOOKS = {"stale": "warn", "rolled_back": "warn", "failed": "bad", "rejected": "bad"}
_WORDS = {"ok": "Files get through.", "stopped": "The agent is not running."}


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the newest pictures; `number` names it to the server."""

    number: int
    path: str
    state: str
    taken: str  # when, as people read it: YYYY-MM-DD HH:MM:SS UTC
    version: str = ""  # another one under the same number is another picture


@dataclass(frozen=True, slots=True)
class View:
    """All that one look at the page shows. `span` is one of `spans`, and the samples are its own."""

    status: Mapping[str, Any]
    pictures: Sequence[Picture] = ()
    samples: Sequence[Sample] = ()
    span: str = "hour"
    span_s: float = 3600.0
    step_s: float = 10.0
    spans: Sequence[str] = ("hour", "day")


def render(view: View) -> str:
    status = view.status
    return "<!doctype html>" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{status['system_id']}: {status['state']}"),
            tag("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
            tag("style", Html(STYLE)),
            tag("noscript", tag("meta", http_equiv="refresh", content="30")),
        ),
        tag(
            "body",
            # The script says there when nobody answers: outside of what it replaces.
            tag("header", _live("div", "head", _headline(status)), tag("p", id="stale", hidden=True)),
            tag("main", _live("dl", "tiles", _tiles(status), class_="tiles"), _columns(view)),
            tag(
                "footer",
                tag("a", "status.json", href="/status.json"),
                tag("a", "metrics", href="/metrics"),
                tag("a", "healthz", href="/healthz"),
                f"syncagent {status['version']}",
            ),
            tag("script", Html(SCRIPT)),
        ),
        lang="en",
    )


def _live(name: str, identity: str, *children: Child, **attributes: str) -> Html:
    """An element that the script replaces when it changed."""
    return tag(name, *children, id=identity, data_live=True, **attributes)


def _section(identity: str, title: str, *children: Child, aside: Child = None) -> Html:
    return _live("section", identity, tag("h2", title, aside), *children)


def _columns(view: View) -> Html:
    status = view.status
    left = [
        _section("pictures", "Newest pictures", _pictures(view.pictures)),
        _section("plots", "The last " + view.span, _plots(view), aside=_spans(view)),
        _section("errors", "Last errors", _errors(status["last_errors"])),
    ]
    right = [
        _section("facts", "Facts", _facts(status["facts"])),
        _section("card", "Card", _card(status)),
        _section("queue", "Files", _queue(status["queue"])),
        _section("addresses", "Addresses", _addresses(status["addresses"])) if len(status["addresses"]) > 1 else None,
        _section("link", "Link", _link(status)),
        _section("firmware", "Firmware", _firmware(status["firmware"])) if status["firmware"] else None,
        _section("devices", "Devices", _devices(status["devices"])) if status["devices"] else None,
    ]
    return tag("div", tag("div", *left), tag("div", *right), class_="columns")


# -- the first things to see ------------------------------------------------------------------------------------------


def _headline(status: Mapping[str, Any]) -> Html:
    state, when = str(status["state"]), str(status["time"]).replace("T", " ").replace("Z", " UTC")
    up = f"up {age_words(status['uptime_s'])}" if status["uptime_s"] is not None else ""
    said = status["reason"] or _WORDS.get(state, "")
    return join(
        tag("div", tag("h1", status["system_id"]), tag("span", when), tag("span", up), class_="head"),
        tag("p", tag("b", state), tag("span", said), class_=f"say {_LOOKS.get(state, 'bad')}"),
    )


def _tiles(status: Mapping[str, Any]) -> Html:
    owed = [status["queue"][state] for state in OWED]
    files = sum(entry["files"] for entry in owed)
    rates, wire = status["rates"], status["wire"]
    oldest = status["oldest_unsent_s"]
    tiles = [
        ("Oldest unsent file", "none" if oldest is None else age_words(oldest), ""),
        ("To send", _count(files), size_words(sum(entry["bytes"] for entry in owed)) if files else ""),
        ("Sending", f"{size_words(rates.get('bytes_per_s', 0.0))}/s", f"{rates.get('files_per_s', 0.0):.2g} files/s"),
        ("In the bucket", _count(status["queue"]["confirmed"]["files"] + status["queue"]["removed"]["files"]), "files"),
        ("Over the wire today", _size(wire["bytes_today"]), f"{_size(wire['bytes_month'])} this month"),
    ]
    if status["losses"]:
        tiles.append(("Lost for lack of space", _count(status["losses"]), "files"))
    return join(*(_tile(*tile) for tile in tiles))


def _tile(name: str, value: str, more: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None))


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u2009")


def _size(count: float | None) -> str:
    return "-" if count is None else size_words(count)


# -- the left column --------------------------------------------------------------------------------------------------


def _pictures(pictures: Sequence[Picture]) -> Html:
    if not pictures:
        return tag("p", "None yet.", class_="none")
    return tag("div", *map(_picture, pictures), class_="pictures")


def _picture(picture: Picture) -> Html:
    name, query = picture.path.rpartition("/")[2], f"?v={picture.version}"
    aside = picture.taken[11:16] if picture.state == "confirmed" else picture.state
    return tag(
        "a",
        tag("img", src=f"/thumbnail/{picture.number}{query}", alt="", loading="lazy", width="160", height="120"),
        tag("p", tag("span", name), tag("small", aside)),
        href=f"/picture/{picture.number}{query}",
        title=f"{picture.path}, {picture.taken}, {picture.state}",
    )


def _plots(view: View) -> Html:
    # Of an agent that began later the beginning is no empty space.
    known_s = view.samples[-1].at - view.samples[0].at if view.samples else 0.0
    span_s = min(view.span_s, max(known_s, _LEAST_SPAN_S))
    began = f"{age_words(span_s)} ago"

    def drawn(title: str, points: list[tuple[float, float]], words: Callable[[float], str]) -> Html:
        return plot(title, points, span_s=span_s, step_s=view.step_s, words=words, began=began)

    return join(
        drawn("Files to send", unsent(view.samples), lambda value: f"{value:,.0f}"),
        drawn("Bytes sent", wire_rate(view.samples), lambda value: f"{size_words(value)}/s"),
    )


def _spans(view: View) -> Html:
    return tag(
        "span",
        *(
            tag("a", span, href=f"/?span={span}", aria_current="true" if span == view.span else None)
            for span in view.spans
        ),
    )


def _errors(errors: Sequence[Mapping[str, Any]]) -> Html:
    if not errors:
        return tag("p", "None.", class_="none")
    return tag(
        "ul",
        *(
            _item(
                "bad",
                f"{error['path']}",
                age_words(error["age_s"]) + " ago",
                f"{error['what']}: {error['reason']}",
                error["remedy"],
            )
            for error in errors
        ),
    )


def _item(look: str, what: str, aside: str, reason: str, remedy: str = "") -> Html:
    mark, spoken = {"good": ("✓", "good"), "warn": ("!", "warning"), "bad": ("✕", "trouble")}[look]
    return tag(
        "li",
        tag("i", mark, class_=look, title=spoken),
        tag(
            "div",
            tag("div", tag("b", what), tag("span", aside), class_="what"),
            tag("p", reason) if reason else None,
            tag("p", "→ ", tag("em", remedy)) if remedy else None,
        ),
    )


# -- the right column -------------------------------------------------------------------------------------------------


def _facts(facts: Mapping[str, Mapping[str, Any]]) -> Html:
    return tag(
        "ul",
        *(
            _item(_look_of(name, fact), name, fact["state"], fact["reason"], str(fact.get("remedy", "")))
            for name, fact in facts.items()
        ),
    )


def _look_of(name: str, fact: Mapping[str, Any]) -> str:
    if not fact["ok"]:
        return "bad" if name in VITAL else "warn"
    return "warn" if fact["state"] == "paused" else "good"


def _card(status: Mapping[str, Any]) -> Html:
    disk = status["facts"]["disk"]
    if "free_percent" not in disk:
        return tag("p", disk["reason"] or "Not known.", class_="none")
    return join(
        _pair(f"{100 - disk['free_percent']:.0f} % of the space taken", f"{size_words(disk['free_bytes'])} free"),
        _bar(disk["free_percent"]),
        _pair(f"{100 - disk['free_inodes_percent']:.0f} % of the inodes taken", ""),
        _bar(disk["free_inodes_percent"]),
    )


def _pair(name: str, value: str) -> Html:
    return tag("div", tag("span", name), tag("b", value), class_="pair")


def _bar(free_percent: float) -> Html:
    """How much is taken."""
    look = " bad" if free_percent < _LEAST_PERCENT else " warn" if free_percent < _FEW_PERCENT else ""
    taken = min(100.0, max(0.0, 100.0 - free_percent))
    return tag(
        "svg",
        tag("rect", width=f"{taken:.1f}", height="8"),
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        class_="bar" + look,
        role="img",
        aria_label=f"{taken:.0f} % taken",
    )


def _queue(queue: Mapping[str, Mapping[str, Any]]) -> Html:
    rows = [
        tag(
            "tr",
            tag("td", state, *(tag("p", f"{reason}: {count}") for reason, count in entry["reasons"].items())),
            tag("td", _count(entry["files"]), class_="number"),
            tag("td", size_words(entry["bytes"]), class_="number"),
        )
        for state, entry in queue.items()
        if entry["files"]
    ]
    if not rows:
        return tag("p", "None yet.", class_="none")
    return _table(("state", "files", "size"), rows)


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    titles = [tag("th", head, class_="number" if number else None) for number, head in enumerate(heads)]
    return tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *rows))


def _addresses(addresses: Mapping[str, Mapping[str, Any]]) -> Html:
    rows = [
        tag(
            "tr",
            tag("td", name),
            tag("td", _count(sum(told["queue"][state]["files"] for state in OWED)), class_="number"),
            tag("td", age_words(told["oldest_unsent_s"]), class_="number"),
        )
        for name, told in addresses.items()
    ]
    return _table(("address", "to send", "oldest"), rows)


def _link(status: Mapping[str, Any]) -> Html:
    wire, clock = status["wire"], status["facts"]["clock"]
    skew = f"{clock['skew_s']:+g} s" if "skew_s" in clock else "not known"
    return join(
        _pair("today", _size(wire["bytes_today"])),
        _pair("this month", _size(wire["bytes_month"])),
        _pair("the store's clock", skew),
    )


def _firmware(firmware: Mapping[str, Mapping[str, Any]]) -> Html:
    return tag(
        "ul",
        *(
            _item(
                _FIRMWARE_LOOKS.get(str(face.get("state")), "good"),
                name,
                str(face.get("state", "")),
                f"{face.get('release') or 'none'}",
                str(face.get("reason", "")),
            )
            for name, face in firmware.items()
        ),
    )


def _devices(devices: Mapping[str, Mapping[str, Any]]) -> Html:
    return tag("ul", *(_device(name, face) for name, face in devices.items()))


def _device(name: str, face: Mapping[str, Any]) -> Html:
    values = ", ".join(f"{quantity} {value:g}" for quantity, value in face.get("values", {}).items())
    said = "; ".join(part for part in (values, str(face.get("time", "")), str(face["reason"])) if part)
    look = "warn" if face["state"] == "paused" else "good" if face["ok"] else "bad"
    return _item(look, name, str(face["state"]), said, str(face.get("remedy", "")))
