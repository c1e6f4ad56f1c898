"""The five commands of the README's chapter "Firmware", exactly as they stand there."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

from tests.agent import environment
from tests.publishing import PASSPHRASE
from tests.servers import _answers, free_port, s3_client, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def commands() -> tuple[dict[str, str], list[str]]:
    """The environment that the chapter sets, and its commands."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
        chapter = readme.read().partition("\n## Firmware\n")[2].partition("\n## ")[0]
    lines = [line.strip() for line in chapter.splitlines() if line.startswith("    ")]
    (setting,) = [line for line in lines if line.startswith("export ")]
    pairs = [word.partition("=") for word in shlex.split(setting)[1:]]
    return {name: value for name, _, value in pairs if name != "PATH"}, [
        line for line in lines if line.startswith("syncagent ")
    ]


def test_five_commands_take_a_newcomer_from_nothing_to_a_dropped_image(tmp_path: os.PathLike[str]) -> None:
    """Nothing is changed but the port, which may be taken here, and the waiting that typing is."""
    settings, lines = commands()
    assert len(lines) == 5
    port = free_port()
    for name in ("configs/demo", "README.md"):
        source, place = os.path.join(ROOT, name), os.path.join(tmp_path, name)
        if os.path.isdir(source):
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("root.json"))
        else:
            shutil.copy(source, place)
    for name in ("demo_store", "demo_firmware"):
        path = os.path.join(tmp_path, "configs", "demo", "carriers", f"{name}.json")
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(re.sub(r":9000\b", f":{port}", text))
    env = {**environment(), **settings, "PYTHONPATH": ROOT, "SYNCAGENT_KEY_PASSPHRASE": PASSPHRASE}
    store: subprocess.Popen[bytes] | None = None
    try:
        for line in lines:
            words = [sys.executable, "-m", *shlex.split(line.replace("9000", str(port)).removesuffix(" &"))]
            if line.endswith(" &"):
                store = subprocess.Popen(words, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL)
                wait_until(lambda: _answers(port), deadline_s=90, what="the store answers")
                continue
            done = subprocess.run(
                words, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
        client = s3_client(f"http://127.0.0.1:{port}", access_key="demo", secret_key="demo-secret")
        keys = [item["Key"] for item in client.list_objects_v2(Bucket="demo", Prefix="firmware_images/")["Contents"]]
        assert "firmware_images/metadata/timestamp.json" in keys
        # As the chapter says it.
        field = os.path.join(tmp_path, "field", "generated_data")
        dropped = os.path.join(field, "firmware_images", "README.md.bin")
        assert filecmp.cmp(dropped, os.path.join(ROOT, "README.md"), shallow=False)
        with open(os.path.join(field, "latest_firmware.json")) as file:
            assert file.read() == "README.md"
        for verb in ("status", "fleet"):
            asked = [sys.executable, "-m", "syncagent", "firmware", verb, "--json"]
            told = subprocess.run(asked, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
            assert "1.0.0" in json.dumps(json.loads(told.stdout)), (verb, told.stdout, told.stderr)
    finally:
        if store is not None:
            store.send_signal(signal.SIGINT)
            assert store.wait(20) == 0
