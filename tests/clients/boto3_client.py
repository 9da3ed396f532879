"""boto3 against the endpoint in AWS_ENDPOINT_URL: what its users lean on, checksums and corner cases included."""

import datetime
import hashlib
import io
import os
import threading
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20
s3 = boto3.client("s3", config=Config(signature_version="s3v4", retries={"max_attempts": 1}))


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] in (code, {"404": "NotFound"}.get(code)), error.response
        return error.response
    raise AssertionError(f"{call} was not refused with {code}")


def objects():
    body = os.urandom(100_000)
    put = s3.put_object(
        Bucket="bucket", Key="k", Body=body, ContentType="text/x", CacheControl="no-cache", ContentDisposition="inline",
        ContentLanguage="de", ContentEncoding="identity", Metadata={"one": "1", "two": "zwei"}, Tagging="a=b&c=d",
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"', put
    got = s3.get_object(Bucket="bucket", Key="k")
    assert got["Body"].read() == body
    assert got["Metadata"] == {"one": "1", "two": "zwei"} and got["ContentType"] == "text/x", got
    assert (got["CacheControl"], got["ContentDisposition"], got["ContentLanguage"]) == ("no-cache", "inline", "de"), got
    tags = s3.get_object_tagging(Bucket="bucket", Key="k")["TagSet"]
    assert sorted((tag["Key"], tag["Value"]) for tag in tags) == [("a", "b"), ("c", "d")], tags
    got = s3.get_object(Bucket="bucket", Key="k", ResponseContentType="other/type", Range="bytes=-10")
    assert got["ContentType"] == "other/type" and got["Body"].read() == body[-10:]
    assert got["ContentRange"] == "bytes 99990-99999/100000" and got["ResponseMetadata"]["HTTPStatusCode"] == 206
    refused("InvalidRange", s3.get_object, Bucket="bucket", Key="k", Range="bytes=100000-")
    refused("NoSuchKey", s3.get_object, Bucket="bucket", Key="none")
    refused("NoSuchBucket", s3.get_object, Bucket="nobucket", Key="k")


def conditions():
    etag = s3.put_object(Bucket="bucket", Key="c", Body=b"1")["ETag"]
    refused("PreconditionFailed", s3.put_object, Bucket="bucket", Key="c", Body=b"2", IfNoneMatch="*")
    refused("PreconditionFailed", s3.put_object, Bucket="bucket", Key="c", Body=b"2", IfMatch='"00000000000000000000000000000000"')
    refused("NoSuchKey", s3.put_object, Bucket="bucket", Key="absent", Body=b"2", IfMatch=etag)
    s3.put_object(Bucket="bucket", Key="c", Body=b"2", IfMatch=etag)
    etag = s3.head_object(Bucket="bucket", Key="c")["ETag"]
    refused("304", s3.get_object, Bucket="bucket", Key="c", IfNoneMatch=etag)
    refused("PreconditionFailed", s3.get_object, Bucket="bucket", Key="c", IfMatch='"0"')
    future = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    past = future - datetime.timedelta(days=3)
    refused("PreconditionFailed", s3.get_object, Bucket="bucket", Key="c", IfUnmodifiedSince=past)
    assert s3.get_object(Bucket="bucket", Key="c", IfModifiedSince=past)["Body"].read() == b"2"
    refused("PreconditionFailed", s3.copy_object, Bucket="bucket", Key="d", CopySource="bucket/c", CopySourceIfMatch='"0"')


def checksums():
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
        try:
            put = s3.put_object(Bucket="bucket", Key=algorithm, Body=b"hello", ChecksumAlgorithm=algorithm)
        except Exception as error:  # noqa: BLE001 - without the optional C library boto3 itself lacks these
            if "awscrt" in str(error).lower() or "crt" in str(error).lower():
                continue
            raise
        head = s3.head_object(Bucket="bucket", Key=algorithm, ChecksumMode="ENABLED")
        assert put[f"Checksum{algorithm}"] == head[f"Checksum{algorithm}"], (put, head)
        ranged = s3.get_object(Bucket="bucket", Key=algorithm, Range="bytes=0-1", ChecksumMode="ENABLED")
        assert f"Checksum{algorithm}" not in ranged, "a range must not carry the whole object's checksum"
    wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    error = refused("BadDigest", s3.put_object, Bucket="bucket", Key="wrong", Body=b"hello", ChecksumSHA256=wrong)
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400
    refused("404", s3.head_object, Bucket="bucket", Key="wrong")


def streams():
    """Bodies without a known length, sent as aws-chunked with a trailer."""
    body = os.urandom(3 * MIB + 17)
    s3.upload_fileobj(io.BytesIO(body), "bucket", "stream")
    assert s3.get_object(Bucket="bucket", Key="stream")["Body"].read() == body
    body = os.urandom(23 * MIB + 1)
    s3.upload_fileobj(io.BytesIO(body), "bucket", "parts", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB))
    head = s3.head_object(Bucket="bucket", Key="parts")
    assert head["ETag"].endswith('-5"') and head["ContentLength"] == len(body), head
    assert s3.head_object(Bucket="bucket", Key="parts", PartNumber=2)["ContentLength"] == 5 * MIB
    back = io.BytesIO()
    s3.download_fileobj("bucket", "parts", back, Config=TransferConfig(multipart_threshold=MIB, multipart_chunksize=MIB))
    assert back.getvalue() == body


