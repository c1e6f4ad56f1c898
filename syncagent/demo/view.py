"""How the demo looks: a page that fits any terminal, or plain lines where there is none. Owns no state of the demo."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from syncagent.core.model import State
from syncagent.demo.scenes import PART_BYTES, Card, Scene

_STATE_STYLES = {
    State.SETTLING: "yellow",
    State.READY: "cyan",
    State.SENDING: "bold bright_blue",
    State.CONFIRMED: "green",
    State.WAITING: "magenta",
    State.PARKED: "bold red",
}
_HEADLINE_STYLES = {"ok": "green", "degraded": "yellow", "broken": "red", "stopped": "red"}
_WIDE = 110
_TALL = 34
_BAR = 8
#: A picture of the view is drawn at this size.
SVG_SIZE = (100, 32)


class Page:
    """A scene as a page of exactly the console's size."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> Iterator[RenderableType]:
        yield page(self._scene, *console.size)


def page(scene: Scene, width: int, height: int) -> Table:
    """Headline, numbers, files, log, what Ctrl-C does: exactly `height` lines."""
    log_lines = min(8 if height >= _TALL else 4, max(0, height - 14))
    frame = Table.grid(expand=True)
    frame.add_column(no_wrap=True, overflow="ellipsis")
    frame.add_row(_headline(scene, width))
    frame.add_row(_numbers(scene))
    frame.add_row("")
    # Beside the files: three lines above, the table's head, a gap, the log with its head, the last line.
    room = max(3, height - 6 - (log_lines + 1 if log_lines else 0))
    shown = choose(scene.cards, room)
    frame.add_row(_files(shown, width))
    for _ in range(room - len(shown)):
        frame.add_row("")
    frame.add_row("")
    if log_lines:
        frame.add_row(Text("agent's log", style="bold dim"))
        lines = scene.log[-log_lines:]
        for line in (*lines, *[""] * (log_lines - len(lines))):
            frame.add_row(Text(line, style="dim"))
    frame.add_row(Text(f"{clock_words(scene.elapsed_s)}  {scene.stage}", style="reverse"))
    return frame


def choose(cards: tuple[Card, ...], room: int) -> list[Card]:
    """The cards to show: what is on its way first, then what arrived last; in the order of the journal."""
    owed = [index for index, card in enumerate(cards) if card.is_owed]
    rest = [index for index, card in enumerate(cards) if not card.is_owed]
    # Something that arrived always stays in sight, and of what waits, the oldest go next.
    spared = min(3, room // 3, len(rest))
    chosen = owed[: room - spared]
    latest = rest[len(rest) - (room - len(chosen)) :] if len(rest) > room - len(chosen) else rest
    return [cards[index] for index in sorted([*chosen, *latest])]


def _headline(scene: Scene, width: int) -> Table:
    state, reason = "stopped", "the agent does not answer"
    if scene.status is not None:
        state, reason = str(scene.status["state"]), str(scene.status["reason"] or "files get through")
    left = Text.assemble(
        (f" {state} ", f"bold white on {_HEADLINE_STYLES.get(state, 'red')}"), f" demo-camera  {reason}"
    )
    link = (
        Text(" link up ", style="bold white on green")
        if scene.is_link_up
        else Text(" link DOWN ", style="bold white on red")
    )
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(no_wrap=True, justify="right", width=min(len(link), width))
    line.add_row(left, link)
    return line


def _numbers(scene: Scene) -> Text:
    arrived, owed = scene.arrived, scene.owed
    oldest = scene.status["oldest_unsent_s"] if scene.status else None
    return Text.assemble(
        ("camera ", "dim"),
        _count(len(scene.written), sum(version.size_bytes for version in scene.written)),
        ("  bucket ", "dim"),
        (_count(len(arrived), sum(card.size_bytes for card in arrived)), "green"),
        ("  to send ", "dim"),
        _count(len(owed), sum(card.size_bytes for card in owed)),
        ("  oldest unsent ", "dim"),
        "-" if oldest is None else f"{oldest:.0f} s",
        *((("  firmware ", "dim"), scene.firmware) if scene.firmware else ()),
    )


def _count(files: int, size_bytes: int) -> str:
    return f"{files} · {decimal(size_bytes)}"


def _files(cards: list[Card], width: int) -> Table:
    """One line per card; the key gives way first when the terminal is narrow, from its left."""
    bar = _BAR * 2 if width >= _WIDE else _BAR
    name = max([len(os.path.basename(card.path)) for card in cards], default=0)
    name = min(max(name, 13), 40 if width >= _WIDE else 18)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="bold dim")
    table.add_column("state", width=10, no_wrap=True)
    table.add_column("sent", width=bar, no_wrap=True)
    table.add_column("size", width=8, no_wrap=True, justify="right")
    table.add_column("file", width=name, no_wrap=True, overflow="ellipsis")
    table.add_column("key in the bucket", no_wrap=True, ratio=1)
    room = width - 10 - bar - 8 - name - 4
    for card in cards:
        style = _STATE_STYLES.get(card.state, "dim")
        why = card.key or (f"({card.reason})" if card.reason else "")
        table.add_row(
            Text(str(card.state), style=style),
            _bar(card, bar),
            decimal(card.size_bytes),
            os.path.basename(card.path),
            Text(from_left(why, room), style="" if card.state is State.CONFIRMED else "dim"),
        )
    return table


