"""The cluster targets, with programs and a cluster that answer as the real ones do."""

import base64
import json
import signal
import subprocess
import sys
import textwrap

import httpx
import pytest
import yaml

from lab.targets import LabError, TargetDownError, last
from lab.targets.cluster.image import full_name
from lab.targets.cluster.target import K8sTarget, KindTarget
from lab.targets.local.paths import project_root
from lab.targets.local.ports import free_block
from tests.targets.fakes import VALUES, Machine, deployment, pod

IMAGE = "antiphon:0.1.0-0123456789ab"
RENDERED = f"""
kind: Deployment
spec: {{template: {{spec: {{containers: [{{image: "{IMAGE}"}}], initContainers: [{{image: "busy:1"}}]}}}}}}
---
kind: StatefulSet
spec: {{template: {{spec: {{containers: [{{image: "kafka:1"}}]}}}}}}
"""
NAMESPACED = "/api/v1/namespaces/antiphon"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Everything is there: the tools, a kind cluster made by us, a healthy release."""
    (tmp_path / "machine").mkdir()
    machine = Machine(tmp_path / "machine", monkeypatch, "docker", "kind", "helm", "kubectl")
    machine.clusters("antiphon")
    machine.answer("kind get nodes", "antiphon-control-plane\n")
    machine.answer("docker inspect", "true\n")
    machine.answer("docker image inspect --format {{.Size}}", "200000000\n")
    machine.answer("docker image inspect --format {{.Id}} busy:1", err="Error: No such image: busy:1", code=1)
    machine.answer("helm template", RENDERED)
    machine.answer("helm status", err="Error: release: not found", code=1)
    machine.answer("helm get values", json.dumps(VALUES))
    machine.answer("kubectl get nodes -l antiphon=lab", "node/antiphon-control-plane\n")
    machine.answer("kubectl config current-context", "far\n")
    machine.answer("kubectl config view", "https://far.example:6443")
    machine.has(deployment("orders"), deployment("payment"))
    machine.api(f"{NAMESPACED}/secrets/antiphon", {"data": {"settings-token": base64.b64encode(b"secret").decode()}})
    machine.api(f"{NAMESPACED}/services/orders:http/proxy/transports", '[{"name": "rest", "status": "ready"}]')
    return machine


@pytest.fixture
def kind(machine, tmp_path):
    return KindTarget(tmp_path / "state")


@pytest.fixture
def k8s(machine, tmp_path):
    return K8sTarget(tmp_path / "state")


@pytest.fixture
def told():
    """What was shown as progress: (name, text, state)."""
    return []


def tell(told):
    return lambda name, text, state="busy": told.append((name, text, state))


# up


def test_up_makes_a_cluster_an_image_and_a_release(kind, machine, told):
    machine.clusters("another")
    machine.answer("kubectl get namespace", "")
    assert kind.up(progress=tell(told)).ready
    done = [call for call in machine.calls() if not call.startswith(("docker version", "kubectl proxy", "docker i"))]
    steps = (
        "helm template antiphon",
        "kind create cluster --name antiphon --config",
        "kubectl get namespace antiphon",
        "kubectl apply --filename",
        "docker build",
        f"docker tag sha256:0123456789abcdef {IMAGE}",
        "kind load docker-image antiphon:0.1.0-0123456789ab --name antiphon",
        "kind load docker-image kafka:1 --name antiphon",
        "helm upgrade --install antiphon",
    )
    places = [next(n for n, call in enumerate(done) if call.startswith(step)) for step in steps]
    assert places == sorted(places), done
    assert machine.calls("kind load docker-image busy:1") == []  # the engine does not have it
    assert last(kind.state_dir) == "kind"
    assert ("orders", "ready", "done") in told


def test_up_uses_the_cluster_that_is_there_and_its_own_kubeconfig(kind, machine):
    kind.up()
    assert machine.calls("kind create") == []
    (install,) = machine.calls("helm upgrade")
    assert f"--kube-context kind-antiphon --kubeconfig {kind.state_dir}/kind/antiphon.kubeconfig" in install
    assert machine.calls(f"kind export kubeconfig --name antiphon --kubeconfig {kind.kubeconfig}")


def test_a_node_that_ended_with_the_machine_is_started_again(kind, machine):
    machine.answer("docker inspect", "false\n")
    kind.up()
    assert machine.calls("docker start antiphon-control-plane")


def test_the_environment_says_which_profile_values_node_and_build(kind, machine, monkeypatch):
    monkeypatch.setenv("PROFILE", "mini")
    monkeypatch.setenv("HELM_ARGS", "--set 'a.b=c d'")
    monkeypatch.setenv("KIND_NODE_IMAGE", "node:1")
    monkeypatch.setenv("DOCKER_BUILD_ARGS", "--network host")
    machine.clusters()
    kind.up()
    (install,) = machine.calls("helm upgrade")
    assert "helm/antiphon/profiles/mini.yaml --set-string image.tag=0.1.0-0123456789ab --set a.b=c d" in install
    assert machine.calls("kind create cluster")[0].endswith("--image node:1")
    assert "--network host --iidfile" in machine.calls("docker build")[0]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PROFILE", "huge", "no profile is called 'huge': there are full, mini, std"),
        ("HELM_ARGS", "--set 'a", "HELM_ARGS cannot be read"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_made(kind, machine, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(LabError, match=words):
        kind.up()
    assert machine.calls("kind create") == machine.calls("docker build") == []


def test_values_that_the_chart_refuses_are_refused_before_anything_is_made(kind, machine):
    machine.answer("helm template", err="Error: values don't meet the schema: Additional property x", code=1)
    with pytest.raises(LabError, match="Additional property x"):
        kind.up()
    assert machine.calls("kind create") == machine.calls("docker build") == []


def test_a_cluster_that_cannot_be_made_leaves_no_half_of_it(kind, machine):
    machine.clusters()
    said = "ERROR: failed to create cluster\ndocker: Bind for 127.0.0.1:30080 failed: port is already allocated\n"
    machine.answer("kind create", err=said, code=1)
    with pytest.raises(LabError, match=r"port 127.0.0.1:30080 is taken.*k8s/kind.yaml"):
        kind.up()
    assert machine.calls("kind delete cluster --name antiphon")


def test_a_failed_build_names_its_log_and_what_stays(kind, machine):
    machine.answer("docker build", "Step 5/9 : RUN pip\nERROR: No matching distribution\n", code=1)
    with pytest.raises(
        LabError, match=r"No matching distribution .all of it: .*build.log.*make kind-up goes on from here"
    ):
        kind.up()
    assert machine.calls("helm upgrade") == []


def test_what_the_node_has_is_not_loaded_again(kind, machine):
    machine.answer("docker exec .* ctr", f"docker.io/library/kafka:1\ndocker.io/library/{IMAGE}\n")
    kind.up()
    assert machine.calls("kind load") == []


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("kafka:1", "docker.io/library/kafka:1"),
        ("apache/kafka:1", "docker.io/apache/kafka:1"),
        ("registry.example/kafka:1", "registry.example/kafka:1"),
        ("registry:5000/kafka:1", "registry:5000/kafka:1"),
        ("localhost/kafka:1", "localhost/kafka:1"),
    ],
)
def test_a_nodes_name_for_an_image_has_the_registry_that_docker_leaves_out(name, full):
    assert full_name(name) == full


def test_an_image_that_cannot_be_loaded_is_left_to_the_node_unless_it_is_ours(kind, machine, told):
    machine.answer("kind load docker-image kafka", err="ERROR: content digest not found", code=1)
    assert kind.up(progress=tell(told)).ready
    assert any(name == "kafka:1" and "content digest not found" in text for name, text, _ in told)
    machine.answer("kind load docker-image antiphon", err="ERROR: no space left", code=1)
    with pytest.raises(LabError, match="no space left"):
        kind.up()


@pytest.mark.parametrize(
    ("state", "repair"), [("pending-install", "helm uninstall"), ("pending-upgrade", "helm rollback"), ("deployed", "")]
)
def test_what_a_killed_helm_left_locked_is_put_right(kind, machine, state, repair):
    machine.answer("helm status", json.dumps({"info": {"status": state}}))
    kind.up()
    assert bool(machine.calls("helm uninstall") or machine.calls("helm rollback")) == bool(repair)
    assert not repair or machine.calls(repair)


def test_a_release_that_helm_refuses_says_so_and_what_stays(kind, machine):
    machine.answer("helm upgrade", err="Error: UPGRADE FAILED: cannot patch StatefulSet", code=1)
    with pytest.raises(
        LabError, match=r"cannot patch StatefulSet. What is there stays: make kind-up goes on from here"
    ):
        kind.up()
    assert last(kind.state_dir) == "kind"  # what is there can be looked at without saying where


def test_the_local_targets_choices_are_refused(kind):
    with pytest.raises(LabError, match=r"kafka, --port-base: for the local target only"):
        kind.up(["kafka"], port_base=22000)


def test_k8s_says_which_cluster_before_anything_is_done(k8s, machine, told):
    k8s.up(progress=tell(told))
    assert told[0] == ("context", "far at https://far.example:6443", "done")
    (install,) = machine.calls("helm upgrade")
    assert "--kube-context far" in install
    assert "image.tag" not in install
    assert machine.calls("docker build") == machine.calls("kind ") == []


def test_k8s_pushes_to_the_registry_and_installs_from_there(k8s, machine, monkeypatch):
    monkeypatch.setenv("IMAGE_REGISTRY", "registry.example/lab/")
    name = f"registry.example/lab/{IMAGE}"
    machine.answer("helm template", RENDERED.replace(IMAGE, name))
    k8s.up()
    assert machine.calls(f"docker push {name}")
    (install,) = machine.calls("helm upgrade")
    assert "--set-string image.repository=registry.example/lab/antiphon" in install
    assert "--set-string image.tag=0.1.0-0123456789ab" in install


def test_no_context_is_one_line(k8s, machine):
    machine.answer("kubectl config current-context", err="error: current-context is not set", code=1)
    with pytest.raises(LabError, match=r"current-context is not set.*kubectl config use-context"):
        k8s.status()


def test_a_namespace_that_is_there_stays_as_it_is(kind, machine):
    machine.answer("kubectl get namespace", "namespace/antiphon\n")
    kind.up()
    assert machine.calls("kubectl apply") == []


SCRIPT = """
    import signal, sys
    from pathlib import Path
    from lab.targets.cluster.target import KindTarget

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        KindTarget(Path(sys.argv[1])).up(progress=lambda *words: print(*words, flush=True))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_while_waiting_leaves_the_release_and_says_how_to_go_on(machine, tmp_path):
    machine.has(deployment("orders", ready=0), pods=[pod("orders", ready=False)])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=project_root()) as script:
        printed = []
        for line in script.stdout:
            printed.append(line)
            if line.startswith("orders"):
                script.send_signal(signal.SIGINT)
    assert printed[-2:] == ["interrupted what is there stays: make kind-up goes on from here absent\n", "interrupted\n"]
    assert machine.calls("helm upgrade")
    assert machine.calls("helm uninstall") == []


