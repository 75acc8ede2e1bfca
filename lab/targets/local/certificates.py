"""The certificates of the services' calls: an authority of this lab's own, and one certificate for this machine."""

from dataclasses import dataclass
from pathlib import Path

from lab.targets.local.ports import HOST
from lab.targets.local.state import StateDir


@dataclass(frozen=True)
class Certificates:
    """Three PEM files in the lab's folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"


def made(state_dir: StateDir) -> Certificates:
    """Those of this state folder, generated once; the authority's own key is not kept."""
    import trustme

    files = Certificates(state_dir.root / "tls")
    if not files.certificate.exists():
        authority = trustme.CA(organization_name="Antiphon", organization_unit_name="lab")
        issued = authority.issue_cert(HOST, "localhost")
        state_dir.write_private(files.authority, authority.cert_pem.bytes().decode())
        state_dir.write_private(files.key, issued.private_key_pem.bytes().decode())
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        state_dir.write_private(files.certificate, chain.decode())  # last: it says that all are there
    return files
