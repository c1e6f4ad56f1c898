"""XMP packets: whether one speaks of a place, and the same packet without."""

from __future__ import annotations

import re

#: Names of properties: EXIF's own, those of drones (one vendor's with its misspelling), and the W3C's vocabulary.
_PLACE = rb"(?:gps|latitude|longitude|longtitude|geotag)"
_PLACES = re.compile(_PLACE + rb"|2003/01/geo", re.IGNORECASE)
_NAME = rb"[\w.:-]*" + _PLACE + rb"[\w.:-]*"
_PROPERTIES = (
    re.compile(rb"\s" + _NAME + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", re.IGNORECASE),
    re.compile(rb"<(" + _NAME + rb")(?:\s[^>]*)?(?:/>|>.*?</\1\s*>)", re.IGNORECASE | re.DOTALL),
)
_EMPTY = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
)
_END = b'<?xpacket end="w"?>'


def mentions_place(packet: bytes) -> bool:
    # A packet may be written with two or four bytes for each character.
    return _PLACES.search(packet.replace(b"\0", b"")) is not None


def without_place(packet: bytes) -> bytes:
    """The packet, as long as before, its places blank; all of it when one is told in an unknown way."""
    blank = packet
    for properties in _PROPERTIES:
        blank = properties.sub(lambda match: b" " * len(match.group()), blank)
    return empty_packet(len(packet)) if mentions_place(blank) else blank


def empty_packet(size_bytes: int) -> bytes:
    padding = size_bytes - len(_EMPTY) - len(_END)
    return b" " * size_bytes if padding < 0 else _EMPTY + b" " * padding + _END
