"""What the API says of a pod, and the reason that a person is given."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from lab.targets import LabError
from lab.targets.cluster.access import Api
from lab.targets.cluster.waiting import wait
from lab.targets.cluster.workloads import memory_bytes, read
from tests.targets.fakes import Document, deployment, pod

PODS = "/api/v1/namespaces/antiphon/pods"
EVENTS = "/api/v1/namespaces/antiphon/events"
GROUP = "/apis/apps/v1/namespaces/antiphon"


@contextmanager
def cluster(answers: dict[str, object]) -> Iterator[Api]:
    """A cluster that answers these documents (or status and text) by path."""

    def answer(request: httpx.Request) -> httpx.Response:
        unknown = (503, '{"kind":"Status"}') if "/proxy" in request.url.path else []
        known = answers.get(request.url.path, unknown)
        if isinstance(known, tuple):
            return httpx.Response(known[0], text=known[1])
        return httpx.Response(200, json={"items": known} if isinstance(known, list) else known)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://localhost") as client:
        yield Api(client, "test")


def reason(pods: list[Document], *, replicas: int = 1, ready: int = 0, **more: object) -> str:
    """Why payment, with these pods, is not ready."""
    answers = {f"{GROUP}/deployments": [deployment("payment", wanted=replicas, ready=ready)], PODS: pods, **more}
    with cluster(answers) as api:
        (workload,) = read(api)
    return workload.reason


def waiting(name: str, message: str = "", **last: object) -> dict[str, object]:
    """A container's status that is waiting."""
    state = {"name": "payment", "state": {"waiting": {"reason": name, "message": message}}}
    return {"containerStatuses": [{**state, **({"lastState": {"terminated": last}} if last else {})}]}


def test_what_is_settled_has_no_reason():
    assert reason([pod("payment")], ready=1) == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (waiting("ImagePullBackOff", 'Back-off pulling image "x:1"'), 'ImagePullBackOff: Back-off pulling image "x:1"'),
        (waiting("CreateContainerConfigError", 'secret "antiphon" not found'), 'secret "antiphon" not found'),
        (waiting("ContainerCreating"), "starting: ContainerCreating"),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/1 nodes are available:\nInsufficient memory.",
                    }
                ],
            },
            "no node takes it: 0/1 nodes are available: Insufficient memory.",
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk pressure"}, "Evicted: disk pressure"),
        ({"phase": "Pending"}, "starting"),
        ({}, "not ready yet"),
    ],
)
def test_a_pod_that_is_not_ready_says_why(status, words):
    assert reason([pod("payment", ready=False, **status)]).endswith(words)


def test_what_crashes_is_quoted_with_its_last_line():
    crashed = pod("payment", ready=False, **waiting("CrashLoopBackOff", "back-off 10s", exitCode=3, reason="Error"))
    said = {f"{PODS}/payment-1/log": (200, "cannot open the database\n")}
    assert reason([crashed], **said) == "keeps ending (exit code 3): cannot open the database"
    killed = pod("payment", ready=False, **waiting("CrashLoopBackOff", "", exitCode=137, reason="OOMKilled"))
    assert (
        reason([killed], **{f"{PODS}/payment-1/log": (400, "no log")}) == "keeps ending (OOMKilled): it printed nothing"
    )


def test_a_failing_probe_is_quoted_as_the_pod_answers_it():
    """/readyz names what the service waits for, which no event of Kubernetes does."""
    answer = (503, json.dumps({"ready": False, "reasons": ["rabbitmq: connection refused", "kafka: away"]}))
    said = {f"{PODS}/payment-1:9464/proxy/readyz": answer}
    assert reason([pod("payment", ready=False)], **said) == "rabbitmq: connection refused; kafka: away"


def test_a_pod_that_has_just_become_ready_is_not_blamed_for_what_was():
    said: dict[str, object] = {
        f"{PODS}/payment-1:9464/proxy/readyz": (200, '{"ready": true}'),
        EVENTS: [{"involvedObject": {"name": "payment-1"}, "message": "Startup probe failed", "lastTimestamp": "2026"}],
    }
    assert reason([pod("payment", ready=False)], **said) == "answers; Kubernetes will see it at the next probe"


def test_a_pod_that_nobody_reaches_has_no_answer_but_the_events_of_it():
    said: dict[str, object] = {
        f"{PODS}/payment-1:9464/proxy/readyz": (503, '{"kind":"Status","message":"error trying to reach service"}'),
        EVENTS: [
            {"involvedObject": {"name": "payment-1"}, "message": "Startup probe failed", "lastTimestamp": "2026-01-02"},
            {"involvedObject": {"name": "payment-1"}, "message": "older", "lastTimestamp": "2026-01-01"},
        ],
    }
    assert reason([pod("payment", ready=False)], **said) == "Startup probe failed"


