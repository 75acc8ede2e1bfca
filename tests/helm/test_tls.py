"""`tls.enabled`: a certificate for the participants' names, mounted where the environment says it is."""

import base64
import json
import ssl
from pathlib import Path

from services.transports.tls import Tls
from tests.helm.chart import containers, environment, of, pods, render

ON = "tls.enabled=true"
PARTICIPANTS = {"inventory", "payment", "shipping", "notifications"}


def test_services_find_their_certificate_where_it_is_mounted() -> None:
    rendered = render(ON)
    for name in PARTICIPANTS | {"orders"}:
        env, spec = environment(rendered, name), pods(rendered)[name]
        (container,) = containers(spec)
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tls"]
        (volume,) = [each for each in spec["volumes"] if each["name"] == "tls"]
        assert mount["readOnly"]
        assert volume["secret"]["secretName"] == "antiphon-tls"
        for setting, file in {"CERTIFICATE": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}.items():
            assert env[f"LAB_TLS_{setting}"] == f"{mount['mountPath']}/{file}"
        peers = json.loads(env["LAB_PEERS"])["payment"]
        assert {wire: peers[wire].split(":")[0] for wire in ("rest", "json_rpc", "avro_rpc")} == dict.fromkeys(
            ("rest", "json_rpc", "avro_rpc"), "https"
        )
        assert peers["grpc"] == "payment:50051"
    assert not [each for each in pods(rendered)["kafka"]["volumes"] if each["name"] == "tls"]


def test_the_certificate_is_of_its_authority_and_for_every_participant(tmp_path: Path) -> None:
    secret = of(render(ON), "Secret")["antiphon-tls"]
    files = {}
    for key, text in secret["data"].items():
        files[key] = tmp_path / key
        files[key].write_bytes(base64.b64decode(text))
    Tls(str(files["tls.crt"]), str(files["tls.key"]), str(files["ca.crt"]))  # it can be used
    told = ssl._ssl._test_decode_cert(str(files["tls.crt"]))  # type: ignore[attr-defined]
    assert {name for kind, name in told["subjectAltName"] if kind == "DNS"} == PARTICIPANTS


def test_a_secret_of_ones_own_stands_in_its_place() -> None:
    rendered = render(ON, "tls.existing=from-cert-manager")
    assert "antiphon-tls" not in of(rendered, "Secret")
    (volume,) = [each for each in pods(rendered)["payment"]["volumes"] if each["name"] == "tls"]
    assert volume["secret"]["secretName"] == "from-cert-manager"


def test_it_is_off_unasked() -> None:
    rendered = render()
    assert "antiphon-tls" not in of(rendered, "Secret")
    assert not [name for name in environment(rendered, "payment") if name.startswith("LAB_TLS")]
