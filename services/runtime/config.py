"""What a process is told from outside, once: ``LAB_*`` variables (and ``OTEL_EXPORTER_OTLP_ENDPOINT``).

What may change while it runs is in ``services.runtime.live``.
"""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.transports.tls import Tls


class Config(BaseSettings):
    """Addresses and switches of one process. JSON in the variables that hold a table."""

    model_config = SettingsConfigDict(env_prefix="LAB_")

    host: str = "127.0.0.1"
    """Address to listen on."""
    admin_port: int = 0
    """Port of /healthz, /readyz and /metrics."""
    listen: dict[str, int] = {}
    """Own port per RPC transport; ``http`` is the front door's."""
    peers: dict[str, dict[str, str]] = {}
    """Each peer's address per RPC transport."""
    transports: str = ""
    """The transports that run here, comma-separated."""
    absent: dict[str, str] = {}
    """Why a transport does not run here, by name."""
    rabbitmq_url: str = ""
    kafka_bootstrap: str = ""
    sqs_url: str = ""
    """Endpoint of ElasticMQ, ``http://host:port``; empty: Amazon's own, by region and credentials from the usual
    places (``AWS_*``)."""
    sqs_fifo: bool = False
    """FIFO queues, which keep an order's messages in order, instead of standard ones; every process says the same."""
    sqs_visibility_timeout_s: int = Field(30, ge=3, le=43_200)
    """How long a received message is hidden from others at a time; a heartbeat prolongs it while it is in hand."""
    sqs_wait_s: int = Field(1, ge=0, le=20)
    """How long a poll waits for messages. Above 1, stopping may leave a poll behind that takes messages with it."""
    redis_url: str = ""
    redis_claim_idle_s: float = 30.0
    """How long an entry of a stream must not have been heard of until another consumer takes it over."""
    redis_stream_maxlen: int = 1_000
    """Entries that a stream keeps once every group has settled them; what is not settled is never trimmed."""
    database_url: str = "sqlite:///:memory:"
    orders_admin_url: str = ""
    """Where the live settings are asked for; empty: the defaults hold."""
    tls_certificate: str = ""
    """PEM file of this service's certificate: with it, its key and the authority, calls between services use TLS on
    the wires that have it. All three or none."""
    tls_key: str = ""
    tls_ca: str = ""
    """PEM file of the authority by which the peers' certificates are judged."""
    settings_token: SecretStr = SecretStr("")
    max_in_flight: int = 16
    """Messages, or calls, that are handled at once per transport."""
    message_format: Literal["json", "protobuf", "avro"] = "json"
    """How this process writes its messages' payloads; it reads all (services/transports/formats.py)."""
    otlp_endpoint: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")

    @property
    def transport_names(self) -> list[str]:
        return [name.strip() for name in self.transports.split(",") if name.strip()]

    @property
    def servers(self) -> dict[str, str]:
        """Each broker's address."""
        return {
            "rabbitmq": self.rabbitmq_url,
            "kafka": self.kafka_bootstrap,
            "sqs": self.sqs_url,
            "redis": self.redis_url,
        }

    @property
    def tls(self) -> Tls | None:
        """Raises ``ValueError`` where a file is missing or cannot be used."""
        files = {"CERTIFICATE": self.tls_certificate, "KEY": self.tls_key, "CA": self.tls_ca}
        missing = [f"LAB_TLS_{name}" for name, file in files.items() if not file]
        if len(missing) == len(files):
            return None
        if missing:
            raise ValueError(f"{', '.join(missing)} must be set too: TLS needs certificate, key and authority")
        return Tls(*files.values())