def _bar(card: Card, width: int) -> Text:
    if card.state in (State.CONFIRMED, State.REMOVED):
        return Text("━" * width, style="green" if card.state is State.CONFIRMED else "dim green")
    if not card.sent_bytes and card.state is not State.SENDING:
        return Text("")
    share = min(1.0, card.sent_bytes / card.size_bytes) if card.size_bytes else 1.0
    full, half = divmod(int(width * 2 * share), 2)
    done = "━" * full + "╸" * half
    return Text.assemble((done, _STATE_STYLES.get(card.state, "dim")), ("─" * (width - len(done)), "dim"))


def from_left(text: str, room: int) -> str:
    """The end of a text that is too long: of a key, the end tells more."""
    return text if len(text) <= room else "…" + text[len(text) - room + 1 :]


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def clock_words(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


class Lines:
    """The same, as lines: one per event, and no control characters."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], tuple[State, str]] = {}
        self._is_link_up: bool | None = None
        self._stage = ""
        self._firmware = ""

    def news(self, scene: Scene) -> Iterator[str]:
        """What happened since the scene before."""
        at = clock_words(scene.elapsed_s)
        stage = self._stage
        if self._is_link_up is not None and scene.is_link_up != self._is_link_up:
            yield f"{at} link {'up' if scene.is_link_up else 'DOWN'}"
        self._stage, self._is_link_up = scene.stage, scene.is_link_up
        seen = {(card.row_id, card.path): (card.state, card.reason) for card in scene.cards}
        for card in scene.cards:
            before = self._seen.get((card.row_id, card.path))
            if before == (card.state, card.reason) or (before and card.state is State.SETTLING):
                continue
            reason = f" ({card.reason})" if card.reason else ""
            key = f" -> {card.key}" if card.key else ""
            yield f"{at} {card.state}{reason} {card.path} {decimal(card.size_bytes)}{key}"
        self._seen = seen
        if scene.firmware and scene.firmware != self._firmware:
            yield f"{at} firmware {scene.firmware}"
            self._firmware = scene.firmware
        if scene.stage != stage:
            yield f"{at} {scene.stage}"


def richness(scene: Scene) -> int:
    """How much of the story one scene tells; the best one becomes the picture."""
    states = {card.state for card in scene.cards}
    is_half_sent = any(
        0.3 < card.sent_bytes / card.size_bytes < 0.9 for card in scene.owed if card.size_bytes > PART_BYTES
    )
    wanted = {State.SETTLING, State.READY, State.SENDING, State.CONFIRMED}
    return 4 * len(states & wanted) + 3 * is_half_sent + (2 if len(scene.arrived) > 6 else 0) + scene.is_link_up


#: rich's own loads a font from the network; a picture in a README must not.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def draw_svg(scene: Scene) -> str:
    """The page as a picture."""
    width, height = SVG_SIZE
    console = Console(
        record=True, width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(page(scene, width, height))
    return console.export_svg(title="syncagent demo", code_format=_SVG, unique_id="demo")
