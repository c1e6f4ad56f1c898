"""What every publisher's verb needs: carrier, keys and their passphrase, and one clear line for what is refused."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from syncagent.assembly import open_store
from syncagent.cli.context import Context, fail, say
from syncagent.core.errors import Blocked, Refused, SyncagentError, Trouble
from syncagent.core.printable import printable
from syncagent.core.settings import Carrier, Settings
from syncagent.core.words import size_words
from syncagent.edges.clock import Clock
from syncagent.edges.connection import Flight
from syncagent.edges.files import words
from syncagent.publish.keys import KeyRing
from syncagent.publish.publisher import Publisher
from syncagent.publish.repository import Draft
from syncagent.publish.shelf import Image, Shelf
from syncagent.publish.uploads import FILE_NAME as NOTES_FILE

PROMPTS = 3
RIGHTS = (
    "a publisher's access key needs to list, read and put below the carrier's path, and to delete for gc;"
    " --own-credentials takes yours instead of the carrier's"
)
Run = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the publisher works: the options that all verbs share."""

    context: Context
    carrier_name: str | None
    keys_dir: str
    passphrase_file: str | None
    own_credentials: bool

    def ring(self) -> KeyRing:
        return KeyRing(self.keys_dir, self._ask)

    def carrier(self) -> Carrier:
        carrier = choose_carrier(self.context.settings(), self.carrier_name)
        if self.own_credentials:
            carrier = attrs.evolve(carrier, access_key_id=None, secret_access_key=None)
        return carrier

    @contextlib.contextmanager
    def publisher(self, carrier: Carrier | None = None, *, is_dry: bool = False) -> Iterator[Publisher]:
        carrier = carrier or self.carrier()
        clock = Clock()
        with Uploading() as uploading:
            store = open_store(carrier, clock, progress=uploading)
            try:
                shelf = Shelf(
                    store,
                    carrier.path,
                    is_conditional=carrier.store.conditional_writes,
                    tell=say,
                    notes=os.path.join(self.keys_dir, NOTES_FILE),
                    on_parts=uploading.goes_in_parts,
                )
                yield Publisher(shelf, self.ring(), clock.now(), is_dry=is_dry)
            finally:
                store.close()

    def _ask(self, path: str, attempt: int) -> str:
        """The passphrase of one key file: from the file, the environment, or the terminal. Raises: Refused."""
        given, source = self._given()
        if given is not None:
            if attempt:
                raise Refused(f"{path}: the passphrase in {source} is wrong")
            return given
        if not sys.stdin.isatty():
            raise Refused(f"{path} needs its passphrase: name --passphrase-file, or set SYNCAGENT_KEY_PASSPHRASE")
        if attempt >= PROMPTS:
            raise Refused(f"{path}: wrong passphrase")
        is_new = not os.path.exists(path)
        word = "New passphrase" if is_new else "Wrong; passphrase" if attempt else "Passphrase"
        passphrase: str = click.prompt(f"{word} for {path}", hide_input=True, confirmation_prompt=is_new, err=True)
        return passphrase

    def _given(self) -> tuple[str | None, str]:
        if self.passphrase_file is None:
            return os.environ.get("SYNCAGENT_KEY_PASSPHRASE"), "SYNCAGENT_KEY_PASSPHRASE"
        try:
            with open(self.passphrase_file, encoding="utf-8") as file:
                return file.readline(4096).rstrip("\r\n"), self.passphrase_file
        except (OSError, UnicodeDecodeError) as error:
            reason = words(error) if isinstance(error, OSError) else "not UTF-8"
            raise Refused(f"{self.passphrase_file}: {reason}") from error


def choose_carrier(settings: Settings, wanted: str | None) -> Carrier:
    """The carrier that is named, else the one of the firmware task. Raises: Refused."""
    carriers = [address.carrier for address in settings.addresses] + [task.carrier for task in settings.tasks]
    used = {carrier.name: carrier for carrier in carriers}
    if wanted is not None:
        if wanted not in used:
            raise Refused(f"no active address or task uses a carrier {wanted}; there are: {', '.join(sorted(used))}")
        return used[wanted]
    names = sorted({task.carrier.name for task in settings.tasks})
    if len(names) != 1:
        what = "no task names a firmware carrier" if not names else f"tasks name several carriers: {', '.join(names)}"
        raise Refused(f"{what}; say which with --carrier NAME")
    return used[names[0]]


