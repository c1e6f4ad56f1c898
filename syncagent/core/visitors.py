"""Who may look at the page: where it listens, and which requests it answers.

A page on loopback has no password, so it must not be read by a web site that a browser on this machine visits: such a
site can have its own name lead to 127.0.0.1, but the browser still sends that name along as `Host`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


def parse_listen(listen: str) -> tuple[str, int]:
    """(host, port) of `web.listen`, which the configuration has checked; an IPv6 address without its brackets.

    "*", as other servers write it, is every address.
    """
    host, _, port = listen.rpartition(":")
    if host == "*":
        host = "0.0.0.0"  # noqa: S104 - the owner said so, and gave a password
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host that is written like this. A name may lead anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_welcome(named: list[str], *, host: str) -> bool:
    """Whether a request with these `Host` headers is meant for a page that listens on `host`."""
    if len(named) != 1:
        return False
    match = _HOST.fullmatch(named[0])
    if match is None:
        return False
    # Of a page that others may reach, the password keeps strange sites away: browsers send it to its own site only.
    name = match[1].removeprefix("[").removesuffix("]")
    return not is_loopback(host) or is_loopback(name)


def is_password(authorization: str, password: str) -> bool:
    """Whether a header `Authorization: Basic` has the password, with any user name. Takes as long for a near miss."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(text.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    # Digests: they are all of one length.
    wanted = hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()
    return hmac.compare_digest(hashlib.sha256(given).digest(), wanted)
