"""The effective configuration: every key with its default, as the rest of the agent reads it.

Values here are whole, checked and frozen. How files become these is left to `settings_assembly`.
A secret is a plain string that no `repr` shows; whoever prints more than a `repr` uses `settings_view`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import attrs

from syncagent.core import constraints as c
from syncagent.core.manifest import COMPONENT_PATTERN, NAME_PATTERN

Text = Annotated[str, c.not_empty()]
Globs = tuple[Text, ...]
Seconds = Annotated[float, c.within(0, 31_536_000)]
Count = Annotated[int, c.within(0)]
Percent = Annotated[float, c.within(0, 90)]
Number = float
SecretText = Annotated[str, c.not_empty(), c.Secret()]
Segments = Annotated[str, c.segments]

IGNORE = (".*", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.swp", "*~", "tmpfile??????")


@attrs.frozen(kw_only=True)
class Watch:
    """How finished files below `path` are noticed."""

    settle_s: Seconds = 1.0
    max_unsettled_s: Annotated[float, c.within(above=0)] | None = None
    scan_s: Annotated[float, c.within(1, 86_400)] = 30.0
    events: Annotated[str, c.one_of("auto", "off")] = "auto"
    include: Annotated[Globs, c.not_empty()] = ("*",)
    ignore: Globs = IGNORE


@attrs.frozen(kw_only=True)
class Metered:
    """A data budget on interfaces that cost money; `allow` names what may still go when it is spent."""

    interfaces: tuple[Text, ...] = ()
    budget_bytes_per_month: Count | None = None
    allow: Globs = ()


@attrs.frozen(kw_only=True)
class Upload:
    """How files are sent."""

    workers: Annotated[int, c.within(1, 64)] = 4
    multipart_bytes: Annotated[int, c.within(c.MIN_PART_BYTES, c.MAX_PUT_BYTES)] = 8_388_608
    part_bytes: Annotated[int, c.within(c.MIN_PART_BYTES, c.MAX_PUT_BYTES)] = c.MIN_PART_BYTES
    order: Annotated[str, c.one_of("oldest", "newest", "smallest", "newest_first_with_backfill")] = "oldest"
    on_rewrite: Annotated[str, c.one_of("suffix", "overwrite")] = "suffix"
    verify: Annotated[str, c.one_of("digest", "read_back")] = "digest"
    retry_min_s: Annotated[float, c.within(0.1, 86_400)] = 1.0
    retry_max_s: Annotated[float, c.within(0.1, 86_400)] = 300.0
    connect_timeout_s: Annotated[float, c.within(0.1, 3_600)] = 10.0
    stall_s: Annotated[float, c.within(1, 86_400)] = 30.0
    max_bytes_per_s: Annotated[int, c.within(1)] | None = None
    timetable: Annotated[Mapping[Annotated[str, c.window], Annotated[int, c.within(1)]], c.timetable] = attrs.field(
        factory=dict
    )
    metered: Metered | None = None
    allowed_roots: tuple[Annotated[str, c.absolute_path], ...] = ()
    storage_class: Annotated[str, c.matching("[A-Z][A-Z_]{0,63}", remedy="write it as S3 does: STANDARD_IA")] | None = (
        None
    )
    metadata: Annotated[Mapping[Annotated[str, c.metadata_name], Annotated[str, c.metadata_value]], c.metadata] = (
        attrs.field(factory=dict)
    )


@attrs.frozen(kw_only=True)
class Retention:
    """When a confirmed file may go from the disk, and whether one that is unsent may when the disk is full."""

    keep_days: Annotated[float, c.within(0)] | None = None
    keep_files: Count | None = None
    keep_bytes: Count | None = None
    min_free_percent: Percent | None = None
    min_free_bytes: Count | None = None
    min_free_inodes_percent: Percent | None = None
    when_full: Annotated[str, c.one_of("stop", "drop_unsent")] = "stop"
    drop_order: Annotated[str, c.one_of("oldest", "newest", "thin")] = "oldest"
    remove_empty_directories: bool = False


@attrs.frozen(kw_only=True)
class Firmware:
    """What firmware is taken from this carrier."""

    poll_s: Annotated[float, c.within(1, 31_536_000)] = 900.0
    root: Text | None = None
    channel: Annotated[str, c.matching(NAME_PATTERN, remedy='use small letters, digits and "-"')] = "stable"
    #: None in a file; in a Carrier it is the carrier's name when nothing else was said.
    component: Annotated[str, c.matching(COMPONENT_PATTERN, remedy='use letters, digits, "_" and "-"')] | None = None
    hardware: Text | None = None
    max_image_bytes: Annotated[int, c.within(1)] = 67_108_864
    keep: Count = 1
    allow_unsigned: bool = False
    hooks: Mapping[Annotated[str, c.hook], Annotated[str, c.absolute_path]] = attrs.field(factory=dict)
    #: What the manifest's paths are below; None: generated_data.
    directory: Annotated[str, c.absolute_path] | None = None
    mode: Annotated[str, c.matching("0?[0-7]{3}", remedy='write it as chmod does: "0644"')] = "0644"
    group: Text | None = None
    expiry_grace_days: Annotated[float, c.within(0, 36_500)] = 0.0


@attrs.frozen(kw_only=True)
class Store:
    """What the store can do, said by the owner instead of found by probing; None: probe."""

    addressing_style: Annotated[str, c.one_of("auto", "path", "virtual")] = "auto"
    checksums: bool | None = None
    conditional_writes: bool | None = None
    multipart: bool | None = None


@attrs.frozen(kw_only=True)
class CarrierKeys:
    """The keys that a carrier's file may hold."""

    source: Text = "s3"
    bucket_name: Text | None = None
    access_key_id: SecretText | None = attrs.field(default=None, repr=False)
    secret_access_key: SecretText | None = attrs.field(default=None, repr=False)
    path: Segments = ""
    default_cloud_path: Annotated[str, c.cloud_path] = ""
    system_id: Annotated[str, c.system_id] = "default"
    endpoint_url: Annotated[str, c.endpoint] | None = None
    region: Annotated[str, c.matching("[A-Za-z0-9-]{1,64}", remedy="as in eu-central-1")] | None = None
    watch: Watch = Watch()
    upload: Upload = Upload()
    retention: Retention = Retention()
    firmware: Firmware = Firmware()
    store: Store = Store()


