"""For other programs on the device: tell the agent of a file, or of anything else that it understands."""

from __future__ import annotations

import os
from collections.abc import Mapping

from syncagent.core.messages import Message, message_of
from syncagent.edges.inbox import drop

BASE_DIR = "/var/lib/syncagent"


def post(message_type: str, content: Mapping[str, object], *, base_dir: str | os.PathLike[str] | None = None) -> str:
    """Post a message; once this returns it is on the card and will be acted on, whether the agent runs or not.

    `content` is a message's content, or a whole message `{msg_id, msg_time, msg_type, msg_content}`. `base_dir` is
    the agent's, by default `SYNCAGENT_BASE_DIR`, else /var/lib/syncagent. Returns the SHA-256 of the whole message in
    hex: the same message posted again is the same message.

    Raises: Refused when this is no message; Transient when it cannot be written.
    """
    return post_message(
        message_of(dict(content), message_type),
        base_dir=os.fspath(base_dir) if base_dir is not None else os.environ.get("SYNCAGENT_BASE_DIR") or BASE_DIR,
    )


def post_message(message: Message, *, base_dir: str) -> str:
    """Like `post`, for what was parsed already."""
    name = message.digest.hex()
    drop(base_dir, message.type, f"{name[:40]}.json", message.text.encode())
    return name