# what runs


def test_status_is_the_contract(kind, machine):
    machine.api("/api/v1/nodes/node/proxy/stats/summary", {"pods": [usage("orders-1", 5), usage("payment-1", 7)]})
    machine.has(deployment("orders"), deployment("payment", wanted=2, ready=1), pods=[pod("orders"), pod("payment")])
    told = json.loads(json.dumps(kind.status().to_json()))
    assert told["target"] == "kind"
    assert told["ready"] is False
    assert [process.pop("pss_bytes") for process in told["processes"]] == [None, None]  # kubelets do not tell
    assert told["processes"] == [
        {"name": "orders", "pid": None, "ready": True, "rss_bytes": 5, "reason": "", "replicas": 1},
        {"name": "payment", "pid": None, "ready": False, "rss_bytes": 7, "reason": "1 of 2 ready", "replicas": 2},
    ]
    assert told["transports"] == {"rest": "ready"}
    assert told["addresses"] == {
        "front_door": "http://127.0.0.1:30080",
        "jaeger": "http://127.0.0.1:30086",
        "orders_admin": "http://127.0.0.1:30081",
        "prometheus": "http://metrics.example:9090",  # what is used from elsewhere is reached there
    }
    assert told["notes"]["kubectl"] == f"export KUBECONFIG={kind.kubeconfig}"
    assert told["notes"]["image"] == "antiphon:1-abc"