def at_desk(function: Run) -> Run:
    """The shared options as one `Desk` argument, and refusals as one line and exit code 1."""

    def run(
        context: Context,
        /,
        carrier_name: str | None,
        keys_dir: str | None,
        passphrase_file: str | None,
        own_credentials: bool,
        **arguments: Any,
    ) -> Any:
        if arguments.get("is_dry") and arguments.get("export_dir"):
            raise click.UsageError("--dry-run writes nothing, and --export writes files: say one of them")
        place = os.path.abspath(keys_dir) if keys_dir else os.path.join(context.base_dir, "firmware-keys")
        try:
            return function(Desk(context, carrier_name, place, passphrase_file, own_credentials), **arguments)
        except Blocked as error:
            remedy = RIGHTS if error.trouble is Trouble.FORBIDDEN else error.remedy
            fail(f"{error}; {remedy}" if remedy else str(error))
        except SyncagentError as error:
            fail(str(error))

    options: list[Callable[[Run], Run]] = [
        click.option(
            "--own-credentials", is_flag=True, help="Use your environment or profile, not the carrier's keys."
        ),
        click.option("--passphrase-file", metavar="FILE", help="The keys' passphrase is its first line."),
        click.option(
            "--keys",
            "keys_dir",
            envvar="SYNCAGENT_KEYS_DIR",
            metavar="DIR",
            help="Where the keys are. [default: firmware-keys, below the base]",
        ),
        click.option("--carrier", "carrier_name", metavar="NAME", help="Publish there. [default: the firmware task's]"),
    ]
    decorated: Run = functools.wraps(function)(click.pass_obj(run))
    for option in options:
        decorated = option(decorated)
    return decorated


def export_option(function: Run) -> Run:
    return click.option(
        "--export", "export_dir", metavar="DIR", help="Publish nothing; write what needs signatures into DIR."
    )(function)


def dry_option(function: Run) -> Run:
    return click.option("--dry-run", "is_dry", is_flag=True, help="Do all but write.")(function)


def commit(
    publisher: Publisher,
    draft: Draft,
    done: str,
    *,
    images: Sequence[Image] = (),
    export_dir: str | None = None,
    is_dry: bool = False,
) -> None:
    """Sign and write, and say what was done."""
    names = publisher.commit(draft, images, export_dir=export_dir)
    if is_dry:
        click.echo(printable(f"would have {done}; nothing was written:"))
        for name in names:
            click.echo(f"  {publisher.shelf.key(name)}")
        return
    if export_dir is not None:
        lacking = draft.missing()
        click.echo(f"exported to {export_dir}: {', '.join(names)}")
        for lack in lacking:
            click.echo(f"  {lack}: syncagent firmware sign {os.path.join(export_dir, lack.role)}.json --key FILE")
        click.echo(f"then: syncagent firmware import {export_dir}")
        return
    if not publisher.shelf.is_careful:
        say(
            "this store has no conditional writes: of two publishers at the same moment, both may believe that they won"
        )
    click.echo(printable(done))


class Uploading:
    """Shows how far an image is: a bar on a terminal, two lines elsewhere. Called by the store as bytes are sent."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._begun: set[str] = set()
        self._sent_bytes = 0  # of an image that goes in parts: what is there already, and the whole
        self._size_bytes = 0

    def __enter__(self) -> Uploading:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def goes_in_parts(self, sent_bytes: int, size_bytes: int) -> None:
        """Of the image that is on its way, so much is in the bucket."""
        self._sent_bytes, self._size_bytes = sent_bytes, size_bytes

    def __call__(self, flight: Flight) -> None:
        if not flight.key.endswith(".image"):
            return
        size_bytes = self._size_bytes or flight.size_bytes
        if not self._console.is_terminal:
            if flight.key not in self._begun:
                more = f", {size_words(self._sent_bytes)} of it are there" if self._sent_bytes else ""
                say(f"uploading {size_words(size_bytes)}{more}")
            self._begun.add(flight.key)
            return
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bars = Progress(*columns, console=self._console)
            self._bars.start()
            self._task = self._bars.add_task("image", total=size_bytes)
        assert self._task is not None
        self._bars.update(self._task, completed=self._sent_bytes + flight.acknowledged_bytes)
