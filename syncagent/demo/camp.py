"""The demo's directories and configuration: a base directory as any owner has one, below a temporary directory.

The configuration is that of `configs/demo/`, with the address of this run's store.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from typing import Any

BUCKET = "demo"
SYSTEM_ID = "demo-camera"
REGION = "us-east-1"
ACCESS_KEY_ID = "demo"
SECRET_ACCESS_KEY = "demo-secret"  # noqa: S105 - opens nothing but the embedded store

FIRMWARE_PATH = "firmware_images"
COMPONENT = "camera"

PAGE_PORT = 8384

Documents = dict[str, dict[str, Any]]


def configuration(endpoint_url: str) -> Documents:
    """File below the configuration directory -> what is in it."""
    store = {
        "source": "s3",
        "endpoint_url": endpoint_url,
        "region": REGION,
        "bucket_name": BUCKET,
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": SECRET_ACCESS_KEY,
        "system_id": "$system_id",
    }
    return {
        "system/system.json": {"id": SYSTEM_ID, "addresses": ["camera"], "tasks": ["download_new_firmware_image"]},
        "addresses/camera.json": {
            "message_type": "image_info",
            "carrier": "demo_store",
            "duration": "on_change",
            "additional_info": {"sub_path": "$system_id"},
        },
        "carriers/demo_store.json": {**store, "path": "camera", "default_cloud_path": ""},
        "carriers/demo_firmware.json": {
            **store,
            "path": FIRMWARE_PATH,
            "firmware": {"root": "root.json", "component": COMPONENT, "poll_s": 3},
        },
        "tasks/download_new_firmware_image.json": {
            "source_type": "carrier",
            "config_name": "demo_firmware",
            "function": "handle_new_firmware_message",
            "arguments": {},
            "duration": "on_message",
            "message_type": "firmware_image",
        },
    }


def free_page() -> str:
    """Where the agent of the demo shows its page: where any agent does, unless one runs on this machine already."""
    for port in (PAGE_PORT, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return f"127.0.0.1:{found.getsockname()[1]}"
    return ""


class Camp:
    """One temporary directory; the agent's base directory is the directory itself."""

    def __init__(self) -> None:
        self.directory = os.path.realpath(tempfile.mkdtemp(prefix="syncagent-demo-"))
        self.config_dir = os.path.join(self.directory, "configs")
        self.state_dir = os.path.join(self.directory, "state")
        self.scratch_dir = os.path.join(self.directory, "scratch")
        os.makedirs(self.scratch_dir)

    def log_path(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.log")

    @property
    def record_path(self) -> str:
        return os.path.join(self.directory, "finished.jsonl")

    @property
    def address_path(self) -> str:
        return os.path.join(self.directory, "store.address")

    def configure(self, documents: Documents) -> None:
        for name, document in documents.items():
            path = os.path.join(self.config_dir, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
