"""edges/sigv4.py signs exactly as botocore does."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from syncagent.edges.sigv4 import sign

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
NAMES = st.sampled_from(
    ["Content-MD5", "Content-Type", "Content-Length", "If-None-Match", "Range", "User-Agent", "Expect"]
    + [f"x-amz-meta-{name}" for name in ("a", "b-c", "syncagent-sha256")]
)
HOSTS = st.sampled_from(["127.0.0.1:9000", "bucket.s3.eu-central-1.amazonaws.com", "store:80", "store:443"])
QUERIES = st.sampled_from(
    [
        "",
        "?partNumber=2&uploadId=a%2Fb~c",
        "?uploads=",
        "?prefix=a%20b&list-type=2&max-keys=1000&continuation-token=x%3D",
    ]
)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    scheme=st.sampled_from(["http", "https"]),
    host=HOSTS,
    key=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30),
    query=QUERIES,
    headers=st.dictionaries(NAMES, VALUES, max_size=6),
    secret=SECRETS,
    token=st.none() | SECRETS,
    moment=st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2099, 1, 1)),
)
def test_the_signature_is_botocores(
    method: str,
    scheme: str,
    host: str,
    key: str,
    query: str,
    headers: dict[str, str],
    secret: str,
    token: str | None,
    moment: datetime,
) -> None:
    url = f"{scheme}://{host}/{quote(key, safe='/~')}{query}"
    digest = "ab" * 32
    ours = sign(
        method,
        url,
        headers=headers,
        sha256_hex=digest,
        access_key_id="AK",
        secret_access_key=secret,
        token=token,
        region="eu-central-1",
        moment=moment.replace(tzinfo=UTC),
    )
    request = AWSRequest(method=method, url=url)
    for name, value in headers.items():
        request.headers[name] = value
    timestamp = moment.strftime("%Y%m%dT%H%M%SZ")
    request.context["timestamp"] = timestamp
    request.headers["X-Amz-Date"] = timestamp
    request.headers["X-Amz-Content-SHA256"] = digest
    if token:
        request.headers["X-Amz-Security-Token"] = token
    auth = S3SigV4Auth(ReadOnlyCredentials("AK", secret, token), "s3", "eu-central-1")
    canonical = auth.canonical_request(request)
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    assert ours["Authorization"].endswith(f"Signature={signature}")
    assert ours["Authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders=")
    assert {name: ours[name] for name in headers} == headers
