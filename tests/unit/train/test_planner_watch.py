"""Warnings before memory runs out, common GPUs, predicted time, and what a whole assessment says."""

import math

import pytest

from mistudio_core.errors import InvalidInput
from mistudio_core.gpus import read_gpus
from mistudio_train.assess import assess, smallest_card
from mistudio_train.cards import CARDS, tabulated_peak
from mistudio_train.config import TrainConfig
from mistudio_train.duration import SHARE, Speed, harvest_flops, predict, speed_of_gpu, step_flops
from mistudio_train.memory_plan import plan
from mistudio_train.memory_watch import MemoryReading, MemoryWatch, memory_warnings, read_memory, warning_share
from mistudio_train.plan_parts import SaeSize
from tests.support.fakenvml import GIB, FakeCard, FakeNvml
from tests.support.shapes import GPT2, PHI4

GB = 10**9
CONFIG = TrainConfig(model_name="m", layer_number=3)
PLAN = plan(GPT2, CONFIG)


def reading(free, held=0, total=10 * GB, **more):
    return MemoryReading(name="RAM", total_bytes=total, free_bytes=free, held_bytes=held, **more)


def test_nothing_is_said_while_all_is_well():
    assert memory_warnings([reading(GB, PLAN.host_bytes), reading(GB, on_gpu=True)], PLAN) == []


def test_a_memory_that_is_nearly_full_is_named_with_what_to_do():
    (text,) = memory_warnings([reading(int(0.4 * GB)), reading(GB)], PLAN)
    assert "RAM is nearly full: 0.4 of 10.0 GB" in text and "batch_size" in text
    assert memory_warnings([reading(int(0.4 * GB))], PLAN, share=0.01) == []


def test_a_job_beyond_its_plan_is_told():
    (text,) = memory_warnings([reading(5 * GB, int(1.2 * PLAN.host_bytes))], PLAN)
    assert "were planned" in text
    assert memory_warnings([reading(5 * GB, int(1.1 * PLAN.host_bytes))], PLAN) == []


def test_the_threshold_is_a_setting(monkeypatch):
    assert warning_share() == 0.05
    monkeypatch.setenv("MISTUDIO_MEMORY_WARNING_SHARE", "0.5")
    assert len(memory_warnings([reading(4 * GB)], PLAN)) == 1
    for bad in ("x", "1.5", "-1", "nan"):
        monkeypatch.setenv("MISTUDIO_MEMORY_WARNING_SHARE", bad)
        with pytest.raises(InvalidInput, match="MISTUDIO_MEMORY_WARNING_SHARE"):
            warning_share()


def test_a_warning_is_said_once_for_as_long_as_it_lasts(monkeypatch):
    free = [GB, GB // 10, GB // 20, GB, GB // 10]
    monkeypatch.setattr("mistudio_train.memory_watch.read_memory", lambda device: [reading(free.pop(0))])
    watch = MemoryWatch(PLAN, "cpu:0")
    assert [len(watch.new_warnings()) for _ in range(5)] == [0, 1, 0, 0, 1]


def test_the_memory_of_this_machine_is_read():
    (ram,) = read_memory("cpu:0")
    assert 0 < ram.free_bytes <= ram.total_bytes and 0 < ram.held_bytes < ram.total_bytes
    assert [r.name for r in read_memory("cuda:99")] == ["RAM"]


def test_products_are_counted_and_the_basis_is_said():
    sae = SaeSize(architecture="topk", d_in=10, d_out=10, d_sae=100, k=5)
    assert step_flops(sae) == 2 * 10 * 100 + 5 * 8 * 10
    dense = SaeSize(architecture="standard", d_in=10, d_out=10, d_sae=100, k=5)
    assert step_flops(dense) == 10 * 10 * 100
    work = PLAN.workload
    assert harvest_flops(work) == 4 * (2 * GPT2.linear_parameters + 4 * 512 * 768)
    speed = Speed(peak_flops=1e12, source="a table")
    time = predict(work, speed, token_budget=2_000_000)
    each = harvest_flops(work) + step_flops(work.saes[0])
    assert time.seconds_per_million_tokens == pytest.approx(1e6 * each / (SHARE * 1e12))
    assert time.seconds > 2 * time.seconds_per_million_tokens and "a table" in time.basis
    assert predict(work, speed).seconds is None


def test_cards_rise_in_memory_and_are_in_the_table_of_speeds():
    assert [c.gigabytes for c in CARDS] == [8, 12, 16, 24, 40, 48, 80, 141]
    assert all(tabulated_peak(f"NVIDIA {c.name}") == c.peak_flops for c in CARDS)
    assert tabulated_peak("NVIDIA GeForce RTX 4060 Ti") != tabulated_peak("NVIDIA GeForce RTX 4060")
    assert tabulated_peak("Voodoo 2") is None and speed_of_gpu("Voodoo 2") is None


PHI_RUN = TrainConfig(
    model_name="m", layer_number=16, architecture="topk", hidden_dim=16_384, k=64, dtype="bfloat16", token_budget=10**7
)


def test_an_assessment_names_the_gpu_to_take_and_what_each_lacks(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cards = [FakeCard(total=12 * GIB), FakeCard(total=24 * GIB, uuid="b"), FakeCard(uuid="c", capability=(3, 7))]
    gpus = read_gpus(FakeNvml(*cards, FakeCard(total=2 * GIB, uuid="d")))
    found = assess(PHI4, PHI_RUN, gpus=gpus, host_bytes=64 * GB)
    assert found.device == "gpu_1" and found.sufficient and found.changes == {}
    assert [v.sufficient for v in found.gpus] == [False, True, True, False]
    assert [v.recommended for v in found.gpus] == [False, True, False, False]
    assert found.gpus[0].message.startswith("fits with ") and "generation" in found.gpus[2].message
    assert found.gpus[3].message == "nothing makes the run fit"
    other = assess(PHI4, PHI_RUN, gpus=gpus, host_bytes=64 * GB, gpu_id=0)
    assert other.device == "gpu_0" and not other.sufficient and other.changes
    assert math.isfinite(found.time.seconds) and "RTX 3090" in found.time.basis


def test_without_a_gpu_the_run_is_planned_for_the_cpu_and_a_card_is_named():
    found = assess(PHI4, PHI_RUN, gpus=[], host_bytes=4 * GB)
    assert (found.device, found.sufficient, found.suggested) == ("cpu", False, None)
    assert "measured on this machine" in found.time.basis
    card = smallest_card(found)
    assert card is not None and card.gpu_bytes <= card.card.usable_bytes
    smaller = [c for c in found.cards if c.card.gigabytes < card.card.gigabytes]
    assert not any(c.sufficient for c in smaller)
    assert found.cards[-1].changes == "", "the largest takes the run as asked"
