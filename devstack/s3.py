"""The object store and the catalog: moto's server, which keeps its content over an orderly stop (see s3_server)."""

import sys
from pathlib import Path
from typing import ClassVar

from devstack.declared import HOST, S3_ACCESS_KEY, S3_BUCKET, S3_REGION, S3_SECRET_KEY
from devstack.part import Advance, Part


class S3(Part):
    """moto as a process."""

    name: ClassVar[str] = "s3"
    port_names: ClassVar[tuple[str, ...]] = ("s3",)
    after_crash: ClassVar[str] = (
        "its content is that of the last orderly `trs devstack down`, or none: a worker reads the topics again"
    )

    def download_bytes(self) -> int:
        return 0

    def fetch(self, advance: Advance) -> None:
        """Nothing: moto comes with the `devstack` extra."""

    def prepare(self) -> list[str | Path]:
        return [
            sys.executable,
            "-m",
            "devstack.s3_server",
            self.folder / "content.pickle",
            HOST,
            str(self.port),
        ]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    def serves(self) -> bool:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=f"http://{HOST}:{self.port}",
            region_name=S3_REGION,
            aws_access_key_id=S3_ACCESS_KEY,
            aws_secret_access_key=S3_SECRET_KEY,
            config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        )
        try:
            client.create_bucket(Bucket=S3_BUCKET)
        except (BotoCoreError, ClientError):
            return False
        return True
