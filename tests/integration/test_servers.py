"""The test stores themselves: a test that leans on a store which forgives proves nothing."""

from __future__ import annotations

import base64
import hashlib
import http.client
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.servers import ACCESS_KEY, SECRET_KEY, Fault, MotoS3, RcloneS3, VerifyingS3, s3_client, wait_until

KEYS = ["plain.jpg", "a b/c+d%41é.jpg", "smile 😀 #?&=.bin", "~-_.!*'()/;:@$,", "x%2Fy"]
MIB = 1 << 20


def _client(server: VerifyingS3, **options: Any) -> Any:
    return s3_client(server.endpoint_url, **options)


def _code(caught: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def _put(server: VerifyingS3, key: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """A PUT signed by botocore over exactly these headers, sent by http.client."""
    url = f"{server.endpoint_url}/bucket/{key}"
    request = AWSRequest("PUT", url, data=body, headers=headers)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("PUT", f"/bucket/{key}", body=body, headers=dict(request.headers.items()))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("key", KEYS)
def test_an_object_comes_back_under_its_key_with_bytes_and_metadata(verifying: VerifyingS3, key: str) -> None:
    client = _client(verifying)
    put = client.put_object(Bucket="bucket", Key=key, Body=b"hello", Metadata={"mtime": "12"}, ContentType="image/jpeg")
    assert put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
    got = client.get_object(Bucket="bucket", Key=key)
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (
        b"hello",
        {"mtime": "12"},
        "image/jpeg",
    )
    head = client.head_object(Bucket="bucket", Key=key)
    assert (head["ContentLength"], head["ETag"]) == (5, put["ETag"])
    assert list(verifying.objects()) == [key]
    assert [row["Key"] for row in client.list_objects_v2(Bucket="bucket")["Contents"]] == [key]


def test_a_range_is_answered_with_its_bytes(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    client.put_object(Bucket="bucket", Key="k", Body=b"0123456789")
    assert client.get_object(Bucket="bucket", Key="k", Range="bytes=2-4")["Body"].read() == b"234"
    assert client.get_object(Bucket="bucket", Key="k", Range="bytes=7-")["Body"].read() == b"789"
    assert client.get_object(Bucket="bucket", Key="k", Range="bytes=-2")["Body"].read() == b"89"
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket="bucket", Key="k", Range="bytes=10-")
    assert _code(caught) == (416, "InvalidRange")


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("Content-MD5", base64.b64encode(hashlib.md5(b"other").digest()).decode(), b"BadDigest"),
        ("x-amz-checksum-sha256", base64.b64encode(hashlib.sha256(b"other").digest()).decode(), b"BadDigest"),
    ],
)
def test_a_wrong_digest_is_refused_and_nothing_becomes_visible(
    verifying: VerifyingS3, header: str, value: str, code: bytes
) -> None:
    status, body = _put(verifying, "k", b"hello", **{header: value})
    assert status == 400
    assert code in body
    assert verifying.objects() == {}
    assert [(e.method, e.status, e.became_visible) for e in verifying.history] == [("PUT", 400, False)]


def test_a_payload_that_differs_from_its_signature_is_refused(verifying: VerifyingS3) -> None:
    url = f"{verifying.endpoint_url}/bucket/k"
    request = AWSRequest("PUT", url, data=b"hello")
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection("127.0.0.1", verifying.port, timeout=10)
    connection.request("PUT", "/bucket/k", body=b"hellO", headers=dict(request.headers.items()))
    answer = connection.getresponse()
    assert (answer.status, b"XAmzContentSHA256Mismatch" in answer.read()) == (400, True)
    connection.close()
    assert verifying.objects() == {}


