"""What may stand in a file of each kind.

Every key has a default here: whether an object is complete enough to be used is asked only of what is active,
so that a parent may leave things to its heirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import attrs

from syncagent.core import constraints as c
from syncagent.core.settings import CarrierKeys, MessageFields, Segments, SystemKeys, Text

DEVICE_SOURCES = ("ds3231", "ds1307", "ina219", "max17048", "lm75", "tmp102", "at24mac")
TASK_FUNCTION = "handle_new_firmware_message"

Names = tuple[Text, ...]
Free = Mapping[str, object]


@attrs.frozen(kw_only=True)
class SystemFile(SystemKeys):
    """system/<any>.json: at most one."""

    inheritance: Names = ()
    id: Annotated[str, c.system_id] = "$hostname"
    addresses: Names | None = None
    tasks: Names | None = None


@attrs.frozen(kw_only=True)
class CarrierFile(CarrierKeys):
    """carriers/<name>.json."""

    inheritance: Names = ()


@attrs.frozen(kw_only=True)
class AddressFile:
    """addresses/<name>.json."""

    inheritance: Names = ()
    message_type: Annotated[str | tuple[str, ...], c.message_types] | None = None
    handler: Text | None = None
    handler_function: Text | None = None
    send_or_receive: Annotated[str, c.one_of("send", "receive")] = "send"
    carrier: Text | None = None
    duration: Annotated[str | float, c.duration] | None = None
    additional_info: Free = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AdditionalInfo:
    """The one key of an address's `additional_info` that has a meaning of its own."""

    sub_path: Segments = ""


@attrs.frozen(kw_only=True)
class TaskFile:
    """tasks/<name>.json."""

    inheritance: Names = ()
    source_type: Text | None = None
    config_name: Text | None = None
    function: Text | None = None
    arguments: Free = attrs.field(factory=dict)
    duration: Annotated[str | float, c.duration] | None = None
    message_type: Annotated[str | tuple[str, ...], c.message_types] | None = None


@attrs.frozen(kw_only=True)
class MessageFile(MessageFields):
    """messages/<message type>.json."""

    inheritance: Names = ()


@attrs.frozen(kw_only=True)
class HandlerFile:
    """handlers/<name>.json."""

    inheritance: Names = ()
    source: (
        Annotated[
            str,
            c.matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}", remedy="give the name of a handler, not a path"),
        ]
        | None
    ) = None
    # Less than what `run --once` waits for progress, by default: else it ends before the handler is given up.
    timeout_s: Annotated[float, c.within(1, 3_600)] = 20.0


@attrs.frozen(kw_only=True)
class DeviceFile:
    """devices/<name>.json."""

    inheritance: Names = ()
    source: Annotated[str, c.one_of(*DEVICE_SOURCES)] | None = None
    bus: Annotated[int, c.within(0, 255)] = 1
    address: Annotated[int | str, c.i2c_address] | None = None
    attach: bool = False
    sample_s: Annotated[float, c.within(1, 3_600)] = 10.0
    #: Of an ina219: without it there is no current.
    shunt_ohm: Annotated[float, c.within(above=0)] | None = None
    #: Of an lm75: how many bits of its temperature count.
    bits: Annotated[int, c.within(9, 13)] = 9
    pause_below_percent: Annotated[float, c.within(0, 100)] | None = None
    resume_above_percent: Annotated[float, c.within(0, 100)] | None = None
    pause_below_v: Annotated[float, c.within(0, 1_000)] | None = None
    resume_above_v: Annotated[float, c.within(0, 1_000)] | None = None
    pause_above_c: Annotated[float, c.within(-55, 150)] | None = None
    resume_below_c: Annotated[float, c.within(-55, 150)] | None = None


#: The folders of a configuration directory, in the order in which they are reported.
KINDS: Mapping[str, type] = {
    "system": SystemFile,
    "carriers": CarrierFile,
    "addresses": AddressFile,
    "messages": MessageFile,
    "tasks": TaskFile,
    "handlers": HandlerFile,
    "devices": DeviceFile,
}

#: Values that are never shown and in which a dollar is a dollar, by kind.
SECRETS: Mapping[str, frozenset[tuple[str | int, ...]]] = {
    "system": frozenset({("web", "password")}),
    "carriers": frozenset({("access_key_id",), ("secret_access_key",)}),
}
