"""The least policy for AWS that a configuration needs: what the agent asks for, on the keys where it asks.

tests/integration/test_iam_policy.py compares it with the requests of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from syncagent.core.messages import all_addresses
from syncagent.core.settings import Carrier, Settings
from syncagent.docks.naming import corner_key
from syncagent.docks.survey import prefix_of


def policy_of(settings: Settings) -> dict[str, Any]:
    """The policy, for every bucket in use."""
    writes: dict[str, set[str]] = {}
    reads: dict[str, set[str]] = {}
    parts: dict[str, set[str]] = {}
    lists: dict[str, set[str]] = {}
    for address in all_addresses(settings):
        carrier = address.carrier
        bucket = _bucket(carrier)
        prefix = prefix_of(carrier, address)
        keys = {f"{prefix}*", corner_key(carrier, "") + "/*"}
        writes.setdefault(bucket, set()).update(keys)
        reads.setdefault(bucket, set()).update(keys)
        if carrier.store.multipart is not False:
            parts.setdefault(bucket, set()).update(keys)
        lists.setdefault(bucket, set()).add(f"{prefix}*")
    for task in settings.tasks:
        reads.setdefault(_bucket(task.carrier), set()).add(f"{task.carrier.path}/*" if task.carrier.path else "*")
    statements = [
        *_statements("Send", ["s3:PutObject"], writes),
        *_statements("GoOn", ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], parts),
        *_statements("Compare", ["s3:GetObject"], reads),
    ]
    for number, (bucket, prefixes) in enumerate(sorted(lists.items()), start=1):
        statement: dict[str, Any] = {
            "Sid": "SeeKeys" + (str(number) if len(lists) > 1 else ""),
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [bucket],
        }
        if "*" not in prefixes:
            statement["Condition"] = {"StringLike": {"s3:prefix": _without_covered(prefixes)}}
        statements.append(statement)
    return {"Version": "2012-10-17", "Statement": statements}


def _statements(sid: str, actions: list[str], keys: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    resources = [f"{bucket}/{key}" for bucket in sorted(keys) for key in _without_covered(keys[bucket])]
    return [{"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}] if resources else []


def _without_covered(patterns: Iterable[str]) -> list[str]:
    """Patterns that another one does not hold already; each ends with its only star."""
    listed = sorted(set(patterns), key=len)
    return [one for number, one in enumerate(listed) if not any(one.startswith(o[:-1]) for o in listed[:number])]


def _bucket(carrier: Carrier) -> str:
    region = carrier.region or ""
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    return f"arn:{partition}:s3:::{carrier.bucket_name}"
