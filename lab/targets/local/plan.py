"""What one `lab up` decided: the ports, the choices, the credentials. Entries of the table render from it."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from lab.targets.local.certificates import Certificates
from lab.targets.local.paths import project_root
from lab.targets.local.ports import Ports
from lab.targets.local.process import Scrape


@dataclass
class Plan:
    """`transports` can run, `absent` has the reason for those that cannot; `scrapes` grows entry by entry.
    `replicas` says how many there are of what is more than one."""

    root: Path
    ports: Ports
    credentials: dict[str, str]
    database: str = "sqlite"
    jaeger: str = "auto"
    tls: Certificates | None = None
    replicas: dict[str, int] = field(default_factory=dict)
    transports: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    scrapes: list[Scrape] = field(default_factory=list)
    python: str = sys.executable

    @property
    def project(self) -> Path:
        """Where `python -m services.…` finds its modules."""
        return project_root()

    def data(self, name: str) -> Path:
        """The folder (or file) that a server keeps its data in."""
        return self.root / "data" / name

    @property
    def rabbitmq_url(self) -> str:
        """AMQP, with the generated password."""
        return f"amqp://lab:{self.credentials['rabbitmq_password']}@{self.ports.address('rabbitmq')}/"

    @property
    def redis_url(self) -> str:
        """With the generated password, which is the default user's."""
        return f"redis://:{self.credentials['redis_password']}@{self.ports.address('redis')}/0"

    def database_url(self, service: str) -> str:
        """Where a service keeps its rows: a file of its own, or a database of its own."""
        if self.database == "postgres":
            password = self.credentials["postgres_password"]
            return f"postgresql+asyncpg://lab:{password}@{self.ports.address('postgres')}/{service}"
        return f"sqlite:///{self.data(service)}.sqlite"