def usage(name, rss_bytes):
    return {"podRef": {"namespace": "antiphon", "name": name}, "containers": [{"memory": {"rssBytes": rss_bytes}}]}


def test_the_token_comes_from_the_secret_that_the_values_name(kind, machine):
    assert kind.settings_token == "secret"
    machine.answer("helm get values", json.dumps({**VALUES, "secret": {"existing": "mine"}}))
    machine.api(f"{NAMESPACED}/secrets/mine", {"data": {"settings-token": base64.b64encode(b"own").decode()}})
    assert kind.settings_token == "own"


@pytest.mark.parametrize("ask", [lambda t: t.status(), lambda t: t.addresses, lambda t: list(t.logs("orders"))])
def test_without_a_cluster_the_lab_is_down(kind, machine, ask):
    machine.clusters("another")
    with pytest.raises(TargetDownError, match="not running on kind: make kind-up starts it"):
        ask(kind)


@pytest.mark.parametrize("ask", [lambda t: t.status(), lambda t: t.addresses, lambda t: list(t.logs("orders"))])
def test_without_a_release_the_lab_is_down(kind, machine, ask):
    machine.has(pods=[])
    machine.answer("helm get values", err="Error: release: not found", code=1)
    with pytest.raises(TargetDownError, match="not running on kind: make kind-up starts it"):
        ask(kind)


