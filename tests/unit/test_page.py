"""The page says what the status says, to people, and believes nothing that a name says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from syncagent.core.page import Picture, View, render
from syncagent.core.page.assets import POLICY, SCRIPT, STYLE
from syncagent.core.page.markup import Html, join, tag, text
from syncagent.core.page.plot import ceiling, plot, unsent, wire_rate
from syncagent.core.printable import printable
from syncagent.core.samples import Sample
from syncagent.core.words import age_words, size_words
from tests.statuses import HOSTILE, status


class Reader(HTMLParser):
    """Elements, attributes and text as a browser would take them; fails for what is not closed."""

    VOID = ("meta", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]


SAMPLES = [Sample(at * 10.0, at % 7, at, at * 1_000_000) for at in range(20)]


def view(*, hostile: bool = False, **more: Any) -> View:
    path = f"generated_data/camera/{HOSTILE if hostile else 'a.jpg'}"
    pictures = [Picture(7, path, "confirmed", "2026-06-01 11:59:00 UTC", "ab"), Picture(6, "b.jpg", "waiting", "-")]
    return View(status=status(hostile=hostile), pictures=pictures, samples=SAMPLES, **more)


def test_the_page_says_all_that_there_is_to_say() -> None:
    said = Reader(render(view())).text
    for words in (
        "field-7",
        "broken",
        "link: nothing answers",
        "2026-06-01 12:00:00 UTC",
        "up 61 min",
        "75 s",  # the oldest unsent file
        "look at the cable",
        "key too long: 1",
        "12.0 GB free",
        "a.jpg",
        "r-7",
        "percent 75, voltage_v 3.9",
        "10 s ago",
        "125.0 kB/s",
        "70.0 MB this month",
        "watcher",
    ):
        assert words in said, words


def test_every_text_is_text_whatever_stands_in_it() -> None:
    ordinary, hostile = Reader(render(view())), Reader(render(view(hostile=True)))
    names = [name for name, _ in ordinary.elements]
    # The warning, and the reason and state of what has none else, are all that the hostile one has more.
    assert set(names) == {name for name, _ in hostile.elements}
    assert len(hostile.all("script")) == 1
    assert "<script>alert(1)</script>" in hostile.text
    page = render(view(hostile=True))
    page.encode("utf-8")
    assert not set(page) - {"\n"} & set("\x00\x1b\u202e\udcff\t")
    assert "\\udcff\\u202egpj.exe" in hostile.text
    allowed = {"src", "href", "class", "id", "title", "data-live", "alt", "loading", "width", "height", "hidden"}
    allowed |= {"lang", "charset", "name", "content", "rel", "type", "http-equiv", "aria-current", "aria-label", "role"}
    allowed |= {"viewbox", "preserveaspectratio", "d"}
    assert {each for _, attributes in hostile.elements for each in attributes} <= allowed, "no style, no on..."


def test_nothing_comes_from_outside_and_only_our_script_and_style_may_run() -> None:
    page = Reader(render(view(hostile=True)))
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "/").startswith("/")
            assert not (attributes.get(name) or "/").startswith("//")
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'sha256-")
    assert f"<script>{SCRIPT}</script>" in render(view())
    assert f"<style>{STYLE}</style>" in render(view())
    assert "http" not in STYLE + SCRIPT


def test_pictures_load_when_they_are_seen_and_are_named_by_number() -> None:
    first, second = Reader(render(view())).all("img")
    assert first == {"src": "/thumbnail/7?v=ab", "alt": "", "loading": "lazy", "width": "160", "height": "120"}
    assert second["src"] == "/thumbnail/6?v="


def test_what_the_script_replaces_has_a_name_and_what_it_writes_to_is_not_replaced() -> None:
    page = render(view())
    live = [attributes for _, attributes in Reader(page).elements if "data-live" in attributes]
    names = [attributes["id"] for attributes in live]
    assert len(names) == len(set(names)) > 8
    head = page[page.index('<div id="head"') : page.index('<p id="stale"')]
    assert head.count("<div") == head.count("</div>")
    assert 'getElementById("stale")' in SCRIPT


@pytest.mark.parametrize(
    ("state", "mark"),
    [("confirmed", "good"), ("stale", "warning"), ("rolled_back", "warning"), ("failed", "trouble")],
)
def test_firmware_that_failed_is_not_marked_as_good(state: str, mark: str) -> None:
    shown = json.loads(json.dumps(status()))
    shown["firmware"] = {"camera": {"release": "2.0", "state": state, "reason": "because"}}
    page = render(View(status=shown))
    section = page[page.index('<section id="firmware"') :]
    assert f'title="{mark}"' in section[: section.index("</li>")]


def test_an_agent_that_has_nothing_to_show_has_a_page() -> None:
    bare = json.loads(json.dumps(status()))
    bare.update(
        firmware={}, devices={}, last_errors=[], uptime_s=None, oldest_unsent_s=None, state="stopped", reason=""
    )
    bare["wire"] = {"bytes_today": None, "bytes_month": None}
    bare["rates"] = {}
    bare["facts"]["disk"] = {"ok": False, "state": "away", "reason": "the disk is away"}
    bare["queue"] = {state: {"files": 0, "bytes": 0, "reasons": {}} for state in bare["queue"]}
    said = Reader(render(View(status=bare))).text
    assert "None yet." in said
    assert "the disk is away" in said
    assert "The agent is not running." in said


def test_the_spans_are_links_that_need_no_script() -> None:
    links = Reader(render(view(span="day", span_s=86_400.0, step_s=240.0))).all("a")
    spans = [(link["href"], link.get("aria-current")) for link in links if "span" in str(link["href"])]
    assert spans == [("/?span=hour", None), ("/?span=day", "true")]


def test_a_text_is_text_and_an_attribute_stays_one() -> None:
    assert text("<b>\"'&") == "&lt;b&gt;&quot;&#x27;&amp;"
    assert tag("p", "<b>", Html("<i></i>"), None, class_='"x"', hidden=True, id=None) == (
        '<p class="&quot;x&quot;" hidden>&lt;b&gt;<i></i></p>'
    )
    assert tag("img", src="/a") == '<img src="/a">'
    assert join("a", Html("&amp;")) == "a&amp;"


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (1.5, 2), (3, 5), (7, 10), (10, 10), (11, 20), (199_999, 200_000)]
)
def test_the_top_of_a_plot_is_a_round_number(value: float, top: float) -> None:
    assert ceiling(value) == top


def test_rates_are_those_between_two_samples() -> None:
    samples = [Sample(0.0, 0, 0, 0), Sample(10.0, 5, 0, 1_000), Sample(12.0, 3, 0, 3_000), Sample(20.0, 0, 0, 0)]
    assert unsent(samples) == [(20.0, 0.0), (10.0, 5.0), (8.0, 3.0), (0.0, 0.0)]
    assert wire_rate(samples) == [(10.0, 100.0), (8.0, 1_000.0), (0.0, 0.0)]
    assert unsent([]) == wire_rate([]) == wire_rate(samples[:1]) == []


def test_no_line_is_drawn_over_a_gap_and_a_lonely_point_is_seen() -> None:
    def lines(points: list[tuple[float, float]]) -> list[str]:
        drawn = plot("t", points, span_s=100.0, step_s=10.0, words=str, began="")
        return [str(path["d"]) for path in Reader(drawn).all("path") if path["class"] == "line"]

    assert len(lines([(100.0, 1.0), (90.0, 1.0), (20.0, 1.0), (10.0, 2.0)])) == 2
    assert lines([(0.0, 1.0)]) == ["M599.0 0.0L600.0 0.0"]
    assert lines([]) == []


def test_words_for_people() -> None:
    assert [age_words(each) for each in (None, 5, 300, 10_000, 500_000)] == ["-", "5 s", "5 min", "3 h", "6 days"]
    assert [size_words(each) for each in (7, 1500, 2e6, 3e12)] == ["7 B", "1.5 kB", "2.0 MB", "3.0 TB"]
    assert printable("Blüte 🌸.jpg") == "Blüte 🌸.jpg"
    assert printable("a\x1b\x85\u2028\udcff\U000e0001") == "a\\x1b\\x85\\u2028\\udcff\\U000e0001"
