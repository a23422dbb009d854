"""The S3 server where it must be better than the library that it is made of."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from werkzeug.serving import make_server

from devstack.s3_server import application

WRITERS = 6


@pytest.fixture
def url() -> Iterator[str]:
    server = make_server("127.0.0.1", 0, application(), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless")
def test_of_many_writers_that_may_only_create_a_key_one_succeeds(url: str) -> None:
    config = Config(max_pool_connections=WRITERS, retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, config=config, **keys)
    client.create_bucket(Bucket="creations")

    def create(key: str) -> int:
        try:
            client.put_object(Bucket="creations", Key=key, Body=b"x" * 100, IfNoneMatch="*")
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    for number in range(25):
        with ThreadPoolExecutor(WRITERS) as pool:
            statuses = sorted(pool.map(create, [f"key-{number}"] * WRITERS))
        assert statuses == [200] + [412] * (WRITERS - 1), number
