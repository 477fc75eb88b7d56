"""GPU readings: every figure where it can be read, and what is said where it cannot."""

import sys

import pynvml
import pytest

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.gpus import best_first, gpu_of, read_gpus
from tests.support.fakenvml import GIB, FakeCard, FakeNvml


@pytest.fixture(autouse=True)
def all_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


SMALL = FakeCard(name="NVIDIA GeForce RTX 3060", total=12 * GIB, used=2 * GIB, uuid="GPU-aaaa", busy=0)
LARGE = FakeCard(name="NVIDIA A100-SXM4-80GB", total=80 * GIB, used=60 * GIB, uuid="GPU-bbbb", capability=(8, 0))
OLD = FakeCard(name="Tesla K80", total=12 * GIB, used=0, uuid="GPU-cccc", capability=(3, 7))


def test_every_figure_of_a_healthy_card():
    nvml = FakeNvml(FakeCard(), LARGE)
    first, second = read_gpus(nvml)
    assert (first.index, first.name, first.utilization) == (0, "NVIDIA GeForce RTX 3090", 0.04)
    assert (first.total_bytes, first.used_bytes, first.free_bytes) == (24 * GIB, GIB, 23 * GIB)
    assert (first.compute_capability, first.temperature_c, first.power_w) == ((8, 6), 41.0, 31.5)
    assert (second.index, second.free_bytes, second.problem, second.mig) == (1, 20 * GIB, "", False)
    assert nvml.open == 0, "NVML was left open"


@pytest.mark.parametrize(
    "error",
    (
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    ),
)
def test_without_a_driver_there_are_no_gpus(error):
    assert read_gpus(FakeNvml(LARGE, init=error)) == []


def test_without_the_python_package_there_are_no_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpus() == []


def test_what_may_not_be_read_is_named_and_the_rest_stays():
    denied = {"nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NO_PERMISSION}
    denied["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    (gpu,) = read_gpus(FakeNvml(FakeCard(fails=denied)))
    assert gpu.power_w is None and gpu.utilization == 0 and gpu.free_bytes == 23 * GIB
    assert "power: Insufficient Permissions" in gpu.problem and "utilization: Not Supported" in gpu.problem


def test_a_lost_card_keeps_its_number_and_is_never_chosen():
    lost = FakeCard(fails={"nvmlDeviceGetHandleByIndex": pynvml.NVML_ERROR_GPU_IS_LOST})
    gpus = read_gpus(FakeNvml(lost, SMALL))
    assert [g.index for g in gpus] == [0, 1] and "GPU is lost" in gpus[0].problem and gpus[0].total_bytes == 0
    assert [g.index for g in best_first(gpus)] == [1]
    unread = read_gpus(FakeNvml(FakeCard(fails={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION})))
    assert best_first(unread) == [] and "memory" in unread[0].problem


def test_a_gpu_that_is_split_shows_its_first_instance():
    instances = [FakeCard(name="NVIDIA A100 MIG 3g.40gb", total=40 * GIB, used=GIB, uuid="MIG-1")]
    instances[0].fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    gpus = read_gpus(FakeNvml(FakeCard(mig=instances), FakeCard(mig=[])))
    assert gpus[0].mig and gpus[0].total_bytes == 40 * GIB and gpus[0].uuid == "MIG-1"
    assert gpus[0].temperature_c == 41.0, "of the whole card"
    assert gpus[1].total_bytes == 0 and "no instance" in gpus[1].problem


@pytest.mark.parametrize(
    ("visible", "names"),
    (
        ("1", ["GPU-bbbb"]),
        ("2,0", ["GPU-cccc", "GPU-aaaa"]),
        ("GPU-bb", ["GPU-bbbb"]),
        ("1,7,0", ["GPU-bbbb"]),
        ("", []),
        ("-1", []),
        ("0,0", ["GPU-aaaa"]),
    ),
)
def test_numbers_are_those_that_cuda_gives(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus = read_gpus(FakeNvml(SMALL, LARGE, OLD))
    assert [g.uuid for g in gpus] == names and [g.index for g in gpus] == list(range(len(names)))


def test_the_best_gpu_is_the_compatible_one_with_most_free_memory():
    gpus = read_gpus(FakeNvml(SMALL, LARGE, OLD))
    assert [g.index for g in best_first(gpus)] == [1, 0]
    assert [g.index for g in best_first(gpus, free_bytes=15 * GIB)] == [1]
    assert [g.index for g in best_first(gpus, gpu_id=0)] == [0]
    assert best_first(gpus, free_bytes=15 * GIB, gpu_id=0) == []


def test_a_gpu_id_that_is_not_there_names_those_that_are():
    gpus = read_gpus(FakeNvml(SMALL, LARGE, OLD))
    assert gpu_of(gpus, 1).uuid == "GPU-bbbb"
    with pytest.raises(InvalidInput, match=r"0 to 2 \(0: NVIDIA GeForce RTX 3060, 12.9 GB; 1: NVIDIA A100") as refusal:
        gpu_of(gpus, 3)
    assert refusal.value.reason == "GPU_NOT_FOUND"
    with pytest.raises(InvalidInput, match="no NVIDIA GPU"):
        gpu_of([], 0)
    with pytest.raises(Unsupported, match=r"capability is 3.7, below 7.5"):
        gpu_of(gpus, 2)
