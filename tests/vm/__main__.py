"""The package in a machine that boots: python -m tests.vm [--short], python -m tests.vm power-cuts

Prints a line per step with its seconds; exits 0 when all passed, 1 when not, 2 when there is no lab.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tests.packaging.building import build
from tests.servers import VerifyingS3
from tests.vm.chips import Chips, I2cBus
from tests.vm.device import Device
from tests.vm.lab import Guest, LabMissing, lab_dir
from tests.vm.life import Life
from tests.vm.power import Cuts, cut


def built(folder: str, *versions: str) -> list[str]:
    """The package of this tree, and newer ones."""
    package = build(os.path.join(folder, "this"))
    return [package, *(build(os.path.join(folder, version), "--version", version) for version in versions)]


def walk(guest: Guest, steps: Sequence[Callable[[], None]]) -> None:
    """Each step, with its seconds; of one that fails, what the service had to say."""
    for step in steps:
        at = time.monotonic()
        try:
            step()
        except BaseException:
            print(f"NOT OK  {step.__name__.replace('_', ' ')}", flush=True)
            seen = guest.run("journalctl -u syncagent --no-pager -n 60", check=False)
            print(seen.stdout[-6000:], file=sys.stderr)
            raise
        print(f"ok      {step.__name__.replace('_', ' ')} ({time.monotonic() - at:.0f} s)", flush=True)


def live(options: argparse.Namespace) -> int:
    """The life of a device."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, VerifyingS3("bucket") as store, I2cBus() as bus:
        packages = built(folder, *(() if options.short else ("9.0",)))
        with Guest(f"syncagent-{os.getpid()}", store.port, options=bus.options) as guest:
            print(f"ok      booted ({time.monotonic() - begun:.0f} s)", flush=True)
            device = Device(guest, store)
            life = Life(device, packages)
            if options.short:

                def after_a_power_cut_nothing_is_lost() -> None:
                    cuts = Cuts(guest, store, how="boot")
                    cuts.configure()
                    assert cut(cuts, 1)

                walk(guest, [*life.short_steps(), after_a_power_cut_nothing_is_lost])
            else:
                walk(guest, [*life.steps(), *Chips(device, bus).steps(), *life.last_steps()])
    print(f"all passed in {time.monotonic() - begun:.0f} s")
    return 0


def cut_power(options: argparse.Namespace) -> int:
    """Cut the power, in one way or in all."""
    ways: list[tuple[str, str, int, bool]] = [
        ("data", "writeback", 20, True),
        ("boot", "strict", 5, True),
        ("data", "strict", 10, False),
    ]
    if options.how:
        ways = [(options.how, options.disk, options.cycles, not options.unsynced)]
    begun = time.monotonic()
    is_good = True
    with tempfile.TemporaryDirectory() as folder:
        (package,) = built(folder)
        for how, disk, cycles, is_synced in ways:
            print(f"{cycles} cuts, --how {how} --disk {disk}{'' if is_synced else ', without fsync'}", flush=True)
            root_disk = disk if how == "boot" else "writeback"
            with (
                VerifyingS3("bucket") as store,
                Guest(f"syncagent-{os.getpid()}", store.port, disk=root_disk) as guest,
            ):
                cuts = Cuts(guest, store, how=how, data_disk=disk, is_synced=is_synced, seed=options.seed)
                cuts.prepare(package)
                is_good &= cut(cuts, cycles)
    print(f"{'all is as promised' if is_good else 'NOT OK'}, {time.monotonic() - begun:.0f} s")
    return 0 if is_good else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("life", "power-cuts"), default="life")
    parser.add_argument("--short", action="store_true", help="a short life, with one power cut")
    cuts = parser.add_argument_group("power-cuts", "one way instead of all")
    cuts.add_argument("--how", choices=("data", "boot"), help="a data disk lives on, or the root disk is booted again")
    cuts.add_argument("--disk", choices=("writeback", "strict"), default="writeback")
    cuts.add_argument("--cycles", type=int, default=3)
    cuts.add_argument("--unsynced", action="store_true", help="take the fsyncs out; the cuts must be seen then")
    cuts.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no guest stays behind
    try:
        lab_dir()
        return {"life": live, "power-cuts": cut_power}[options.what](options)
    except LabMissing as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
