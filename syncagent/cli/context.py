"""What every verb needs: where things are, the settings, and how to end."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from syncagent.assembly import Directories, identity_of, is_running, open_journal, places_of
from syncagent.core.errors import EXIT_CONFIG, ConfigError, SyncagentError
from syncagent.core.places import Places
from syncagent.core.printable import printable_lines
from syncagent.core.settings import Settings
from syncagent.edges.clock import Clock
from syncagent.edges.configfiles import load_settings
from syncagent.edges.control import ask
from syncagent.edges.journal import Journal

EXIT_NOT_RUNNING = 3


@dataclass(frozen=True, slots=True)
class Context:
    """The three directories, as given or from the environment; absolute."""

    config_dir: str
    base_dir: str
    state_dir: str

    @classmethod
    def of(cls, config_dir: str, base_dir: str, state_dir: str | None) -> Context:
        base = os.path.realpath(base_dir)
        return cls(os.path.abspath(config_dir), base, os.path.abspath(state_dir or os.path.join(base, "state")))

    @property
    def directories(self) -> Directories:
        return Directories(self.config_dir, self.base_dir, self.state_dir)

    def settings(self) -> Settings:
        """The configuration; prints every mistake and ends with 78 when there is one."""
        try:
            return load_settings(self.config_dir, identity=identity_of(self.directories))
        except ConfigError as error:
            for problem in error.problems:
                say(str(problem))
            sys.exit(EXIT_CONFIG)

    def settings_if_sound(self) -> Settings | None:
        """The configuration, or, with a line that says so, nothing when it has a mistake."""
        try:
            return load_settings(self.config_dir, identity=identity_of(self.directories))
        except ConfigError as error:
            say(f"the configuration cannot be read, see `syncagent check-config`: {error.problems[0]}")
            return None

    def places(self, settings: Settings | None = None) -> Places:
        return places_of(settings, self.directories)

    def journal(self, settings: Settings | None = None, *, is_read_only: bool = False) -> Journal:
        """The journal, beside the agent; `is_read_only`: only to look at, which makes nothing."""
        try:
            return open_journal(settings, self.directories, Clock(), is_read_only=is_read_only)
        except SyncagentError as error:
            fail(str(error))

    def poke(self, journal: Journal) -> None:
        """Tell the agent that the journal has news; ends with 1 when the agent does not see this file."""
        answer = ask(self.state_dir, "poke")
        used = answer.get("journal") if isinstance(answer, dict) else None
        if used is not None and used != list(journal.identity or ()):
            fail(
                f"the running agent does not use {journal.path}: it was deleted or replaced under it; the agent ends"
                " because of that, so say this again when it runs anew"
            )

    def agent_pid(self) -> int | None:
        return is_running(self.directories)


def absolute_of(named: str) -> str:
    """The absolute path of what a person named: links on the way are resolved, one at its end is not followed."""
    absolute = os.path.abspath(named)
    return os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))


def say(text: str) -> None:
    """One line, or several, for a person, beside the results."""
    click.echo(printable_lines(text), err=True)


def fail(text: str, *, code: int = 1) -> NoReturn:
    say(f"syncagent: {text}")
    sys.exit(code)


def print_json(document: Any) -> None:
    """One document on standard output; names that are not UTF-8 keep their bytes as escaped surrogates."""
    click.echo(json.dumps(document, indent=2))
