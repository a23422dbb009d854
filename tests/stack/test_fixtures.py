"""The stack that tests run on: what every other test takes for granted."""

import boto3
from confluent_kafka.admin import AdminClient

from app.settings import Settings
from connectors.mysql import DatabaseUrl, connect
from devstack.declared import S3_BUCKET


def test_stack_when_up_serves_broker_bucket_and_database(stack_settings: Settings, stack: dict[str, str]) -> None:
    assert len(AdminClient({"bootstrap.servers": stack_settings.kafka}).list_topics(timeout=10).brokers) == 1
    s3 = boto3.client(
        "s3",
        endpoint_url=stack["TRS_AWS_ENDPOINT"],
        region_name=stack["TRS_AWS_REGION"],
        aws_access_key_id=stack["TRS_AWS_ACCESS_KEY"],
        aws_secret_access_key=stack["TRS_AWS_SECRET_KEY"],
    )
    assert s3.head_bucket(Bucket=S3_BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_database_of_the_stack_has_the_binlog_that_cdc_needs(fresh_database: str) -> None:
    with connect(DatabaseUrl.parse(fresh_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@log_bin, @@binlog_format, @@binlog_row_image, @@server_id")
        assert cursor.fetchall() == ((1, "ROW", "FULL", 1),)
        cursor.execute("SHOW MASTER STATUS")
        assert cursor.fetchone()[0].startswith("binlog.")
        cursor.execute("SHOW TABLES")
        assert cursor.fetchall() == ()
