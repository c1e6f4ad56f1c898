"""The package of this tree, for the tests that install it."""

from __future__ import annotations

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build(output: str, *options: str) -> str:
    """Build it into the folder `output`; `options` are those of packaging/build_deb.py. Returns its path."""
    program = os.path.join(ROOT, "packaging/build_deb.py")
    subprocess.run([sys.executable, program, "--output", output, *options], check=True, stdout=subprocess.DEVNULL)
    return next(os.path.join(output, name) for name in os.listdir(output) if name.endswith(".deb"))
