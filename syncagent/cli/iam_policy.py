"""syncagent iam-policy: the least AWS policy that this configuration needs."""

from __future__ import annotations

import click

from syncagent.checks.policy import policy_of
from syncagent.cli.context import Context, print_json, say


@click.command("iam-policy")
@click.pass_obj
def iam_policy(context: Context) -> None:
    """Print the least AWS policy that this configuration needs, as JSON.

    Keys that messages or `send --cloud-path` name may lie elsewhere: add those yourself.
    """
    settings = context.settings()
    if any(address.duration != "on_change" for address in settings.addresses):
        say("note: keys that messages or `send --cloud-path` name may lie outside of these resources")
    print_json(policy_of(settings))
