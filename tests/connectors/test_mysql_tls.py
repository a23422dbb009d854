"""Connections to a database: encrypted to a server that proves who it is, else refused before anything is sent."""

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.doctor.checks import Outcome
from app.doctor.source import look_at_server
from app.settings import Settings
from connectors.mysql import DatabaseUrl, connect, query
from devstack import ports, processes
from devstack.declared import DATABASE, DATABASE_PASSWORD, DATABASE_USER
from devstack.mariadb import MariaDb
from devstack.stack import start_part
from processors.errors import SettingsError, SourceError, UsageError
from tests.app.commands import trs

NAME = "localhost"
"""The only name in the server's certificate; 127.0.0.1 is not."""


class Authority:
    """Certificates of one's own; `file` holds the authority's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority in {folder.name}")])
        own = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )

    def issue(self, name: str) -> dict[str, Path]:
        """Key and certificate of a server of that name, as MariaDB's options."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        files = {"ssl-cert": self._folder / "server.pem", "ssl-key": self._folder / "server.key"}
        certificate = builder.sign(self._key, hashes.SHA256())
        files["ssl-cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files["ssl-key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


class TlsMariaDb(MariaDb):
    """A server with a certificate."""

    files: dict[str, Path]

    def prepare(self) -> list[str | Path]:
        return [*super().prepare(), *(f"--{name}={file}" for name, file in self.files.items())]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "known")


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with a certificate of that authority."""
    folder = tmp_path_factory.mktemp("guarded")
    part = TlsMariaDb(folder, ports.assign(folder / "ports.json", needed=MariaDb.port_names, in_use=()))
    part.files = authority.issue(NAME)
    start_part(part)
    assert part.port is not None
    yield part.port
    processes.stop(part.record, timeout_s=part.stop_timeout_s)


def url(port: int, *, host: str = NAME, options: str = "") -> str:
    return f"mysql://{DATABASE_USER}:{DATABASE_PASSWORD}@{host}:{port}/{DATABASE}{options}"


def test_verified_server_is_spoken_to_by_tls(guarded: int, authority: Authority) -> None:
    with connect(DatabaseUrl.parse(url(guarded), ca_file=str(authority.file))) as connection:
        ((_, cipher),) = query(connection, "SHOW STATUS LIKE 'Ssl_cipher'")
    assert cipher


def test_server_of_another_authority_is_refused(guarded: int, tmp_path: Path) -> None:
    other = str(Authority(tmp_path / "other").file)
    for ca_file in (other, None):  # the system's authorities do not know it either
        with pytest.raises(SourceError, match=rf"mysql://{NAME}:{guarded}/trs has not proved who it is: .*\(TRS_DATA"):
            connect(DatabaseUrl.parse(url(guarded), ca_file=ca_file))


def test_server_with_the_certificate_of_another_name_is_refused(guarded: int, authority: Authority) -> None:
    with pytest.raises(SourceError, match=r"certificate is not valid for '127\.0\.0\.1' \(connect by a host name"):
        connect(DatabaseUrl.parse(url(guarded, host="127.0.0.1"), ca_file=str(authority.file)))


def test_only_the_word_off_connects_in_the_clear(guarded: int) -> None:
    with connect(DatabaseUrl.parse(url(guarded, options="?tls=off"))) as connection:
        assert query(connection, "SHOW STATUS LIKE 'Ssl_cipher'") == [("Ssl_cipher", "")]
    for options in ("?tls=no", "?tls=", "?ssl=off", "?tls=off&tls=on", "#tls=off"):
        with pytest.raises(UsageError, match="no option"):
            DatabaseUrl.parse(url(guarded, options=options))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_file_without_certificates_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"TRS_DATABASE_CA_FILE: .*{file}"):
        connect(DatabaseUrl.parse(url(1), ca_file=str(file)))


def test_server_that_offers_no_tls_is_sent_nothing(stack: dict[str, str]) -> None:
    """Neither the user's name nor a hash of the password: whoever sits between may have taken the offer away."""
    plain = urlsplit(stack["TRS_DATABASE"])
    with socket.create_connection((plain.hostname, plain.port or 0)) as real:
        greeting = real.recv(4096)
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            taken, _ = listener.accept()
            with taken:
                taken.sendall(greeting)
                received.extend(taken.recv(4096))

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(SourceError, match=r"offers no TLS, and nothing was sent to it \(switch TLS on"):
            connect(DatabaseUrl.parse(url(listener.getsockname()[1], host="127.0.0.1")))
        server.join(timeout=10)
    assert not server.is_alive()
    assert received == b""


READERS = (
    ("bootstrap", "snapshot", "--source", "mysql"),
    ("bootstrap", "diff", "--source", "mysql"),
    ("reconcile", "--source", "mysql"),
    ("etl", "--source", "mysql", "--out", "features.csv"),
    ("generate", "--to", "mysql"),
    ("simulate", "--changes", "1"),
    ("connector", "render"),
    ("connector", "dms-render"),
    ("cutover",),
)


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_every_command_that_reads_the_source_refuses_one_without_tls(
    stack: dict[str, str], command: tuple[str, ...], tmp_path: Path
) -> None:
    plain = stack | {
        "TRS_DATABASE": stack["TRS_DATABASE"].removesuffix("?tls=off"),
        "TRS_LAKE": str(tmp_path / "lake"),
        "TRS_TOPIC_PREFIX": tmp_path.name,
    }
    told = trs(*command, **plain)
    assert told.code == SourceError.exit_code, told.err
    assert "offers no TLS, and nothing was sent to it (switch TLS on" in told.err


def test_every_command_takes_the_ca_file_of_the_settings(
    stack: dict[str, str], guarded: int, authority: Authority, tmp_path: Path
) -> None:
    own = {
        "TRS_KAFKA": stack["TRS_KAFKA"],
        "TRS_DATABASE": url(guarded),
        "TRS_DATABASE_CA_FILE": str(authority.file),
        "TRS_LAKE": str(tmp_path / "lake"),
        "TRS_TOPIC_PREFIX": tmp_path.name,
    }
    for command in (
        ("generate", "--to", "mysql", "--invoices", "5"),
        ("etl", "--source", "mysql", "--out", str(tmp_path / "features.csv")),
        ("simulate", "--changes", "1", "--rate", "100"),
        ("bootstrap", "snapshot", "--source", "mysql"),
        ("connector", "render"),
        ("connector", "dms-render"),
    ):
        told = trs(*command, **own)
        assert told.code == 0, told.err
    own_settings = {name.removeprefix("TRS_").lower(): value for name, value in own.items()}
    assert look_at_server(Settings(**own_settings))[0].outcome is Outcome.OK
