"""The publisher's keys: encrypted, never replaced, and never shown."""

from __future__ import annotations

import errno
import os
import re
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from syncagent.core.errors import Refused
from syncagent.publish import keys
from syncagent.publish.keys import KeyRing, write_new
from tests.publishing import PASSPHRASE, passphrase


@pytest.fixture
def directory(tmp_path: os.PathLike[str]) -> str:
    return os.path.join(tmp_path, "keys")


def test_a_private_key_is_written_encrypted_and_for_its_owner_only(directory: str) -> None:
    made = KeyRing(directory, passphrase).generate("root", "root")
    path = os.path.join(directory, "root.key")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    with open(path, "rb") as file:
        pem = file.read()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    private = load_pem_private_key(pem, PASSPHRASE.encode())
    assert isinstance(private, Ed25519PrivateKey)
    assert made.key.keyval["public"] == private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    with open(os.path.join(directory, "root.pub")) as public:
        text = public.read()
    assert re.search(r'"role": "root"', text) and raw.hex() not in text


def test_what_was_made_is_found_and_signs(directory: str) -> None:
    made = KeyRing(directory, passphrase).generate("stable", "stable")
    ring = KeyRing(directory, passphrase)
    assert [(public.name, public.role) for public in ring.public_keys()] == [("stable", "stable")]
    assert ring.has(made.key.keyid) and not ring.has("0" * 64)
    signer = ring.signer(made.key.keyid)
    assert signer is not None
    made.key.verify_signature(signer.sign(b"payload"), b"payload")
    assert ring.signer("0" * 64) is None
    assert PASSPHRASE not in repr(ring) + repr(signer) + repr(made)


def test_a_key_is_never_replaced(directory: str) -> None:
    KeyRing(directory, passphrase).generate("root", "root")
    with open(os.path.join(directory, "root.key"), "rb") as file:
        before = file.read()
    for name in ("root", "other"):
        if name == "other":
            with open(os.path.join(directory, "other.pub"), "w"):
                pass
        with pytest.raises(Refused, match="never replaced"):
            KeyRing(directory, passphrase).generate(name, "root")
    with open(os.path.join(directory, "root.key"), "rb") as file:
        assert file.read() == before


def test_a_disk_that_fails_leaves_no_half_of_a_key(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Refused, match=r"root\.key: No space left"):
            KeyRing(directory, passphrase).generate("root", "root")
    assert os.listdir(directory) == []
    KeyRing(directory, passphrase).generate("root", "root")


def test_a_wrong_passphrase_is_said_and_the_right_one_may_follow(directory: str) -> None:
    made = KeyRing(directory, passphrase).generate("root", "root")
    asked = []

    def ask(path: str, attempt: int) -> str:
        asked.append(attempt)
        if attempt == 2:
            return PASSPHRASE
        return "wrong" * 3

    assert KeyRing(directory, ask).signer(made.key.keyid) is not None and asked == [0, 1, 2]

    def ask_once(path: str, attempt: int) -> str:
        if attempt:
            raise Refused("the passphrase is wrong")
        return "wrong" * 3

    with pytest.raises(Refused, match="wrong"):
        KeyRing(directory, ask_once).signer(made.key.keyid)


def test_one_passphrase_is_asked_for_once(directory: str) -> None:
    asked = []

    def ask(path: str, _attempt: int) -> str:
        asked.append(path)
        return PASSPHRASE

    ring = KeyRing(directory, ask)
    made = [ring.generate(role, role) for role in ("root", "targets")]
    assert len(asked) == 1
    again = KeyRing(directory, ask)
    assert all(again.signer(public.key.keyid) for public in made) and len(asked) == 2


@pytest.mark.parametrize("name", ["", "Root", "a/b", "..", "a b", "x" * 65, "ä", "a\n"])
def test_names_are_confined(directory: str, name: str) -> None:
    with pytest.raises(Refused, match="is no name"):
        KeyRing(directory, passphrase).generate(name, "root")
    with pytest.raises(Refused, match="is no name"):
        KeyRing(directory, passphrase).generate("root", name)


def test_a_short_passphrase_makes_no_key(directory: str) -> None:
    with pytest.raises(Refused, match="at least 12 characters"):
        KeyRing(directory, lambda *_: "eleven char").generate("root", "root")
    assert not os.path.exists(directory)


def test_a_key_whose_public_half_cannot_be_written_leaves_nothing(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, data: bytes, *, mode: int) -> None:
        if path.endswith(".pub"):
            raise Refused(f"{path}: No space left on device")
        write_new(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(keys, "write_new", full)
        with pytest.raises(Refused, match="No space left"):
            KeyRing(directory, passphrase).generate("root", "root")
    assert os.listdir(directory) == []
    KeyRing(directory, passphrase).generate("root", "root")


def test_strange_files_are_refused_by_name(directory: str) -> None:
    ring = KeyRing(directory, passphrase)
    made = ring.generate("root", "root")
    path = os.path.join(directory, "root.key")
    plain = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    other = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode())
    )
    for content, what in ((plain, "is not encrypted"), (b"rubbish", "is no encrypted private key")):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(Refused, match=what):
            KeyRing(directory, passphrase).signer(made.key.keyid)
    with open(path, "wb") as file:
        file.write(other)
    # Another key under this name signs as itself, and so for nobody.
    assert KeyRing(directory, passphrase).signer(made.key.keyid) is None
    for text in ("", "[]", '{"role": "root"}', '{"role": "root", "keyid": 3, "key": 4}'):
        with open(os.path.join(directory, "root.pub"), "w") as public:
            public.write(text)
        with pytest.raises(Refused, match="is no public key"):
            KeyRing(directory, passphrase).public_keys()