def test_a_wrong_key_or_signature_is_a_403(verifying: VerifyingS3) -> None:
    with pytest.raises(ClientError) as caught:
        _client(verifying, secret_key="wrong").put_object(Bucket="bucket", Key="k", Body=b"x")
    assert _code(caught) == (403, "SignatureDoesNotMatch")
    with pytest.raises(ClientError) as caught:
        _client(verifying, access_key="OTHER").put_object(Bucket="bucket", Key="k", Body=b"x")
    assert _code(caught) == (403, "InvalidAccessKeyId")
    with pytest.raises(ClientError) as caught:
        _client(verifying, secret_key="wrong").head_object(Bucket="bucket", Key="k")
    assert _code(caught) == (403, "403")  # a refused HEAD does not say why
    assert verifying.objects() == {}


def test_credentials_can_be_rotated_under_a_running_client(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    client.put_object(Bucket="bucket", Key="k", Body=b"x")
    verifying.credentials = {"NEWKEY": "new"}
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="bucket", Key="k", Body=b"x")
    assert _code(caught) == (403, "InvalidAccessKeyId")


def test_a_header_that_was_not_signed_is_refused(verifying: VerifyingS3) -> None:
    request = AWSRequest("PUT", f"{verifying.endpoint_url}/bucket/k", data=b"x")
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection("127.0.0.1", verifying.port, timeout=10)
    connection.request("PUT", "/bucket/k", body=b"x", headers={**request.headers, "x-amz-meta-sly": "1"})
    assert connection.getresponse().status == 403
    connection.close()


def test_a_body_that_breaks_off_shows_nothing_and_stands_in_the_history(verifying: VerifyingS3) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", verifying.port, timeout=10)
    connection.putrequest("PUT", "/bucket/k")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"x" * 300)
    connection.close()
    wait_until(lambda: bool(verifying.history))
    assert [(e.status, e.received_bytes, e.became_visible) for e in verifying.history] == [(0, 300, False)]
    assert verifying.objects() == {}


def test_a_conditional_put_is_refused_only_by_a_store_that_honours_it(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    client.put_object(Bucket="bucket", Key="k", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="bucket", Key="k", Body=b"2", IfNoneMatch="*")
    assert _code(caught) == (412, "PreconditionFailed")
    verifying.has_conditional_writes = False
    client.put_object(Bucket="bucket", Key="k", Body=b"3", IfNoneMatch="*")
    assert verifying.objects() == {"k": b"3"}


def test_a_store_without_checksums_takes_a_wrong_one_silently(verifying: VerifyingS3) -> None:
    verifying.has_checksums = False
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    assert _put(verifying, "k", b"hello", **{"x-amz-checksum-sha256": wrong})[0] == 200


def test_an_etag_need_not_be_an_md5(verifying: VerifyingS3) -> None:
    verifying.etag_is_md5 = False
    client = _client(verifying)
    etag = client.put_object(Bucket="bucket", Key="k", Body=b"x")["ETag"]
    assert etag != f'"{hashlib.md5(b"x").hexdigest()}"'
    assert client.head_object(Bucket="bucket", Key="k")["ETag"] == etag


def test_uploads_in_progress_are_listed_in_pages(verifying: VerifyingS3) -> None:
    verifying.page_size = 2
    client = _client(verifying)
    keys = ["a", "b", "b", "c", "d"]
    ids = [client.create_multipart_upload(Bucket="bucket", Key=key)["UploadId"] for key in keys]
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket="bucket")
    found = [(row["Key"], row["UploadId"]) for page in pages for row in page["Uploads"]]
    assert found == list(zip(keys, ids, strict=True))


def test_the_date_of_an_answer_is_the_stores(verifying: VerifyingS3) -> None:
    verifying.clock_offset_s = 600
    headers = _client(verifying).head_bucket(Bucket="bucket")["ResponseMetadata"]["HTTPHeaders"]
    ahead_s = parsedate_to_datetime(headers["date"]).timestamp() - time.time()
    assert 590 < ahead_s < 610


