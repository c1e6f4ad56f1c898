"""syncagent post: hand the agent a message."""

from __future__ import annotations

import click

from syncagent.cli.context import Context, fail
from syncagent.core.errors import SyncagentError
from syncagent.core.messages import MAX_MESSAGE_BYTES, parse_message
from syncagent.docks.routing import Routing
from syncagent.edges.control import ask
from syncagent.posting import post_message


@click.command()
@click.argument("message_type", metavar="TYPE")
@click.argument("text", metavar="[JSON|-]", default="-")
@click.pass_obj
def post(context: Context, message_type: str, text: str) -> None:
    """Post a message, as JSON or, with -, from standard input: its content, or the whole of it.

    Exits 1, and posts nothing, when it is not valid. What was posted is on the card, whether the agent runs or not.
    """
    data = text.encode(errors="surrogateescape")
    if text == "-":
        with click.open_file("-", "rb") as given:
            data = given.read(MAX_MESSAGE_BYTES + 1)
    settings = context.settings()
    try:
        message = parse_message(data, message_type)
        Routing(settings, context.places(settings)).destinations(message)
        digest = post_message(message, base_dir=context.base_dir)
    except SyncagentError as error:
        fail(f"not posted: {error}")
    ask(context.state_dir, "poke")
    click.echo(f"posted {digest[:12]}")