def test_a_warning_about_a_forerunner_of_the_same_name_is_not_told():
    """A StatefulSet's new pod has the name of the old one."""
    new = pod("payment", ready=False)
    new["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    event = {"involvedObject": {"name": "payment-1"}, "message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"}
    assert reason([new], **{EVENTS: [event]}) == "not ready yet"


def test_one_of_several_is_named():
    pods = [pod("payment", "a"), pod("payment", "b", ready=False, **waiting("ErrImagePull", "no"))]
    assert reason(pods, replicas=2, ready=1) == "payment-b: ErrImagePull: no"


def test_pods_that_the_api_server_refuses_are_explained():
    """A namespace that enforces Pod Security leaves a Deployment without any pod."""
    refused = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: violates PodSecurity'}
    document = deployment("payment", ready=0, updatedReplicas=0, conditions=[refused])
    with cluster({f"{GROUP}/deployments": [document]}) as api:
        assert read(api)[0].reason == 'no pod: pods "x" is forbidden: violates PodSecurity'


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"observedGeneration": 0}, "starting"),
        ({"updatedReplicas": 1}, "1 of 2 started"),
        ({"replicas": 3}, "old ones are ending"),
        ({"availableReplicas": 1}, "1 of 2 ready"),
        ({}, ""),
    ],
)
def test_a_rollout_is_over_when_its_controller_has_nothing_left_to_do(status, words):
    """Ready pods of the old revision do not count."""
    document = deployment("payment", wanted=2, **status)
    with cluster({f"{GROUP}/deployments": [document], PODS: [pod("payment", "a"), pod("payment", "b")]}) as api:
        assert read(api)[0].reason == words


def test_scaled_to_nothing_is_said_and_not_waited_for():
    told = []
    with cluster({f"{GROUP}/deployments": [deployment("payment", wanted=0)]}) as api:
        assert read(api)[0].reason == "scaled to 0"
        wait(api, lambda *words: told.append(words))
    assert told == [("payment", "scaled to 0", "done")]


def test_pods_that_are_ending_do_not_count():
    ending = pod("payment", "old", ready=False)
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with cluster({f"{GROUP}/deployments": [deployment("payment")], PODS: [ending, pod("payment", "new")]}) as api:
        assert read(api)[0].pods == ("payment-new",)


def test_giving_up_names_what_is_not_ready_and_why():
    pods = [pod("payment", ready=False, **waiting("ContainerCreating"))]
    told = []
    with (
        cluster({f"{GROUP}/deployments": [deployment("payment", ready=0), deployment("orders")], PODS: pods}) as api,
        pytest.raises(LabError, match=r"^not ready: payment \(starting: ContainerCreating\)$"),
    ):
        wait(api, lambda *words: told.append(words), timeout_s=0)
    assert ("orders", "ready", "done") in told
    assert told[-1] == ("payment", "starting: ContainerCreating", "failed")


def test_what_will_not_come_by_itself_is_given_up_early(monkeypatch):
    """An image that nobody has does not appear within ten minutes either."""
    monkeypatch.setattr("lab.targets.cluster.waiting.PATIENCE_S", 0.1)
    monkeypatch.setattr("lab.targets.cluster.waiting.POLL_S", 0.05)
    pods = [pod("payment", ready=False, **waiting("ImagePullBackOff", "no such image"))]
    with (
        cluster({f"{GROUP}/deployments": [deployment("payment", ready=0)], PODS: pods}) as api,
        pytest.raises(LabError, match="no such image"),
    ):
        wait(api, lambda *_: None, timeout_s=60)


def test_memory_is_that_of_our_pods_and_unknown_where_it_may_not_be_asked():
    def usage(namespace: str, name: str) -> Document:
        containers = [{"memory": {"rssBytes": 5}}, {"memory": {"rssBytes": 7}}, {}]
        return {"podRef": {"namespace": namespace, "name": name}, "containers": containers}

    stats = {"pods": [usage("antiphon", "payment-1"), usage("kube-system", "dns")]}
    with cluster({"/api/v1/nodes/node/proxy/stats/summary": stats}) as api:
        assert memory_bytes(api, {"node", ""}) == {"payment-1": 12}
    with cluster({"/api/v1/nodes/node/proxy/stats/summary": (403, '{"message": "forbidden"}')}) as api:
        assert memory_bytes(api, {"node"}) == {}


def test_a_refusal_of_the_api_is_one_line_with_the_context():
    with (
        cluster({PODS: (403, '{"message": "pods is forbidden: User may not list"}')}) as api,
        pytest.raises(LabError, match="the cluster of context test: pods is forbidden: User may not list"),
    ):
        read(api)