def test_listings_are_paged_in_byte_order(verifying: VerifyingS3) -> None:
    verifying.page_size = 3
    client = _client(verifying)
    keys = [f"p/{n:02d} é" for n in range(10)]
    for key in reversed([*keys, "q/other"]):
        client.put_object(Bucket="bucket", Key=key, Body=b"")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="p/")
    assert [row["Key"] for page in pages for row in page["Contents"]] == keys
    assert len(verifying.requests(operation="ListObjectsV2")) == 4


def test_a_multipart_upload_goes_through_every_step(verifying: VerifyingS3) -> None:
    verifying.page_size = 2
    client = _client(verifying)
    where = {"Bucket": "bucket", "Key": "big é.bin"}
    upload_id = client.create_multipart_upload(**where, Metadata={"a": "b"})["UploadId"]
    bodies = [b"a" * 5 * MIB, b"b" * 5 * MIB, b"end"]
    parts = [
        {
            "PartNumber": n,
            "ETag": client.upload_part(**where, UploadId=upload_id, PartNumber=n, Body=body)["ETag"],
        }
        for n, body in enumerate(bodies, 1)
    ]
    pages = client.get_paginator("list_parts").paginate(**where, UploadId=upload_id)
    listed = [(part["PartNumber"], part["Size"]) for page in pages for part in page["Parts"]]
    assert listed == [(1, 5 * MIB), (2, 5 * MIB), (3, 3)]
    assert [u["UploadId"] for u in client.list_multipart_uploads(Bucket="bucket")["Uploads"]] == [upload_id]
    assert verifying.objects() == {}
    done = client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})
    md5 = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()
    assert done["ETag"] == f'"{md5}-3"'
    assert verifying.objects() == {"big é.bin": b"".join(bodies)}
    assert client.head_object(**where)["Metadata"] == {"a": "b"}
    with pytest.raises(ClientError) as caught:
        client.list_parts(**where, UploadId=upload_id)
    assert _code(caught) == (404, "NoSuchUpload")


def test_a_multipart_upload_with_a_wrong_part_is_not_completed(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    where = {"Bucket": "bucket", "Key": "k"}
    upload_id = client.create_multipart_upload(**where)["UploadId"]
    etag = client.upload_part(**where, UploadId=upload_id, PartNumber=1, Body=b"a")["ETag"]
    client.upload_part(**where, UploadId=upload_id, PartNumber=2, Body=b"b")
    for parts, code in [
        ([{"PartNumber": 1, "ETag": '"0"'}], "InvalidPart"),
        ([{"PartNumber": 2, "ETag": etag}, {"PartNumber": 1, "ETag": etag}], "InvalidPartOrder"),
        (
            [{"PartNumber": 1, "ETag": etag}, {"PartNumber": 2, "ETag": hashlib.md5(b"b").hexdigest()}],
            "EntityTooSmall",
        ),
    ]:
        with pytest.raises(ClientError) as caught:
            client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})
        assert _code(caught) == (400, code)
    client.abort_multipart_upload(**where, UploadId=upload_id)
    assert (verifying.objects(), verifying.uploads) == ({}, {})


def test_a_request_whose_time_is_more_than_15_minutes_off_is_refused(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    verifying.clock_offset_s = 14 * 60
    client.put_object(Bucket="bucket", Key="k", Body=b"x")
    verifying.clock_offset_s = -16 * 60
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="bucket", Key="k", Body=b"x")
    assert _code(caught) == (403, "RequestTimeTooSkewed")


def test_scripted_faults_lie_as_they_are_told(verifying: VerifyingS3) -> None:
    client = _client(verifying)

    def put(key: str = "k", body: bytes = b"x") -> Any:
        return client.put_object(Bucket="bucket", Key=key, Body=body)

    verifying.faults = [Fault.denied("secret/"), Fault.throttled(7, times=1), Fault.portal(times=1)]
    with pytest.raises(ClientError) as caught:
        put("secret/k")
    assert _code(caught) == (403, "AccessDenied")
    with pytest.raises(ClientError) as caught:
        put()
    assert _code(caught) == (503, "SlowDown")
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"
    assert put()["ResponseMetadata"]["HTTPHeaders"]["content-type"] == "text/html"
    assert verifying.objects() == {}
    verifying.faults = [Fault.store_then(500, times=1), Fault(etag="0" * 32, times=1)]
    with pytest.raises(ClientError) as caught:
        put(body=b"stored")
    assert _code(caught)[0] == 500
    assert verifying.objects() == {"k": b"stored"}
    assert verifying.history[-1].became_visible
    assert put()["ETag"] == f'"{"0" * 32}"'
    assert put()["ETag"] == f'"{hashlib.md5(b"x").hexdigest()}"'