def multipart():
    first, second, third = os.urandom(5 * MIB), os.urandom(5 * MIB), os.urandom(7)
    upload = s3.create_multipart_upload(Bucket="bucket", Key="m", Metadata={"x": "y"})["UploadId"]
    part = lambda number, body: s3.upload_part(Bucket="bucket", Key="m", UploadId=upload, PartNumber=number, Body=body)["ETag"]
    tags = {9: part(9, third), 2: part(2, b"will be replaced"), 1: part(1, first)}
    tags[2] = part(2, second)
    listed = s3.list_parts(Bucket="bucket", Key="m", UploadId=upload, MaxParts=2)
    assert [p["PartNumber"] for p in listed["Parts"]] == [1, 2] and listed["IsTruncated"], listed
    assert s3.list_multipart_uploads(Bucket="bucket")["Uploads"][0]["Key"] == "m"
    refused("404", s3.head_object, Bucket="bucket", Key="m")
    parts = [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]
    finish = lambda parts: dict(Bucket="bucket", Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    refused("InvalidPartOrder", s3.complete_multipart_upload, **finish(parts[::-1]))
    refused("InvalidPart", s3.complete_multipart_upload, **finish([{"PartNumber": 1, "ETag": '"0"'}]))
    s3.complete_multipart_upload(**finish(parts))
    got = s3.get_object(Bucket="bucket", Key="m")
    assert got["Body"].read() == first + second + third and got["Metadata"] == {"x": "y"}

    upload = s3.create_multipart_upload(Bucket="bucket", Key="n")["UploadId"]
    small = [s3.upload_part(Bucket="bucket", Key="n", UploadId=upload, PartNumber=n, Body=b"tiny")["ETag"] for n in (1, 2)]
    parts = [{"PartNumber": n, "ETag": tag} for n, tag in zip((1, 2), small)]
    refused("EntityTooSmall", s3.complete_multipart_upload, Bucket="bucket", Key="n", UploadId=upload, MultipartUpload={"Parts": parts})
    copied = s3.upload_part_copy(
        Bucket="bucket", Key="n", UploadId=upload, PartNumber=1, CopySource={"Bucket": "bucket", "Key": "m"},
        CopySourceRange=f"bytes=100-{5 * MIB + 99}",
    )["CopyPartResult"]["ETag"]
    parts[0]["ETag"] = copied
    s3.complete_multipart_upload(Bucket="bucket", Key="n", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket="bucket", Key="n")["Body"].read() == (first + second)[100 : 5 * MIB + 100] + b"tiny"
    upload = s3.create_multipart_upload(Bucket="bucket", Key="gone")["UploadId"]
    s3.abort_multipart_upload(Bucket="bucket", Key="gone", UploadId=upload)
    refused("NoSuchUpload", s3.list_parts, Bucket="bucket", Key="gone", UploadId=upload)


def listings():
    keys = [f"list/{a}/{b:03}" for a in "xyz" for b in range(40)] + ["list/ä ö+%", "list/x", "list/a&b<c>"]
    for key in keys:
        s3.put_object(Bucket="bucket", Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="list/", PaginationConfig={"PageSize": 7})
    listed = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    assert listed == sorted(keys, key=lambda key: key.encode()), listed
    pages = s3.get_paginator("list_objects").paginate(Bucket="bucket", Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2})
    pages = list(pages)
    prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
    assert prefixes == ["list/x/", "list/y/", "list/z/"], prefixes
    answer = s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": key} for key in keys] + [{"Key": "never was"}]})
    assert len(answer["Deleted"]) == len(keys) + 1 and not answer.get("Errors"), answer
    assert s3.list_objects_v2(Bucket="bucket", Prefix="list/")["KeyCount"] == 0


