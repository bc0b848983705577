"""A local object store, for tests that have to pass on object storage as well."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from unittest.mock import patch

BUCKET = "s3://lake"


@contextmanager
def object_store() -> Generator[str]:
    """Start moto's S3 with an empty bucket, for this process and those that it starts, and yield the bucket's URI."""
    import boto3
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    lock, put_object = Lock(), S3Response.put_object

    def atomic_put_object(response: S3Response) -> Any:
        with lock:
            return put_object(response)

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        # A conditional write of moto looks for the object first, and writes it then: two at once both succeed.
        with patch.dict(os.environ, variables), patch.object(S3Response, "put_object", atomic_put_object):
            boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
            yield BUCKET
    finally:
        server.stop()