def test_a_complete_may_fail_inside_its_200_or_succeed_without_an_answer(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    where = {"Bucket": "bucket", "Key": "k"}
    upload_id = client.create_multipart_upload(**where)["UploadId"]
    etag = client.upload_part(**where, UploadId=upload_id, PartNumber=1, Body=b"a")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    verifying.faults = [
        Fault.error_in_complete(times=1),
        Fault(operation="CompleteMultipartUpload", drop=True, times=1),
    ]
    with pytest.raises(ClientError) as caught:
        client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload=parts)
    assert _code(caught)[1] == "InternalError"
    assert verifying.objects() == {}
    with pytest.raises(Exception, match="closed"):
        client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload=parts)
    assert verifying.objects() == {"k": b"a"}
    assert [e.status for e in verifying.requests("POST", "CompleteMultipartUpload")] == [200, 0]


def test_an_early_answer_arrives_although_the_body_was_not_read(verifying: VerifyingS3) -> None:
    verifying.faults = [Fault(status=403, code="AccessDenied", early=True)]
    connection = http.client.HTTPConnection("127.0.0.1", verifying.port, timeout=10)
    connection.putrequest("PUT", "/bucket/k")
    connection.putheader("Content-Length", str(50 * MIB))
    connection.endheaders()
    connection.send(b"x" * MIB)
    assert connection.getresponse().status == 403
    connection.close()
    assert verifying.requests()[0].received_bytes == 0


def test_deleting_needs_a_right_that_the_store_does_not_give_by_itself(verifying: VerifyingS3) -> None:
    client = _client(verifying)
    client.put_object(Bucket="bucket", Key="k", Body=b"x")
    with pytest.raises(ClientError) as caught:
        client.delete_object(Bucket="bucket", Key="k")
    assert _code(caught) == (403, "AccessDenied")
    verifying.may_delete = True
    client.delete_object(Bucket="bucket", Key="k")
    assert verifying.objects() == {}


def test_rclone_stores_plain_files_and_refuses_a_wrong_secret(rclone: RcloneS3, rclone_bucket: str) -> None:
    rclone.client().put_object(Bucket=rclone_bucket, Key="a/b.jpg", Body=b"picture")
    ((key, path),) = rclone.files(rclone_bucket)
    with open(path, "rb") as stored:
        assert (key, stored.read()) == ("a/b.jpg", b"picture")
    with pytest.raises(ClientError) as caught:
        s3_client(rclone.endpoint_url, secret_key="wrong").put_object(Bucket=rclone_bucket, Key="k", Body=b"x")
    assert _code(caught)[0] == 403


def test_rclone_keeps_port_and_data_over_an_outage() -> None:
    with RcloneS3() as server:
        server.client().put_object(Bucket="bucket", Key="k", Body=b"1")
        server.stop()
        with pytest.raises(Exception, match="Could not connect"):
            server.client().head_object(Bucket="bucket", Key="k")
        server.start()
        assert server.client().get_object(Bucket="bucket", Key="k")["Body"].read() == b"1"


def test_moto_answers_with_its_bucket(moto: MotoS3, moto_bucket: str) -> None:
    moto.client().put_object(Bucket=moto_bucket, Key="k", Body=b"x")
    assert moto.client().get_object(Bucket=moto_bucket, Key="k")["Body"].read() == b"x"