def copies():
    odd = "copy/ä +%2F &?=#.bin"
    s3.put_object(Bucket="bucket", Key=odd, Body=b"body", Metadata={"m": "1"}, ContentType="a/b")
    s3.copy_object(Bucket="bucket", Key="copy/kept", CopySource={"Bucket": "bucket", "Key": odd})
    assert s3.head_object(Bucket="bucket", Key="copy/kept")["Metadata"] == {"m": "1"}
    s3.copy_object(Bucket="bucket", Key="copy/new", CopySource={"Bucket": "bucket", "Key": odd}, MetadataDirective="REPLACE", Metadata={"n": "2"})
    head = s3.head_object(Bucket="bucket", Key="copy/new")
    assert head["Metadata"] == {"n": "2"} and head["ContentLength"] == 4, head
    # Onto itself: only with something to change.
    refused("InvalidRequest", s3.copy_object, Bucket="bucket", Key=odd, CopySource={"Bucket": "bucket", "Key": odd})
    s3.copy_object(Bucket="bucket", Key=odd, CopySource={"Bucket": "bucket", "Key": odd}, MetadataDirective="REPLACE", Metadata={})
    assert s3.get_object(Bucket="bucket", Key=odd)["Body"].read() == b"body"


def versions():
    s3.create_bucket(Bucket="versioned")
    s3.put_object(Bucket="versioned", Key="v", Body=b"0")
    s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket="versioned")["Status"] == "Enabled"
    ids = [s3.put_object(Bucket="versioned", Key="v", Body=str(n).encode())["VersionId"] for n in (1, 2)]
    marker = s3.delete_object(Bucket="versioned", Key="v")
    assert marker["DeleteMarker"]
    refused("NoSuchKey", s3.get_object, Bucket="versioned", Key="v")
    assert s3.get_object(Bucket="versioned", Key="v", VersionId="null")["Body"].read() == b"0"
    assert s3.get_object(Bucket="versioned", Key="v", VersionId=ids[0])["Body"].read() == b"1"
    refused("MethodNotAllowed", s3.get_object, Bucket="versioned", Key="v", VersionId=marker["VersionId"])
    s3.delete_object(Bucket="versioned", Key="v", VersionId=marker["VersionId"])
    assert s3.get_object(Bucket="versioned", Key="v")["Body"].read() == b"2"
    s3.delete_object(Bucket="versioned", Key="v", VersionId=ids[1])
    assert s3.get_object(Bucket="versioned", Key="v")["Body"].read() == b"1"
    refused("BucketNotEmpty", s3.delete_bucket, Bucket="versioned")
    for version in (ids[0], "null"):
        s3.delete_object(Bucket="versioned", Key="v", VersionId=version)
    s3.delete_bucket(Bucket="versioned")


def presigned_and_posted():
    address = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "presigned"}, ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(address, data=b"by address", method="PUT")).read()
    address = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "presigned"}, ExpiresIn=60)
    assert urllib.request.urlopen(address).read() == b"by address"
    form = s3.generate_presigned_post("bucket", "posted", ExpiresIn=60)
    edge = "----a-boundary"
    fields = "".join(f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in form["fields"].items())
    body = fields + f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nby form\r\n--{edge}--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    urllib.request.urlopen(urllib.request.Request(form["url"], data=body.encode(), headers=headers)).read()
    assert s3.get_object(Bucket="bucket", Key="posted")["Body"].read() == b"by form"


def many_at_once():
    failures = []

    def work(number):
        try:
            own = boto3.client("s3")
            for turn in range(20):
                body = os.urandom(1000 + turn)
                own.put_object(Bucket="bucket", Key=f"threads/{number}", Body=body)
                assert own.get_object(Bucket="bucket", Key=f"threads/{number}")["Body"].read() == body
        except Exception as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def not_implemented():
    website = {"IndexDocument": {"Suffix": "index.html"}}
    error = refused("NotImplemented", s3.put_bucket_website, Bucket="bucket", WebsiteConfiguration=website)
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 501


s3.create_bucket(Bucket="bucket")
for part in (objects, conditions, checksums, streams, multipart, listings, copies, versions, presigned_and_posted, many_at_once, not_implemented):
    part()
    print(part.__name__, "fine")
