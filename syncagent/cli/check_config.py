"""`syncagent check-config`: loads the configuration and prints what is in effect, secrets masked.

What is in effect goes to stdout, warnings and mistakes to stderr. Ends with 0, or 78 when a file must be
edited.
"""

from __future__ import annotations

import json

import click

from syncagent.cli.context import Context, say
from syncagent.core.settings_files import KINDS
from syncagent.core.settings_schema import json_schema
from syncagent.core.settings_view import as_yaml, effective, origins


@click.command("check-config")
@click.option("--origin", is_flag=True, help="Say which file and line set each value.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
@click.option("--schema", type=click.Choice(list(KINDS)), help="Print the JSON Schema of this kind of file instead.")
@click.pass_obj
def check_config(context: Context, origin: bool, as_json: bool, schema: str | None) -> None:
    """Load the configuration and print what is in effect, with every mistake in it."""
    if schema is not None:
        click.echo(json.dumps(json_schema(schema), indent=2))
        return
    settings = context.settings()
    for warning in settings.warnings:
        say(f"warning: {warning}")
    if not as_json:
        click.echo(as_yaml(settings, with_origin=origin), nl=False)
    elif origin:
        click.echo(json.dumps({"effective": effective(settings), "origin": origins(settings)}, indent=2))
    else:
        click.echo(json.dumps(effective(settings), indent=2))