@attrs.frozen(kw_only=True)
class Carrier(CarrierKeys):
    """One bucket and path, as one address or task uses it."""

    name: str


@attrs.frozen(kw_only=True)
class HandlerSettings:
    """A handler that an address sends its messages through."""

    name: str
    source: str
    timeout_s: float = 20.0


@attrs.frozen(kw_only=True)
class SendAddress:
    """One message type on its way to one carrier. `duration` is a word, or seconds."""

    name: str
    configured_name: str
    message_type: str
    carrier: Carrier
    duration: str | float
    sub_path: str = ""
    handler: HandlerSettings | None = None
    handler_function: str | None = None
    additional_info: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Task:
    """What to do with messages of one type that come from a carrier."""

    name: str
    configured_name: str
    message_type: str
    function: str
    carrier: Carrier
    arguments: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class MessageFields:
    """Which fields of a message name it and date it."""

    id_field: Text = "id"
    time_field: Text = "time"


@attrs.frozen(kw_only=True)
class Web:
    """The page. An empty `listen` is no page."""

    listen: Annotated[str, c.listen] = "127.0.0.1:8384"
    password: SecretText | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Messages:
    """How long a message waits for its file."""

    wait_file_s: Seconds = 86_400.0


@attrs.frozen(kw_only=True)
class Health:
    """How old an unsent file may be."""

    max_unsent_s: Annotated[float, c.within(1)] = 3_600.0


@attrs.frozen(kw_only=True)
class SystemKeys:
    """The keys of the system file that mean the same everywhere."""

    web: Web = Web()
    #: 0: never.
    heartbeat_s: Seconds = 900.0
    messages: Messages = Messages()
    health: Health = Health()
    log_level: Annotated[str, c.one_of("debug", "info", "warning", "error")] = "info"


@attrs.frozen(kw_only=True)
class System(SystemKeys):
    """This device."""

    id: str


@attrs.frozen(kw_only=True)
class Settings:
    """All that is active. `origins`: the FILE:LINE that set a key; the others have their defaults."""

    system: System
    addresses: tuple[SendAddress, ...] = ()
    tasks: tuple[Task, ...] = ()
    devices: Mapping[str, Mapping[str, object]] = attrs.field(factory=dict)
    messages: Mapping[str, MessageFields] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()
    origins: Mapping[tuple[str, ...], str] = attrs.field(factory=dict, repr=False, eq=False)
