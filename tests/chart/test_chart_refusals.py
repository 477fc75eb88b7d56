"""What cannot work fails when it is rendered, with a sentence that names the value and says what to set."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from tests.chart import charts

EMBEDDED = charts.values_of(charts.FILES["embedded"])
SERVICES = charts.values_of(charts.FILES["services"])


def refusal(values: charts.Values) -> str:
    with pytest.raises(helm_python.HelmError) as caught:
        charts.rendered(values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"relpicas": 1}, "relpicas"),
        ({"gateway": {"servce": {"type": "NodePort"}}}, "servce"),
        ({"train": {"gpu": {"cuont": 1}}}, "cuont"),
        ({"engines": {"vllm": {"memory_fraction": 0.5}}}, "memory_fraction"),
        ({"profile": "both"}, "embedded"),
        ({"userId": 0}, "userId"),
        ({"embedded": {"resources": {"limits": {"cpu": "1"}, "limitz": {}}}}, "limitz"),
    ],
)
def test_what_is_misspelt_or_no_choice_is_named(wrong: charts.Values, said: str):
    assert said in refusal(charts.merged(EMBEDDED, wrong))


@pytest.mark.parametrize("profile", ["embedded", "services"])
def test_there_is_no_default_secret(profile: str):
    base = charts.values_of(charts.FILES[profile])
    text = refusal({**base, "auth": {}})
    assert "set it to the name of a secret" in text
    assert "auth.existingSecret" in text
    assert "set tls.existingSecret to the name of a secret with tls.crt" in refusal({**base, "tls": {}})


@pytest.mark.parametrize("service", ["train", "find", "explain"])
def test_two_replicas_on_one_sqlite_database(service: str):
    text = refusal(charts.merged(SERVICES, {service: {"replicas": 2}}))
    assert f"{service}.replicas is 2" in text
    assert "set it to 1" in text


@pytest.mark.parametrize(
    ("values", "component", "remedy"),
    [
        (SERVICES, "train", "set the flavour to cuda, or the count to 0"),
        (SERVICES, "explain", "set the flavour to vllm, or the count to 0"),
        (EMBEDDED, "embedded", "set the flavour to cuda, or the count to 0"),
    ],
)
def test_a_gpu_without_an_image_that_can_use_it(values: charts.Values, component: str, remedy: str):
    text = refusal(charts.merged(values, {component: {"gpu": {"count": 1}}}))
    assert remedy in text
    assert f"{component}.image.flavour" in text


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.persistence.size", "-5Gi", 'train.persistence.size is "-5Gi": set it to a size of at least 1'),
        ("shared.size", "0Gi", 'shared.size is "0Gi": set it to a size of at least 1'),
        ("find.gpu.sharedMemory", "lots", 'find.gpu.sharedMemory is "lots": set it'),
        ("train.gpu.count", -1, "train.gpu.count is -1: set it to 0 for none"),
        (
            "find.resources.limits.memory",
            "-1Gi",
            'find.resources.limits.memory is "-1Gi": set it to a positive quantity',
        ),
        ("gateway.resources.requests.cpu", "0", 'gateway.resources.requests.cpu is "0": set it to a positive quantity'),
        ("gateway.replicas", 0, "gateway.replicas is less than 1: set it to at least 1"),
        ("train.terminationGracePeriodSeconds", 10, "shorter than its drain: set it to at least 30"),
        ("gateway.terminationGracePeriodSeconds", -1, "shorter than its drain: set it to at least 30"),
        ("gateway.service.httpNodePort", 30801, "set the type to NodePort, or leave the ports at 0"),
        ("gateway.ingress.enabled", True, "set gateway.ingress.host"),
        ("env", {"HF_TOKEN": "hf_x"}, "env.HF_TOKEN looks like a secret"),
        ("tls.certManager.enabled", True, "exclude each other"),
    ],
)
def test_numbers_and_switches_that_cannot_work(path: str, value: Any, said: str):
    wrong: Any = value
    for part in reversed(path.split(".")):
        wrong = {part: wrong}
    assert said in refusal(charts.merged(SERVICES, wrong))


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        (
            {"vllm": {"enabled": True, "model": "m"}},
            "set explain.image.flavour to vllm and explain.gpu.count to at least 1",
        ),
        ({"ollama": {"enabled": True, "baseUrl": "https://ollama.example.org"}}, "set engines.ollama.egressCidr"),
        ({"extra": {"vllm": {"kind": "vllm"}}}, "set engines.vllm instead"),
    ],
)
def test_engines_that_the_pod_cannot_have(engines: charts.Values, said: str):
    assert said in refusal(charts.merged(SERVICES, {"engines": engines}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engines": {"vllm": {"model": ""}}}, "engines.vllm.model is empty: set it"),
        ({"hub": {"enabled": False}}, "set hub.enabled to true, or engines.vllm.download to false"),
        ({"tls": {"certManager": {"issuer": {"name": ""}}}}, "tls.certManager.issuer.name is empty: set it"),
        ({"embedded": {"replicas": 2}, "profile": "embedded"}, "embedded"),
    ],
)
def test_a_large_installation_with_one_thing_missing(change: charts.Values, said: str):
    assert said in refusal(charts.merged(charts.values_of(charts.FILES["services-gpu"]), change))


def test_the_embedded_pod_has_one_database_too():
    text = refusal(charts.merged(EMBEDDED, {"embedded": {"replicas": 2, "terminationGracePeriodSeconds": 60}}))
    assert "embedded.replicas is 2" in text
    text = refusal(charts.merged(EMBEDDED, {"embedded": {"terminationGracePeriodSeconds": 40}}))
    assert "set it to at least 60" in text
