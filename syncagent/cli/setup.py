"""syncagent setup: from a fresh installation to a service that sends, by questions or by options."""

from __future__ import annotations

import json
import os
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from syncagent.assembly import identity_of
from syncagent.cli.context import Context, fail, say
from syncagent.cli.doctor import examine, report
from syncagent.core.errors import EXIT_CONFIG, ConfigError
from syncagent.core.places import GENERATED
from syncagent.core.settings import Settings
from syncagent.core.tree import Node, TextError
from syncagent.edges import accounts, credentials, files, machine
from syncagent.edges.configfiles import ENDINGS, load_settings, parse_text

#: The configuration that the service reads: only for this one is the service started.
SERVICE_CONFIG = "/etc/syncagent/configs"
DROP_IN = "/etc/systemd/system/syncagent.service.d/data.conf"
#: The carrier's name.
CARRIER = "bucket"
#: What ProtectHome= hides.
_HOMES = ("/home/", "/root/", "/run/user/")
#: Of a key that YAML needs no quotes for.
_BARE = set(string.ascii_letters + "_")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a person, or a script, said. None: leave it as it is."""

    bucket: str
    endpoint_url: str | None
    region: str | None
    access_key_id: str | None
    secret_access_key: str | None
    path: str | None
    system_id: str | None
    data_dir: str | None
    writers: tuple[str, ...]
    keys_in: str


@click.command()
@click.option("--bucket", metavar="NAME", help="The bucket.")
@click.option("--endpoint-url", metavar="URL", help="The store's address, where it is not AWS.")
@click.option("--region", metavar="NAME", help="The bucket's region.")
@click.option("--access-key-id", metavar="ID", envvar="AWS_ACCESS_KEY_ID", help="[also as AWS_ACCESS_KEY_ID]")
@click.option(
    "--secret-access-key",
    metavar="SECRET",
    envvar="AWS_SECRET_ACCESS_KEY",
    help="Better as AWS_SECRET_ACCESS_KEY, or - for standard input: other users see options.",
)
@click.option("--path", metavar="DIR", help="The directory below generated_data, and the prefix in the bucket.")
@click.option("--system-id", metavar="ID", help="The name of this device in the bucket.  [default: its host name]")
@click.option("--data-dir", metavar="DIR", help="A disk for the data, in the place of generated_data.")
@click.option("--writer", "writers", multiple=True, metavar="USER", help="A user whose programs write files here.")
@click.option(
    "--keys-in",
    type=click.Choice(["auto", "credstore", "carrier"]),
    default="auto",
    show_default=True,
    help="Keep the keys in /etc/credstore, for root and the service only, or in the carrier's file with mode 0600.",
)
@click.option("--check/--no-check", default=True, help="Run `doctor --write` afterwards.")
@click.option("--start/--no-start", default=True, help="Start the service afterwards, where systemd runs.")
@click.pass_obj
def setup(context: Context, /, check: bool, start: bool, **given: Any) -> None:
    """Write the configuration, check it with `doctor --write`, and start the service.

    Asks for what was not given, on a terminal. Run it again to change something: what is not named stays as it is.
    """
    existing = _existing(_file_of(context.config_dir, "carriers", CARRIER))
    answers = _ask(existing, given) if sys.stdin.isatty() else _take(existing, given)
    try:
        os.makedirs(context.config_dir, exist_ok=True)
        plan = _plan(context, existing, answers)
        settings = _settings_of(context, plan)
        _write(context, plan)
        _make_data(context, settings, answers)
    except OSError as error:
        hint = "" if accounts.is_root() else "; run it as root: sudo syncagent setup"
        fail(f"{error.filename or context.config_dir}: {files.words(error)}{hint}")
    _add_writers(context, answers)
    say(f"written to {context.config_dir}; this device is {settings.system.id}")
    is_well = report(examine(context, writes=True)) if check else True
    if start:
        is_well = _start(context) and is_well
    sys.exit(0 if is_well else 1)


# -- what is asked ----------------------------------------------------------------------------------------------------


def _existing(path: str) -> dict[str, Any]:
    """An object's file as it is."""
    try:
        with open(path, "rb") as file:
            found = _plain(parse_text(file.read(), path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        fail(f"{path}: {files.words(error)}; run it as root: sudo syncagent setup")
    except TextError as error:
        fail(f"{path}:{error.line}: {error.what}; {error.remedy}")
    return found if isinstance(found, dict) else {}


def _file_of(config_dir: str, kind: str, name: str) -> str:
    """The file of an object; one that is to be made is YAML."""
    paths = [os.path.join(config_dir, kind, name + ending) for ending in ENDINGS]
    return next((path for path in paths if os.path.exists(path)), os.path.join(config_dir, kind, f"{name}.yaml"))


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {name: _plain(child) for name, child in node.members.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.items]
    return node.value


def _take(existing: Mapping[str, Any], given: Mapping[str, Any]) -> Answers:
    """Without a terminal: what was given, and what is there."""
    answers = dict(given)
    answers["bucket"] = given["bucket"] or existing.get("bucket_name")
    if not answers["bucket"]:
        raise click.UsageError("say --bucket: there is no terminal to ask on")
    if given["secret_access_key"] == "-":  # noqa: S105 - the word for standard input
        answers["secret_access_key"] = sys.stdin.readline().strip()
    if bool(answers["access_key_id"]) != bool(answers["secret_access_key"]):
        raise click.UsageError("a key is both --access-key-id and --secret-access-key")
    return Answers(**answers)


def _ask(existing: Mapping[str, Any], given: Mapping[str, Any]) -> Answers:
    """On a terminal: what was not given is asked for; an empty answer leaves it as it is."""
    answers = dict(given)

    def ask(name: str, question: str, *, default: str = "", **how: Any) -> None:
        if answers[name] is None:
            shown = how.pop("show_default", bool(default))
            answers[name] = click.prompt(question, default=default, show_default=shown, **how).strip() or None

    ask("bucket", "Bucket", default=str(existing.get("bucket_name") or ""))
    if not answers["bucket"]:
        fail("there is nowhere to send to without a bucket")
    ask("endpoint_url", "Address of the store (empty: AWS)", default=str(existing.get("endpoint_url") or ""))
    ask("region", "Region (empty: the store's default)", default=str(existing.get("region") or ""))
    ask("access_key_id", "Access key (empty: as it is, or from the environment)")
    if answers["access_key_id"] and answers["secret_access_key"] in (None, "-"):
        answers["secret_access_key"] = click.prompt("Secret key (not shown)", hide_input=True).strip()
    ask(
        "path",
        "Directory below generated_data, and prefix in the bucket",
        default=str(existing.get("path") or "camera"),
    )
    if not answers["writers"] and accounts.is_root():
        user = os.environ.get("SUDO_USER", "")
        found = click.prompt(
            "User whose programs write files here (empty: none)", default=user, show_default=bool(user)
        )
        answers["writers"] = (found.strip(),) if found.strip() else ()
    return Answers(**answers)


# -- what is written --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be written: files with their text and mode, and keys that go into the credential store."""

    texts: Mapping[str, tuple[str, int]]
    keys: tuple[str, str] | None


def _plan(context: Context, existing: Mapping[str, Any], answers: Answers) -> _Plan:
    carrier: dict[str, Any] = {"source": "s3", "system_id": "$system_id", **existing, "bucket_name": answers.bucket}
    # An empty answer to a question that showed the old value means: as it was.
    for name in ("endpoint_url", "region"):
        if (said := getattr(answers, name)) is not None:
            carrier[name] = said or None
    if answers.path is not None:
        carrier["path"] = answers.path
    carrier.setdefault("path", "camera")
    carrier.setdefault("retention", {"min_free_percent": 10, "min_free_inodes_percent": 5})
    kept: tuple[str, str] | None = None
    if answers.access_key_id and answers.secret_access_key:
        keys = (answers.access_key_id, answers.secret_access_key)
        if answers.keys_in == "credstore" or (
            answers.keys_in == "auto" and machine.is_systemd_running() and _is_the_services(context)
        ):
            kept = keys
        carrier["access_key_id"], carrier["secret_access_key"] = (None, None) if kept else keys
    texts: dict[str, tuple[str, int]] = {}

    def add(path: str, content: Mapping[str, Any], *, is_secret: bool = False) -> None:
        texts[path] = (_text_of(path, content), 0o600 if is_secret else 0o644)

    add(_file_of(context.config_dir, "carriers", CARRIER), carrier, is_secret=bool(carrier.get("secret_access_key")))
    systems = _files_in(context, "system")
    if answers.system_id is not None or not systems:
        path = systems[0] if systems else _file_of(context.config_dir, "system", "system")
        system = {**_existing(path), "id": answers.system_id or "$hostname"}
        web = system.get("web")
        add(path, system, is_secret=isinstance(web, dict) and bool(web.get("password")))
    if not _files_in(context, "addresses"):
        address = {
            "carrier": CARRIER,
            "message_type": "image_info",
            "send_or_receive": "send",
            "duration": "on_change",
            "additional_info": {"sub_path": "$system_id"},
        }
        add(_file_of(context.config_dir, "addresses", "camera"), address)
    return _Plan(texts, kept)


def _settings_of(context: Context, plan: _Plan) -> Settings:
    """What the configuration would be. With a mistake in it nothing is written: a service may run on the old one."""
    instead = {path: text.encode() for path, (text, _) in plan.texts.items()}
    try:
        return load_settings(context.config_dir, identity=identity_of(context.directories), instead=instead)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        fail("nothing was written", code=EXIT_CONFIG)


def _write(context: Context, plan: _Plan) -> None:
    """Each file whole or not at all. Secrets are nobody's but the service's from the first moment on."""
    if plan.keys:
        _keep_in_store(plan.keys)
    for path, (text, mode) in plan.texts.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_whole(os.path.dirname(path), os.path.basename(path), text.encode(), mode=0o600)
        accounts.give(path, user=_service_user(), mode=mode)


def _service_user() -> str | None:
    return machine.SERVICE_USER if accounts.is_root() and accounts.has_user(machine.SERVICE_USER) else None


def _add_writers(context: Context, answers: Answers) -> None:
    for writer in answers.writers:
        if not accounts.has_user(writer) or not accounts.add_member(writer, machine.SERVICE_USER):
            say(f"{writer} is no member of the group {machine.SERVICE_USER} yet: sudo adduser {writer} syncagent")
        else:
            say(f"{writer} may write below {context.directories.data_dir} from the next login on")


def _is_the_services(context: Context) -> bool:
    return accounts.is_root() and os.path.realpath(context.config_dir) == SERVICE_CONFIG


def _files_in(context: Context, kind: str) -> list[str]:
    folder = os.path.join(context.config_dir, kind)
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in names if name.endswith(ENDINGS) and not name.startswith(".")]


def _keep_in_store(keys: tuple[str, str]) -> None:
    os.makedirs(credentials.STORE, mode=0o700, exist_ok=True)
    for name, value in zip((credentials.ACCESS_KEY_ID, credentials.SECRET_ACCESS_KEY), keys, strict=True):
        files.write_whole(credentials.STORE, credentials.PREFIX + name, value.encode(), mode=0o600)


def _text_of(path: str, content: Mapping[str, Any]) -> str:
    if path.endswith(".json"):
        return json.dumps(content, indent=2) + "\n"
    return "# Written by `syncagent setup`; yours to edit.\n" + _as_yaml(content)


def _as_yaml(content: Mapping[str, Any]) -> str:
    """One key per line; groups in JSON, which is YAML."""
    return "".join(
        f"{name if set(name) <= _BARE else json.dumps(name)}: {json.dumps(value)}\n" for name, value in content.items()
    )


def _make_data(context: Context, settings: Settings, answers: Answers) -> None:
    """The directory that is watched; on a disk of its own, a link leads there and the sandbox lets it be written."""
    data = os.path.join(context.base_dir, GENERATED)
    if answers.data_dir is not None and os.path.realpath(answers.data_dir) != os.path.realpath(data):
        _link_data(context, data, os.path.abspath(answers.data_dir))
    if os.path.islink(data) and _is_the_services(context):
        folder, name = os.path.split(DROP_IN)
        os.makedirs(folder, exist_ok=True)
        files.write_whole(folder, name, drop_in_for(os.readlink(data)).encode())
        machine.systemctl("daemon-reload")
    directories = [data]
    paths = [address.carrier.path for address in settings.addresses if address.carrier.name == CARRIER]
    if paths:
        directories.append(os.path.join(data, paths[0]))
    else:
        say(f"no address sends to carriers/{CARRIER}: name it as `carrier` in a file of {context.config_dir}/addresses")
    for directory in directories:
        if not os.path.isdir(directory):
            os.makedirs(directory)
            _give_shared(directory)


def _link_data(context: Context, data: str, target: str) -> None:
    if f"{os.path.realpath(target)}/".startswith(f"{data}/") or f"{data}/".startswith(f"{os.path.realpath(target)}/"):
        fail(f"{target}: neither of it and {data} may lie within the other: name a directory elsewhere")
    os.makedirs(target, exist_ok=True)
    _give_shared(target)
    if not os.path.islink(data) and os.path.isdir(data):
        for _, _, names in os.walk(data):
            if names:
                fail(f"{data} holds files: move them to {target}, remove the directory, and run this again")
        files.remove_tree(context.base_dir, GENERATED)
    if os.path.islink(data):
        os.unlink(data)
    os.makedirs(context.base_dir, exist_ok=True)
    os.symlink(target, data)


def drop_in_for(target: str) -> str:
    """What the unit needs for data in a directory of their own."""
    # "-": the service starts without the disk, and finds it when it comes.
    lines = ["# Written by `syncagent setup --data-dir`.", "[Service]", f"ReadWritePaths={_as_unit_word(f'-{target}')}"]
    if target.startswith(_HOMES):
        lines.append("ProtectHome=read-only")
    return "\n".join(lines) + "\n"


def _as_unit_word(text: str) -> str:
    """One word of a list in a unit file, see systemd.syntax(7) and "Specifiers" of systemd.unit(5)."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("%", "%%") + '"'


def _give_shared(directory: str) -> None:
    """The cameras' group may write there, where the disk's file system knows groups."""
    user = _service_user()
    if user is None:
        return
    try:
        accounts.give(directory, user=user, mode=0o2775)
    except OSError as error:
        options = f"uid={user},gid={user},umask=0002"
        say(f"{directory}: {files.words(error)}; if its file system keeps no owners, mount it with {options}")


def _start(context: Context) -> bool:
    if not _is_the_services(context) or not machine.is_systemd_running():
        say("start it with: syncagent run")
        return True
    say("starting the service")
    for verb in ("enable", "restart"):
        done = machine.systemctl(verb, machine.UNIT, timeout_s=machine.START_TIMEOUT_S)
        if done is None or done.returncode != 0:
            why = done.stderr.strip() if done is not None else "systemctl does not answer"
            say(f"the service was not started: {why}; see: journalctl -u syncagent")
            return False
    say("the service is running; look at it with: sudo syncagent status")
    return True
