"""What our durable Updater rests on, and that it is durable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cryptography
import pytest
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import SSlibKey
from tuf.api import exceptions as tuf
from tuf.ngclient import Updater
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from syncagent.core.errors import Blocked, Stale, Transient, Trouble, Untrusted
from syncagent.core.remote import Got
from syncagent.edges import trust
from syncagent.edges.trust import BucketFetcher, DurableUpdater, contract_breaches, translated, verifier
from tests.fakes import MemoryStore
from tests.firmware_publisher import NOW, PATH, FirmwarePublisher, into_memory


def test_python_tuf_still_has_the_private_members_that_durability_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should this fail after an upgrade of tuf: its files are not durable any more, or the clock has no floor."""
    assert contract_breaches() == []
    with monkeypatch.context() as patched:
        patched.delattr(Updater, "_update_root_symlink")
        assert contract_breaches() == ["Updater._update_root_symlink"]
        patched.setattr(TrustedMetadataSet, "__init__", lambda self, root: None)
        assert contract_breaches()[1:] == ["TrustedMetadataSet.reference_time", "TrustedMetadataSet._trusted_set"]
    with monkeypatch.context() as patched:
        patched.delattr(Updater, "_persist_file")
        assert contract_breaches() == ["Updater._persist_file"]
        with pytest.raises(Blocked, match="_persist_file"):
            trust.Trust(MemoryStore(), metadata_dir="x", root=b"", path="", channel="stable", component="cam")


def test_the_persisting_of_python_tuf_calls_ours_for_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = trust.write_durably

    def write(path: str, data: bytes) -> None:
        written.append(os.path.relpath(path, tmp_path))
        real(path, data)

    monkeypatch.setattr(trust, "write_durably", write)
    store = MemoryStore()
    publisher = FirmwarePublisher(into_memory(store))
    publisher.publish(b"image")
    updater = make(store, publisher, tmp_path)
    updater.refresh()
    updater.trusted("stable/cam/image")
    names = ["root_history/1.root.json", "timestamp.json", "snapshot.json", "targets.json", "stable.json"]
    assert written == names
    written.clear()
    again = make(store, publisher, tmp_path)
    again.refresh()
    assert written == []  # a refresh that finds nothing new costs the card nothing


def make(
    store: MemoryStore, publisher: FirmwarePublisher, directory: Path, reference: datetime = NOW
) -> DurableUpdater:
    fetcher = BucketFetcher(store)
    url = f"bucket:///{PATH}/metadata/"
    return DurableUpdater(str(directory), url, fetcher=fetcher, root=publisher.trusted_root, reference=reference)


def test_the_reference_time_is_the_one_that_is_given(tmp_path: Path) -> None:
    store = MemoryStore()
    updater = make(store, FirmwarePublisher(into_memory(store)), tmp_path, datetime(2099, 1, 1, tzinfo=UTC))
    with pytest.raises(Stale) as error, translated():
        updater.refresh()
    assert error.value.role == "root"


def test_a_file_is_synced_before_it_is_named_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def recorded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    trust.write_durably(str(tmp_path / "x.json"), b"data")
    assert calls == ["fsync", "rename", "fsync"] and os.listdir(tmp_path) == ["x.json"]


def test_a_full_disk_leaves_the_old_file_and_is_the_disk_s_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.write_durably(str(tmp_path / "x.json"), b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Transient) as error, translated():
        trust.write_durably(str(tmp_path / "x.json"), b"new")
    assert error.value.trouble is Trouble.DISK
    assert (tmp_path / "x.json").read_bytes() == b"old" and os.listdir(tmp_path) == ["x.json"]


def test_the_self_test_says_which_verifier_is_active() -> None:
    assert verifier() == f"cryptography {cryptography.__version__}"


@pytest.mark.parametrize("answer", [None, UnverifiedSignatureError("no"), VerificationError("broken")], ids=repr)
def test_a_verifier_that_does_not_tell_true_from_false_is_not_used(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    def verify(*_: object) -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(SSlibKey, "verify_signature", verify)
    with pytest.raises(Blocked, match="told apart"):
        verifier()


_AS_DEBIAN_12 = """
from cryptography.hazmat.primitives.asymmetric import types
for new, old in (("PublicKeyTypes", "PUBLIC_KEY_TYPES"), ("PrivateKeyTypes", "PRIVATE_KEY_TYPES")):
    if hasattr(types, new):
        setattr(types, old, getattr(types, new))
        delattr(types, new)
"""


def test_a_cryptography_with_the_names_of_debian_12_is_the_verifier_all_the_same() -> None:
    """Without our two lines securesystemslib falls back to pure Python, and says nothing."""

    def said(program: str) -> str:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        return run.stdout.strip() or run.stderr

    ours = _AS_DEBIAN_12 + "from syncagent.edges.trust import verifier; print(verifier())"
    theirs = _AS_DEBIAN_12 + "from securesystemslib.signer import _key; print(bool(_key.CRYPTO_IMPORT_ERROR))"
    assert said(ours).startswith("cryptography ")
    assert said(theirs) == "True"


def test_an_agent_without_firmware_does_not_load_python_tuf() -> None:
    program = "import sys, syncagent.app, syncagent.cli.status; print({'tuf', 'cryptography'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "set()", run.stderr


def test_what_goes_wrong_while_the_body_is_read_is_translated() -> None:
    class Cut(MemoryStore):
        def get(self, key: str, *, headers: Any = None) -> Got:
            def chunks() -> Iterator[bytes]:
                yield b"{"
                raise Transient("cut", trouble=Trouble.LINK)

            return Got(200, {}, chunks())

    fetcher = BucketFetcher(Cut())
    with pytest.raises(tuf.DownloadError), fetcher.download_file("bucket:///x", 100):
        pass
    with pytest.raises(Transient) as error, translated():
        fetcher.download_bytes("bucket:///x", 100)
    assert error.value.trouble is Trouble.LINK


def test_only_a_missing_or_refused_key_is_an_http_error_to_python_tuf() -> None:
    store = MemoryStore()
    with pytest.raises(tuf.DownloadHTTPError) as error:
        BucketFetcher(store).download_bytes("bucket:///x", 100)
    assert error.value.status_code == 404


def test_longer_than_allowed_is_untrusted_and_the_connection_is_ended() -> None:
    dropped = []

    class Long(MemoryStore):
        def get(self, key: str, *, headers: Any = None) -> Got:
            return Got(200, {}, iter([b"x" * 1000] * 1000), _drop=lambda: dropped.append(key))

    with pytest.raises(Untrusted, match="longer"), translated():
        BucketFetcher(Long()).download_bytes("bucket:///x", 5000)
    assert dropped == ["x"]


def test_a_root_that_the_owner_gave_must_be_one() -> None:
    publisher = FirmwarePublisher(lambda *_: None)
    assert trust.parse_root(publisher.trusted_root) == 1
    for junk in (b"", b"{}", b"\xff", publisher.files[f"{PATH}/metadata/timestamp.json"], b"[" * 10_000):
        with pytest.raises(Untrusted):
            trust.parse_root(junk)