def test_addresses_out_of_reach_lead_to_lab_forward(kind, machine):
    values_at(machine, free_port())
    with pytest.raises(TargetDownError, match=r"is out of reach from here: .*lab --target kind forward"):
        _ = kind.addresses
    assert "forward" in kind.status().notes["addresses"]


def test_addresses_of_orders_that_does_not_serve_say_why(kind, machine):
    machine.has(deployment("orders", ready=0), pods=[pod("orders", ready=False, phase="Pending")])
    values_at(machine, free_port())
    with pytest.raises(TargetDownError, match=r"orders does not serve \(starting\)"):
        _ = kind.addresses


def free_port():
    with free_block() as ports:
        return ports["front_door"]


def values_at(machine, port):
    access = {**VALUES["access"], "nodePorts": {"front_door": port}}
    machine.answer("helm get values", json.dumps({**VALUES, "access": access}))


def test_names_are_those_of_the_status(kind, machine):
    for act in (lambda: kind.restart("paiment"), lambda: kind.scale("paiment", 2), lambda: kind.kill("paiment")):
        with pytest.raises(LabError, match="no process is called 'paiment': did you mean 'payment'"):
            act()
    assert machine.calls("kubectl rollout") == machine.calls("kubectl scale") == machine.calls("kubectl delete") == []


def test_what_there_is_one_of_stays_one_pod(kind, machine):
    machine.answer("helm get values", json.dumps({**VALUES, "services": {"payment": {"single": True}}}))
    with pytest.raises(LabError, match="payment stays one pod"):
        kind.scale("payment", 2)
    assert machine.calls("kubectl scale") == []


def test_restart_scale_and_kill_are_kubectls(kind, machine):
    kind.restart("orders", "payment")
    assert [call.split(" --")[0] for call in machine.calls("kubectl rollout")] == [
        "kubectl rollout restart deployment/orders",
        "kubectl rollout restart deployment/payment",
    ]
    kind.scale("payment", 3)
    assert machine.calls("kubectl scale")[0].startswith("kubectl scale deployment/payment --replicas=3")
    kind.kill("payment")
    kind.kill("orders-1", signal.SIGTERM)
    forced, ordinary = machine.calls("kubectl delete pod")
    assert forced.startswith("kubectl delete pod payment-1 --grace-period=0 --force")
    assert ordinary.startswith("kubectl delete pod orders-1 --wait=false")
    with pytest.raises(LabError, match="SIGTERM or SIGKILL only"):
        kind.kill("orders", signal.SIGHUP)


def test_logs_of_several_pods_carry_their_names(kind, machine):
    machine.answer("kubectl logs", "one\ntwo\n")
    assert list(kind.logs("orders", lines=2)) == ["one", "two"]
    machine.has(deployment("payment", wanted=2), pods=[pod("payment", "a"), pod("payment", "b")])
    list(kind.logs("payment", follow=True))
    list(kind.logs("payment-b"))
    single, several, one = machine.calls("kubectl logs")
    assert "--tail=2" in single
    assert "--prefix" not in single
    assert "app.kubernetes.io/name=payment" in several
    assert "--prefix" in several
    assert "--follow" in several
    assert one.startswith("kubectl logs payment-b --tail=50")
    with pytest.raises(LabError, match="no process is called 'paymen': did you mean 'payment'"):
        list(kind.logs("paymen"))


