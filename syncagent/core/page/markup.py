"""HTML that cannot say anything by accident: every text becomes text, whatever stands in it."""

from __future__ import annotations

from html import escape

from syncagent.core.printable import printable

_VOID = frozenset({"meta", "link", "img"})


class Html(str):
    """Markup that was made here; any other string is text."""

    __slots__ = ()


Child = str | Html | None


def text(words: str) -> Html:
    return Html(escape(printable(words), quote=True))


def tag(name: str, /, *children: Child, **attributes: str | bool | None) -> Html:
    """An element. `class_` is class, and "_" in other names a dash; an attribute that is None or False is left out."""
    told = "".join(
        f" {_attribute(attribute)}" + ("" if value is True else f'="{text(value)}"')
        for attribute, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    return Html("".join(each if isinstance(each, Html) else text(each) for each in children if each is not None))


def _attribute(name: str) -> str:
    # SVG has the only names with capitals, and they are spelled as they are.
    return name.removesuffix("_").replace("_", "-")
