"""Rules for every object of every values file: nobody is root, nothing is open, nothing is secret in clear."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tests.chart import charts

PODS = [
    pytest.param(pod, id=f"{name}-{workload}")
    for name in charts.FILES
    for workload, pod in charts.pods(charts.objects_of(name)).items()
]
WRITABLE = {"/tmp", "/dev/shm", "/var/lib/mistudio", "/var/lib/mistudio-shared"}


def mounts(pod: charts.Values) -> dict[str, charts.Values]:
    return {m["mountPath"]: m for m in charts.main_container(pod)["volumeMounts"]}


@pytest.mark.parametrize("pod", PODS)
def test_nobody_is_root(pod: charts.Values):
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["runAsGroup"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    own = charts.main_container(pod)["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["spec"].keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert not any("hostPath" in volume for volume in pod["spec"]["volumes"])


@pytest.mark.parametrize("pod", PODS)
def test_only_a_few_mounts_can_be_written(pod: charts.Values):
    writable = {path for path, mount in mounts(pod).items() if not mount.get("readOnly")}
    assert writable <= WRITABLE
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {m["name"] for m in mounts(pod).values()}


@pytest.mark.parametrize("pod", PODS)
def test_no_pod_has_a_service_account_token(pod: charts.Values):
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", charts.FILES)
def test_no_account_has_a_token_and_no_role_is_given(name: str):
    found = charts.objects_of(name)
    assert [a["automountServiceAccountToken"] for a in charts.of_kind(found, "ServiceAccount").values()] == [False]
    assert not {o["kind"] for o in found} & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


@pytest.mark.parametrize("pod", PODS)
def test_every_container_has_requests_and_limits(pod: charts.Values):
    resources = charts.main_container(pod)["resources"]
    for kind in ("requests", "limits"):
        assert resources[kind].keys() >= {"cpu", "memory", "ephemeral-storage"}
    extended = {n for n in resources["limits"] if "/" in n}
    assert extended == {n for n in resources["requests"] if "/" in n}
    assert [resources["limits"][n] for n in extended] == [resources["requests"][n] for n in extended]


@pytest.mark.parametrize("pod", PODS)
def test_every_container_is_probed_on_the_health_only_port(pod: charts.Values):
    container = charts.main_container(pod)
    ports = {p["containerPort"]: p["name"] for p in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert ports[container[probe]["grpc"]["port"]] == "probe"
    assert "--probe-address" in container["args"]


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_time_to_drain(pod: charts.Values):
    from gateway.config import Limits
    from mistudio_cli.supervisor import CONTROL_STOP_SECONDS, GATEWAY_STOP_SECONDS
    from mistudio_rpc.server import DRAIN_SECONDS

    container = charts.main_container(pod)
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    longest = {
        "embedded": GATEWAY_STOP_SECONDS + CONTROL_STOP_SECONDS,
        "gateway": Limits(drain_seconds=10.0).drain_seconds,
    }.get(container["name"], DRAIN_SECONDS)
    assert pod["spec"]["terminationGracePeriodSeconds"] >= before + longest + 5


@pytest.mark.parametrize("name", charts.FILES)
def test_secrets_are_named_and_never_told(name: str):
    found = charts.objects_of(name)
    assert charts.of_kind(found, "Secret") == {}
    values = charts.values_of(charts.FILES[name])
    for pod in charts.pods(found).values():
        for variable in charts.main_container(pod)["env"]:
            assert "valueFrom" not in variable
            assert not re.search(r"TOKEN$|KEY$|PASSWORD|SECRET", variable["name"]), variable
        volumes = {v["secret"]["secretName"] for v in pod["spec"]["volumes"] if "secret" in v}
        allowed = {values["auth"]["existingSecret"], values["tls"].get("existingSecret"), "mistudio-tls", "engine-keys"}
        assert volumes <= allowed
    text = json.dumps(found)
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|Bearer |hf_[A-Za-z0-9]{10}", text)
    assert base64.b64encode(b"-----BEGIN").decode()[:10] not in text


def policy_of(found: tuple[charts.Values, ...], component: str) -> charts.Values:
    policy: charts.Values = charts.of_kind(found, "NetworkPolicy")[component]["spec"]
    return policy


def peers(rules: list[Any], end: str) -> list[tuple[int, Any]]:
    """(port, peer) of every rule; the peer is None for everyone."""
    return [(p["port"], peer) for rule in rules for p in rule["ports"] for peer in rule.get(end) or [None]]


@pytest.mark.parametrize("name", charts.FILES)
def test_the_network_is_closed_first(name: str):
    found = charts.objects_of(name)
    closed = policy_of(found, "closed")
    assert closed.keys() == {"podSelector", "policyTypes"}
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    for pod in charts.pods(found).values():
        assert closed["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert set(charts.of_kind(found, "NetworkPolicy")) == {"closed", *charts.pods(found)}


@pytest.mark.parametrize("name", charts.FILES)
def test_only_the_gateway_can_be_reached_from_outside(name: str):
    found = charts.objects_of(name)
    entry = "gateway" if "gateway" in charts.pods(found) else "embedded"
    for component in charts.pods(found):
        policy = policy_of(found, component)
        opened = peers(policy["ingress"], "from")
        if component == entry:
            assert {port for port, _ in opened} == {8001, 50051}
            continue
        assert {port for port, _ in opened} == {50051}
        assert all("app.kubernetes.io/instance" in peer["podSelector"]["matchLabels"] for _, peer in opened)
    for service, rendered in charts.of_kind(found, "Service").items():
        assert service == "gateway" or rendered["spec"]["type"] == "ClusterIP"
        assert "probe" not in [p["targetPort"] for p in rendered["spec"]["ports"]]


@pytest.mark.parametrize("name", charts.FILES)
def test_nothing_leaves_but_to_what_is_named(name: str):
    found = charts.objects_of(name)
    for component in charts.pods(found):
        for port, peer in peers(policy_of(found, component)["egress"], "to"):
            assert peer is not None
            block = peer.get("ipBlock")
            assert block is None or port == 443 or block["cidr"].endswith("/32")
            assert block is None or block["cidr"] != "0.0.0.0/0" or "10.0.0.0/8" in block["except"]
            assert component != "gateway" or block is None


def test_the_hub_is_closed_where_it_is_not_wanted():
    values = charts.merged(charts.values_of(charts.FILES["services"]), {"hub": {"enabled": False}})
    found = charts.objects(values)
    for component, pod in charts.pods(found).items():
        assert 443 not in [port for port, _ in peers(policy_of(tuple(found), component)["egress"], "to")]
        offline = {e["name"]: e["value"] for e in charts.main_container(pod)["env"]}.get("HF_HUB_OFFLINE")
        assert offline == (None if component == "gateway" else "1")


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("http://10.1.2.3:11434", {"ipBlock": {"cidr": "10.1.2.3/32"}}),
        (
            "http://llm.models.svc.cluster.local:11434",
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}}},
        ),
    ],
)
def test_ollama_opens_the_way_to_itself_and_to_nothing_else(address: str, peer: charts.Values):
    values = charts.merged(
        charts.values_of(charts.FILES["services"]), {"engines": {"ollama": {"enabled": True, "baseUrl": address}}}
    )
    found = tuple(charts.objects(values))
    assert (11434, peer) in peers(policy_of(found, "explain")["egress"], "to")
    for component in ("gateway", "train", "find"):
        assert 11434 not in [port for port, _ in peers(policy_of(found, component)["egress"], "to")]


@pytest.mark.parametrize("name", charts.FILES)
def test_a_change_of_the_engines_restarts_pods(name: str):
    values = charts.values_of(charts.FILES[name])
    before = charts.pods(charts.objects_of(name))
    after = charts.pods(charts.objects(charts.merged(values, {"engines": {"judge": "lexical"}})))
    for component, pod in before.items():
        assert pod["metadata"]["annotations"] != after[component]["metadata"]["annotations"]


@pytest.mark.parametrize("name", charts.FILES)
def test_the_engines_file_is_one_that_explain_reads(name: str, tmp_path):
    from mistudio_explain.engines.settings import load_engines

    file = tmp_path / "engines.toml"
    file.write_text(charts.of_kind(charts.objects_of(name), "ConfigMap")["engines"]["data"]["engines.toml"])
    engines = load_engines(file)
    wanted = {"lexical"}
    if name == "services-gpu":
        wanted |= {"vllm", "ollama", "house"}
        assert engines["vllm"].devices == ("cuda:0", "cuda:1")
        assert engines["vllm"].is_default
    wanted |= {"ollama"} if name == "values-microk8s" else set()
    assert set(engines) == wanted


@pytest.mark.parametrize("name", charts.FILES)
def test_budgets_and_services_select_pods_that_are_there(name: str):
    found = charts.objects_of(name)
    labels = [pod["metadata"]["labels"] for pod in charts.pods(found).values()]
    chosen = [o["spec"]["selector"]["matchLabels"] for o in charts.of_kind(found, "PodDisruptionBudget").values()]
    chosen += [o["spec"]["selector"] for o in charts.of_kind(found, "Service").values()]
    for selector in chosen:
        assert sum(selector.items() <= own.items() for own in labels) == 1
    assert len(charts.of_kind(found, "PodDisruptionBudget")) == len(labels)


def test_one_control_process_per_service_is_replaced_and_never_doubled():
    deployments = charts.of_kind(charts.objects_of("services"), "Deployment")
    strategies = {name: d["spec"]["strategy"]["type"] for name, d in deployments.items()}
    assert strategies == {"gateway": "RollingUpdate", "train": "Recreate", "find": "Recreate", "explain": "Recreate"}
    claims = charts.of_kind(charts.objects_of("services"), "PersistentVolumeClaim")
    modes = {name: claim["spec"]["accessModes"] for name, claim in claims.items()}
    own = {service: ["ReadWriteOnce"] for service in ("train", "find", "explain")}
    assert modes == {**own, "shared": ["ReadWriteMany"]}


def test_a_certificate_names_every_host_that_is_called():
    found = charts.objects_of("services-gpu")
    named = set(charts.of_kind(found, "Certificate")["mistudio"]["spec"]["dnsNames"])
    text = " ".join(str(a) for pod in charts.pods(found).values() for a in charts.main_container(pod)["args"])
    called = set(re.findall(r"=([a-z-]+):50051", text))
    assert called == {"mistudio-train", "mistudio-find", "mistudio-explain"}
    assert called | {"localhost", "mistudio-gateway", "mistudio.example.org"} <= named
