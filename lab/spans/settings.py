"""How a span store is told what to do: environment variables ``LAB_SPANS_*``."""

from pathlib import Path
from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is an environment variable with the prefix ``LAB_SPANS_``; times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="LAB_SPANS_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = 4318
    """0 takes a free port; the first line of the log says which."""
    database: Path = Path("spans.db")
    """The SQLite file. Its folder is made when it is not there; one process at a time may hold it."""
    forward: Annotated[tuple[str, ...], NoDecode] = ()
    """OTLP/HTTP base addresses that get every payload, comma-separated: ``http://127.0.0.1:21004``. May be empty."""
    max_body_bytes: int = 10 * 1024 * 1024
    """A request above it, before or after decompression, gets 413."""
    max_waiting_bytes: int = 64 * 1024 * 1024
    """Payloads that wait for the writer above it get 503 with Retry-After, so that memory stays bounded."""
    drain_s: float = 3.0
    """How long SIGTERM waits for the forward queues to empty; the rest stays in the file for the next start."""

    @field_validator("forward", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("forward")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not address.startswith(("http://", "https://")):
                raise ValueError(f"{address!r} is no http:// or https:// address")
        return tuple(dict.fromkeys(address.rstrip("/") for address in value))
