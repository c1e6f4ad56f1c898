"""The server's side of AWS Signature Version 4: recompute the signature of a request and compare.

Written from the published algorithm and not with botocore's signer, so that it can disagree with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote_to_bytes

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/s3/aws4_request, *"
    r"SignedHeaders=([a-z0-9;_.-]+), *Signature=([0-9a-f]{64})"
)


class S3Error(Exception):
    """A refusal in S3's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def canonical_request(method: str, target: str, headers: Mapping[str, str], signed: list[str]) -> str:
    """The text whose hash is signed. S3 encodes the path exactly once."""
    path, _, query = target.partition("?")
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, keep_blank_values=True))
    return "\n".join(
        [
            method,
            quote(unquote_to_bytes(path), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{headers.get(name, '')}" for name in signed),
            "",
            ";".join(signed),
            headers["x-amz-content-sha256"],
        ]
    )


def signature(secret_key: str, *, amz_date: str, region: str, request: str) -> str:
    """The signature over a canonical request, in hex."""
    day = amz_date[:8]
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", amz_date, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def verify_signature(method: str, target: str, headers: Mapping[str, str], *, credentials: Mapping[str, str]) -> None:
    """Return if the request was signed with one of `credentials` (names in `headers` are lower case).

    Raises: S3Error with the code that AWS answers.
    """
    if "authorization" not in headers:
        raise S3Error(403, "AccessDenied", "Access Denied")
    found = _AUTHORIZATION.fullmatch(headers["authorization"])
    if found is None or "x-amz-content-sha256" not in headers:
        raise S3Error(400, "AuthorizationHeaderMalformed", "The authorization header is malformed")
    access_key, day, region, names, said = found.groups()
    if access_key not in credentials:
        raise S3Error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    signed = names.split(";")
    amz_date = headers.get("x-amz-date", "")
    if not re.fullmatch(r"\d{8}T\d{6}Z", amz_date) or not amz_date.startswith(day) or "host" not in signed:
        raise S3Error(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    loose = [name for name in headers if name.startswith("x-amz-") and name not in signed]
    if loose:
        raise S3Error(403, "AccessDenied", "There were headers present in the request which were not signed")
    request = canonical_request(method, target, headers, signed)
    expected = signature(credentials[access_key], amz_date=amz_date, region=region, request=request)
    if not hmac.compare_digest(expected, said):
        raise S3Error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
