"""Plots as SVG: a line and what is below it, over the time that has been. Labels are text beside it, so that they stay
readable on a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from syncagent.core.page.markup import Html, join, tag
from syncagent.core.samples import Sample

_WIDTH, _HEIGHT = 600.0, 120.0
#: After a gap this many steps long (the board slept) no line is drawn.
_GAP_STEPS = 3.0

Points = list[tuple[float, float]]  # seconds ago, value


def unsent(samples: Sequence[Sample]) -> Points:
    """Files that the bucket did not have."""
    now = samples[-1].at if samples else 0.0
    return [(now - sample.at, float(sample.unsent_files)) for sample in samples]


def wire_rate(samples: Sequence[Sample]) -> Points:
    """Bytes per second, each over the time since the sample before."""
    now = samples[-1].at if samples else 0.0
    return [(now - b.at, max(0, b.wire_bytes - a.wire_bytes) / max(b.at - a.at, 0.001)) for a, b in pairwise(samples)]


def ceiling(value: float) -> float:
    """The least round number, 1, 2 or 5 with noughts, that is no smaller."""
    if value <= 1:
        return 1.0
    power = 1.0
    while True:
        for step in (1.0, 2.0, 5.0):
            if step * power >= value:
                return step * power
        power *= 10


def plot(
    title: str, points: Points, *, span_s: float, step_s: float, words: Callable[[float], str], began: str
) -> Html:
    """A figure. `words` says a value, `began` how long ago the left end is."""
    top = ceiling(max((value for _, value in points), default=0.0))
    last = words(points[-1][1]) if points else "-"
    lines = [_line(run, top, span_s) for run in _runs(points, step_s)]
    return tag(
        "figure",
        tag("figcaption", tag("span", title), tag("b", last)),
        tag(
            "div",
            tag("span", words(top), class_="top"),
            tag(
                "svg",
                tag("path", d=f"M0 0H{_WIDTH:g}M0 {_HEIGHT / 2:g}H{_WIDTH:g}", class_="grid"),
                *lines,
                viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
                preserveAspectRatio="none",
                role="img",
                aria_label=f"{title}: {last} now, at most {words(max((v for _, v in points), default=0.0))}",
            ),
            class_="plot",
        ),
        tag("div", tag("span", began), tag("span", "now"), class_="axis"),
    )


def _runs(points: Points, step_s: float) -> list[Points]:
    """Points without gaps between them."""
    runs: list[Points] = []
    for point in points:
        if not runs or runs[-1][-1][0] - point[0] > _GAP_STEPS * step_s:
            runs.append([])
        runs[-1].append(point)
    return runs


def _line(run: Points, top: float, span_s: float) -> Html:
    places = [(_WIDTH * (1 - min(ago, span_s) / span_s), _HEIGHT * (1 - value / top)) for ago, value in run]
    if len(places) == 1:  # a dot that is wide enough to be seen
        places.append((places[0][0] - 1.0, places[0][1]))
        places.reverse()
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    below = f"M{places[0][0]:.1f} {_HEIGHT:g}L{line}L{places[-1][0]:.1f} {_HEIGHT:g}Z"
    return join(tag("path", d=below, class_="area"), tag("path", d=f"M{line}", class_="line"))
