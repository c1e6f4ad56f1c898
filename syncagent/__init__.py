"""Moves what field cameras write into an S3 bucket, and firmware the other way, whatever fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncagent.posting import post

__all__ = ["__version__", "post"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: every part of the agent imports this module.
    if name == "post":
        from syncagent.posting import post

        return post
    raise AttributeError(name)
