"""What a process is told from outside, once: ``LAB_*`` variables (and ``OTEL_EXPORTER_OTLP_ENDPOINT``).

What may change while it runs is in ``services.runtime.live``.
"""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    database_url: str = "sqlite:///:memory:"
    orders_admin_url: str = ""
    """Where the live settings are asked for; empty: the defaults hold."""
    settings_token: SecretStr = SecretStr("")
    max_in_flight: int = 16
    """Messages, or calls, that are handled at once per transport."""
    otlp_endpoint: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")

    @property
    def transport_names(self) -> list[str]:
        return [name.strip() for name in self.transports.split(",") if name.strip()]

    @property
    def servers(self) -> dict[str, str]:
        """Each broker's address."""
        return {"rabbitmq": self.rabbitmq_url, "kafka": self.kafka_bootstrap}