def test_admin_ports_are_brought_here_while_they_are_needed(kind, machine):
    services = {"orders": {"module": "services.orders"}, "payment": {"module": "services.payment"}}
    values = {**VALUES, "services": {**services, "spans": {"module": "lab.spans"}}}
    machine.answer("helm get values", json.dumps(values))
    with kind.admin_ports() as ports:
        assert list(ports) == ["orders", "payment"]
        for service, url in ports.items():
            assert httpx.get(url, trust_env=False).text == service
            (call,) = machine.calls(f"kubectl port-forward service/{service} ")
            assert f" {url.rpartition(':')[2]}:admin --address 127.0.0.1" in call
    for url in ports.values():
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False)


def test_an_admin_port_that_cannot_be_had_is_named_with_the_reason(kind, machine):
    machine.answer("helm get values", json.dumps({**VALUES, "services": {"orders": {"module": "services.orders"}}}))
    machine.answer("kubectl port-forward", err="error: unable to forward port because pod is not running", code=1)
    with pytest.raises(LabError, match="orders cannot be asked: error: unable to forward"), kind.admin_ports():
        pass


def test_forward_brings_what_is_out_of_reach_until_ctrl_c(kind, machine, monkeypatch):
    said = []
    values_at(machine, free_port())
    machine.answer("kubectl port-forward", err="error: lost connection to pod", code=1)

    def hear(line):
        said.append(line)
        if "trying again" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind.forward(hear)
    assert said[-1] == "orders: error: lost connection to pod; trying again"
    assert "Ctrl-C ends it" in said
    (call,) = machine.calls("kubectl port-forward service/orders")
    assert ":http --address 127.0.0.1" in call


# down


def test_down_deletes_the_cluster_that_is_ours(kind, machine):
    kind.up()
    kind.down()
    assert machine.calls("kind delete cluster --name antiphon")
    assert last(kind.state_dir) == "local"


def test_down_leaves_a_cluster_of_somebody_else(kind, machine, told):
    machine.answer("kubectl get nodes -l antiphon=lab", "")
    kind.down(progress=tell(told))
    assert machine.calls("helm uninstall antiphon")
    assert machine.calls("kind delete") == []
    assert "was not made by the lab, so it stays: kind delete cluster --name antiphon" in told[-1][1]


def test_down_of_nothing_is_fine(kind, machine):
    machine.clusters()
    kind.down()
    assert machine.calls("kind delete") == machine.calls("helm ") == []


def test_k8s_down_says_that_volumes_stay_and_how_to_remove_them(k8s, machine, told):
    machine.api(f"{NAMESPACED}/persistentvolumeclaims", [{"metadata": {"name": "kafka-0"}}])
    k8s.down(progress=tell(told))
    assert machine.calls("helm uninstall antiphon")
    assert told[-1][1].startswith("1 claims stay with their data: kubectl delete pvc --selector")
    assert machine.calls("kubectl delete") == []


def test_k8s_down_with_purge_removes_volumes_and_a_namespace_of_ours(k8s, machine):
    machine.answer("kubectl get namespace --selector", "namespace/antiphon\n")
    k8s.down(purge=True)
    assert machine.calls("kubectl delete pvc --selector app.kubernetes.io/instance=antiphon")
    assert machine.calls("kubectl delete namespace antiphon")


# files


def test_kind_maps_the_ports_of_the_chart_and_of_the_console_to_loopback():
    (node,) = yaml.safe_load((project_root() / "k8s/kind.yaml").read_text())["nodes"]
    mapped = {each["containerPort"]: each for each in node["extraPortMappings"]}
    values = yaml.safe_load((project_root() / "helm/antiphon/values.yaml").read_text())
    assert set(mapped) == {*values["access"]["nodePorts"].values(), 30083}
    for port, each in mapped.items():
        assert each == {"containerPort": port, "hostPort": port, "listenAddress": "127.0.0.1"}
    assert node["labels"] == {"antiphon": "lab"}


def test_the_namespace_enforces_the_restricted_level():
    labels = yaml.safe_load((project_root() / "k8s/namespace.yaml").read_text())["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
