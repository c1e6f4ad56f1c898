"""The manual page and the completion, from the command line's own help."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click
from click.shell_completion import BashComplete

from syncagent.cli.main import VERBS, cli


def bash_completion() -> str:
    """What bash sources: it asks the program itself, so that it knows every verb of the release."""
    source = BashComplete(cli, {}, "syncagent", "_SYNCAGENT_COMPLETE").source().strip() + "\n"
    # Click offers names of files only for its own type of path: without this bash would offer none after `send`.
    return source.replace("complete -o nosort ", "complete -o nosort -o default ")


def manual_page(version: str, moment: int) -> str:
    """syncagent(1) in man(7)."""
    date = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
    context = click.Context(cli, info_name="syncagent")
    lines = [
        f'.TH SYNCAGENT 1 "{date}" "syncagent {version}" "User Commands"',
        ".SH NAME",
        "syncagent \\- puts what field cameras write into an S3 bucket",
        ".SH SYNOPSIS",
        ".B syncagent",
        _plain("[OPTIONS] VERB [ARGS]..."),
        ".SH DESCRIPTION",
        *_paragraphs(cli.help or ""),
        ".SH OPTIONS",
        *_options(cli, context),
        ".SH VERBS",
    ]
    for name in VERBS:
        command = cli.get_command(context, name)
        assert command is not None
        lines += _verb(f"syncagent {name}", command, context)
    lines += [
        ".SH ENVIRONMENT",
        *_paragraphs("Where they are not set, this command sets:"),
        *_items(
            {
                "SYNCAGENT_CONFIG_DIR": "/etc/syncagent/configs",
                "SYNCAGENT_BASE_DIR": "/var/lib/syncagent",
            }
        ),
        ".SH EXIT STATUS",
        *_items(
            {
                "0": "All is well.",
                "1": "It is not.",
                "2": "The command line is wrong.",
                "3": "No agent is running (status).",
                "70": "A bug.",
                "78": "The configuration needs an edit.",
            }
        ),
        ".SH FILES",
        *_items(
            {
                "/etc/syncagent/configs": "The configuration: one folder per kind, one JSON or YAML file per object.",
                "/var/lib/syncagent/generated_data": "What is written below is sent once it is finished.",
                "/var/lib/syncagent/state": "The journal. Nobody but the agent writes it.",
            }
        ),
        ".SH SEE ALSO",
        "/usr/share/doc/syncagent/README.md",
    ]
    return "\n".join(lines) + "\n"


def _verb(name: str, command: click.Command, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=command.name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f".SS {_plain(f'{name} {usage}')}", *_paragraphs(command.help or "")]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            lines += _verb(f"{name} {inner}", found, context)
    return [*lines, *_options(command, context)]


def _options(command: click.Command, context: click.Context) -> list[str]:
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    return _items(
        {record[0]: record[1] for record in records if record and not record[0].startswith(("-h,", "--help"))}
    )


def _items(items: dict[str, str]) -> list[str]:
    return [line for name, text in items.items() for line in (".TP", f".B {_plain(name)}", _plain(text) or "\\&")]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines += [".PP", _plain(" ".join(paragraph.replace("\b", "").split()))]
    return lines


def _plain(text: str) -> str:
    """As troff shows it letter for letter."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
