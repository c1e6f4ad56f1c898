"""The store's keys as the service manager hands them over: files that only the service and root can read.

A carrier without keys of its own takes these, and without these boto3's chain decides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

ACCESS_KEY_ID, SECRET_ACCESS_KEY = "access_key_id", "secret_access_key"
#: Where systemd looks for what the unit's LoadCredential= names; root, who is not the service, looks there, too.
STORE = "/etc/credstore"
PREFIX = "syncagent."


def given_keys(environment: Mapping[str, str] = os.environ, *, store: str = STORE) -> tuple[str, str] | None:
    """Both keys, or None where they are not given."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    for folder, prefix in ((directory, ""), (store, PREFIX)):
        if folder:
            found = [_read(os.path.join(folder, prefix + name)) for name in (ACCESS_KEY_ID, SECRET_ACCESS_KEY)]
            if found[0] and found[1]:
                return found[0], found[1]
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
