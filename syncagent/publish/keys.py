"""The publisher's keys: Ed25519, private halves as PKCS#8 encrypted with a passphrase.

Owns one directory: `<name>.key` (0600) beside `<name>.pub` (JSON; may be given to anybody). Promises: a private key
is never written unencrypted, no file is replaced, and nothing secret is in a `repr` or a message. Leaves to others:
where a passphrase comes from, and which key a role wants (publish/repository.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signature, Signer, SSlibKey

from syncagent.core.errors import Refused
from syncagent.core.manifest import NAME_PATTERN
from syncagent.edges.files import make_directory, open_directory, words

#: PKCS#8 as every version of cryptography writes it stretches a passphrase by no more than 2,048 rounds of PBKDF2.
MIN_PASSPHRASE_CHARACTERS = 12
_MAX_FILE_BYTES = 65_536

#: Asks for the passphrase of the key file that it is given; the number counts from 0 and says how often it was wrong.
Ask = Callable[[str, int], str]


def check_name(name: str, *, what: str) -> str:
    """Raises: Refused."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise Refused(f'{what} {name!r} is no name: use 1 to 64 of a-z, 0-9 and "-"')
    return name


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a key that may be known. `role` is what it was made for."""

    name: str
    role: str
    key: Key

    def to_json(self) -> bytes:
        document = {"role": self.role, "keyid": self.key.keyid, "key": self.key.to_dict()}
        return (json.dumps(document, indent=2) + "\n").encode()


class PrivateKey(Signer):
    """Signs as one public key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = key_of(private)

    @property
    def public_key(self) -> Key:
        return self._public

    @classmethod
    def from_priv_key_uri(cls, *_arguments: object, **_names: object) -> Signer:
        raise NotImplementedError("keys are read from the key directory")

    def sign(self, payload: bytes) -> Signature:
        return Signature(self._public.keyid, self._private.sign(payload).hex())


def key_of(private: Ed25519PrivateKey) -> SSlibKey:
    """The public half as metadata holds it; its id is the hash that the TUF specification names."""
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    said: dict[str, Any] = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}
    keyid = hashlib.sha256(encode_canonical(said).encode()).hexdigest()  # type: ignore[union-attr]
    return SSlibKey(keyid, "ed25519", "ed25519", {"public": public})


class KeyRing:
    """The keys of one directory, unlocked when they are first needed."""

    def __init__(self, directory: str, ask: Ask) -> None:
        self.directory = directory
        self._ask = ask
        self._passphrases: list[str] = []
        self._unlocked: dict[str, PrivateKey] = {}

    def generate(self, name: str, role: str) -> PublicKey:
        """Make a key. Raises: Refused where one of that name is there, or the passphrase is too short."""
        check_name(role, what="role")
        check_name(name, what="key")
        private_path, public_path = self._path(f"{name}.key"), self._path(f"{name}.pub")
        for path in (private_path, public_path):
            if os.path.lexists(path):
                raise Refused(f"{path} is there already; a key is never replaced (name another with --name)")
        passphrase = self._passphrases[0] if self._passphrases else self._ask(private_path, 0)
        if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
            raise Refused(f"a passphrase has at least {MIN_PASSPHRASE_CHARACTERS} characters")
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
        made = PublicKey(name, role, key_of(private))
        make_directory(self.directory, mode=0o700)
        write_new(private_path, pem, mode=0o600)
        try:
            write_new(public_path, made.to_json(), mode=0o644)
        except BaseException:
            # Half a key is of no use, and would stand in the way of another try.
            with contextlib.suppress(OSError):
                os.unlink(private_path)
            raise
        self._remember(passphrase)
        self._unlocked[made.key.keyid] = PrivateKey(private)
        return made

    def public_keys(self, role: str | None = None) -> list[PublicKey]:
        """The public halves that are here, by name. Raises: Refused for one that cannot be read."""
        found = []
        for name in _listed(self.directory):
            stem, dot, extension = name.rpartition(".")
            if dot and extension == "pub":
                public = read_public(os.path.join(self.directory, name), name=stem)
                if role in (None, public.role):
                    found.append(public)
        return found

    def has(self, keyid: str) -> bool:
        """Whether the private half is here, locked or not."""
        return any(
            public.key.keyid == keyid and os.path.exists(self._path(f"{public.name}.key"))
            for public in self.public_keys()
        )

    def signer(self, keyid: str) -> PrivateKey | None:
        """The private half of a key that is here. Raises: Refused when it cannot be unlocked."""
        if keyid not in self._unlocked:
            for public in self.public_keys():
                path = self._path(f"{public.name}.key")
                if public.key.keyid == keyid and os.path.exists(path):
                    self.unlock_file(path)
        return self._unlocked.get(keyid)

    def unlock_file(self, path: str) -> PrivateKey:
        """The private half in one file, wherever it lies. Raises: Refused."""
        pem = read_file(path)
        for passphrase in self._passphrases:
            private = _decrypted(path, pem, passphrase)
            if private is not None:
                return self._keep(private)
        attempt = 0
        while True:
            # The one who asks ends it: by raising when there is nobody to ask again.
            passphrase = self._ask(path, attempt)
            private = _decrypted(path, pem, passphrase)
            if private is not None:
                self._remember(passphrase)
                return self._keep(private)
            attempt += 1

    def _keep(self, private: Ed25519PrivateKey) -> PrivateKey:
        signer = PrivateKey(private)
        self._unlocked[signer.public_key.keyid] = signer
        return signer

    def _remember(self, passphrase: str) -> None:
        if passphrase not in self._passphrases:
            self._passphrases.append(passphrase)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)


def read_public(path: str, *, name: str) -> PublicKey:
    """Raises: Refused."""
    try:
        document = json.loads(read_file(path))
        key = Key.from_dict(document["keyid"], dict(document["key"]))
        return PublicKey(name, check_name(document["role"], what="role"), key)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{path} is no public key") from error


def read_file(path: str, *, most_bytes: int = _MAX_FILE_BYTES) -> bytes:
    """A file of the publisher, or its beginning where it is longer than any is. Raises: Refused."""
    try:
        with open(path, "rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise Refused(f"{path}: {words(error)}") from error


def write_new(path: str, data: bytes, *, mode: int) -> None:
    """Write a file that is not there yet, durably; where that fails there is none. Raises: Refused."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            with open_directory(os.path.dirname(path) or ".", "") as directory:
                os.fsync(directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
    except OSError as error:
        raise Refused(f"{path}: {words(error)}") from error


def _decrypted(path: str, pem: bytes, passphrase: str) -> Ed25519PrivateKey | None:
    """None where the passphrase is wrong. Raises: Refused for anything but an encrypted Ed25519 key."""
    try:
        private = load_pem_private_key(pem, passphrase.encode())
    except TypeError as error:
        raise Refused(f"{path} is not encrypted; such a key is not used") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"ENCRYPTED PRIVATE KEY" not in pem:
            raise Refused(f"{path} is no encrypted private key") from error
        return None
    if not isinstance(private, Ed25519PrivateKey):
        raise Refused(f"{path} is no Ed25519 key")
    return private


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Refused(f"{directory}: {words(error)}") from error
