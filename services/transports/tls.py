"""TLS between the services, for the wires that can: ``rest``, ``json_rpc`` and ``avro_rpc`` (https), and ``grpc``.

One certificate and one authority for all services: who holds a certificate of the authority is one of us. A client
verifies the server and its name; the server asks its clients for no certificate.
"""

import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """Three PEM files: the certificate (with its chain), its key, and the authority by which peers are judged."""

    certificate: str
    key: str
    authority: str

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a file that cannot be used."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            _ = self.client
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"LAB_TLS_*: {self.certificate}, {self.key}, {self.authority}: {error}") from None

    @cached_property
    def client(self) -> ssl.SSLContext:
        """What a caller verifies its peers with."""
        return ssl.create_default_context(cafile=self.authority)

    def pem(self) -> tuple[bytes, bytes, bytes]:
        """Certificate, key and authority, for a library that wants the bytes."""
        return Path(self.certificate).read_bytes(), Path(self.key).read_bytes(), Path(self.authority).read_bytes()
