"""syncagent i2c scan: what is on the bus, and the device files that fit it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from syncagent.cli.context import fail, print_json, say
from syncagent.core.errors import NotThere
from syncagent.core.parts import PARTS, Options
from syncagent.core.sensing import rounded
from syncagent.edges.i2c import Buses
from syncagent.edges.i2c.scan import LAST, Found, bus_numbers, scan

#: The bus on the Raspberry Pi's header.
HEADER = 1
BUSY = "in use by the kernel"


@click.group()
def i2c() -> None:
    """Look for parts on an I2C bus."""


@i2c.command("scan")
@click.option(
    "--bus",
    type=click.IntRange(0, 255),
    default=None,
    metavar="N",
    help="Only this one. [default: 1, on a Raspberry Pi's header; all, where there is no 1]",
)
@click.option("--json", "as_json", is_flag=True, help="One document on standard output.")
def scan_(bus: int | None, as_json: bool) -> None:
    """Say what is on the bus, and propose device files for it.

    Stores nothing in any part, and leaves alone what a driver of the kernel uses. Registers are read only where a part
    can be that the agent knows.
    """
    buses = Buses()
    results: list[dict[str, Any]] = []
    for number in _numbers(bus):
        try:
            results.append(
                {"bus": number, "found": [_described(buses, number, each) for each in _found(buses, number)]}
            )
        except NotThere as error:
            fail(f"{error} -- {error.remedy}" if error.remedy else str(error))
    if as_json:
        print_json({"buses": results})
    else:
        for result in results:
            _show(result)


def _numbers(bus: int | None) -> list[int]:
    if bus is not None:
        return [bus]
    numbers = bus_numbers()
    return [HEADER] if HEADER in numbers or not numbers else numbers


def _found(buses: Buses, number: int) -> list[Found]:
    if not sys.stderr.isatty():
        return list(scan(buses, number))
    with click.progressbar(length=LAST + 1, label=f"bus {number}", file=sys.stderr) as bar:
        return list(scan(buses, number, on_address=lambda _: bar.update(1)))


def _described(buses: Buses, number: int, found: Found) -> dict[str, Any]:
    described: dict[str, Any] = {
        "address": f"0x{found.address:02x}",
        "state": BUSY if found.is_busy else "answers",
        "source": found.part.source if found.part else None,
        "values": {},
        "file": None,
    }
    if found.part is None:
        return described
    described["file"] = {"source": found.part.source, "bus": number, "address": described["address"]}
    try:
        reading, _ = buses.sample(number, found.address, found.part, Options())
    except NotThere as error:
        described["values"] = {"trouble": str(error)}
        return described
    described["values"] = {
        **rounded(reading.values),
        **({"time": f"{reading.moment:%Y-%m-%dT%H:%M:%SZ}"} if reading.moment else {}),
        **({"doubt": reading.doubt} if reading.doubt else {}),
        **({"eui": reading.eui} if reading.eui else {}),
    }
    return described


def _show(result: dict[str, Any]) -> None:
    click.echo(f"bus {result['bus']}:")
    for each in result["found"]:
        what = each["source"] or (BUSY if each["state"] == BUSY else "none that the agent knows")
        values = ", ".join(f"{name} {value}" for name, value in each["values"].items())
        click.echo(f"  {each['address']}  {what}{f': {values}' if values else ''}")
    if not result["found"]:
        click.echo("  nobody answers")
    names: set[str] = set()
    for each in result["found"]:
        if each["file"] is None:
            continue
        name = base = str(PARTS[each["source"]].role)
        count = 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.add(name)
        click.echo(f"configs/devices/{name}.json:  {json.dumps(each['file'])}")
    if not names:
        say("no part that the agent knows")
