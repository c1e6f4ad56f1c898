"""syncagent demo: the whole thing at work on this machine."""

from __future__ import annotations

import importlib.util
import sys

import click

from syncagent.cli.context import fail

#: What the extra `demo` brings, as it is imported.
_NEEDED = ("moto", "flask", "flask_cors", "PIL")


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), metavar="N", help="End by itself after N seconds.")
@click.option("--keep", is_flag=True, help="Keep the files, and say where they are.")
@click.option("--store", "port", type=click.IntRange(1, 65535), metavar="PORT", help="Only the store, until Ctrl-C.")
@click.option("--svg", "svg_path", type=click.Path(dir_okay=False), hidden=True, help="Draw the view into this file.")
def demo(seconds: float | None, keep: bool, port: int | None, svg_path: str | None) -> None:
    """Show an embedded S3 store, a simulated camera and the agent at work; needs no account.

    The link between them breaks now and then. Ctrl-C stops the camera, waits until everything is confirmed, and
    compares what arrived byte for byte; a second Ctrl-C ends at once. Exits 0 when all is identical, else 1.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        fail(f"the demo needs {', '.join(missing)}; install what it needs with: pip install 'syncagent[demo]'")
    if port is not None:
        _serve(port)
        return
    from syncagent.demo.story import Story

    sys.exit(Story(seconds=seconds, keep=keep, svg_path=svg_path).tell())


def _serve(port: int) -> None:
    """The embedded store alone: to try commands against."""
    from syncagent.demo.store import serve

    try:
        serve(port, lambda endpoint_url: click.echo(f"{endpoint_url}: bucket demo, keys demo and demo-secret"))
    except KeyboardInterrupt:
        return
