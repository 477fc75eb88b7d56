"""The memory plan: its parts, its peak, what it proposes and what it refuses; numbers checked by hand."""

from dataclasses import replace

import pytest

from mistudio_core.errors import InvalidInput, LimitReached
from mistudio_train import planner
from mistudio_train.config import TrainConfig
from mistudio_train.memory_plan import Room, Settings, asked_of, plan
from mistudio_train.plan_parts import NF4_BYTES, PHASES, Part, SaeSize
from mistudio_train.planner import candidates, check_memory, fit, in_words, proposal, refusal, smallest
from mistudio_train.variants import Sweep
from tests.support.shapes import GPT2, PHI4

GB = 10**9
RUN = TrainConfig(model_name="m", layer_number=16, architecture="topk", hidden_dim=16_384, k=64)


def part(planned, name):
    nothing = Part(name=name, host_bytes=0, gpu_bytes=0, phases=())
    return next((p for p in planned.parts if p.name == name), nothing)


def on_gpu(precision, batch=4, length=512, *, aside=False):
    settings = Settings(batch_size=batch, max_sequence_length=length, precision=precision, embeddings_on_cpu=aside)
    return plan(PHI4, RUN, on_gpu=True, settings=settings)


def test_phi_4_cut_at_layer_16_in_4_bits_is_at_most_15_percent_of_the_model_in_16_bits():
    whole = 2 * PHI4.parameters
    assert whole == 29_319_014_400
    four_bit, aside = on_gpu("nf4"), on_gpu("nf4", aside=True)
    assert four_bit.model_bytes <= 0.15 * whole
    assert aside.model_bytes <= 0.12 * whole
    assert part(aside, "embeddings on the CPU").host_bytes == 2 * PHI4.vocab_size * PHI4.hidden_size
    kept = 17 * PHI4.linear_parameters * NF4_BYTES + 17 * 2 * PHI4.hidden_size * 2
    assert part(four_bit, "model blocks").gpu_bytes == pytest.approx(kept, rel=1e-6)
    assert on_gpu("bfloat16").model_bytes == 2 * (PHI4.parameters_up_to(16)) < 0.45 * whole


def test_an_sae_holds_its_weights_gradients_and_two_moments_in_float32():
    planned = plan(GPT2, TrainConfig(model_name="m", layer_number=3, hidden_dim=4096))
    weights = 4 * (4096 * (2 * 768 + 1) + 768)
    assert part(planned, "SAE weights").host_bytes == part(planned, "gradients").host_bytes == weights
    assert part(planned, "optimiser moments").host_bytes == 2 * weights
    assert "train" not in part(planned, "finished SAEs").phases


def test_the_saes_of_a_sweep_are_held_together_and_step_one_after_the_other():
    one = plan(GPT2, TrainConfig(model_name="m", layer_number=3, hidden_dim=4096, architecture="topk"))
    sweep = Sweep(layers=(3, 7), widths=(1024, 4096), seeds=(0, 1))
    many = plan(GPT2, TrainConfig(model_name="m", architecture="topk", sweep=sweep))
    assert len(many.workload.saes) == 8 and many.workload.layer == 7
    both = sum(
        part(plan(GPT2, TrainConfig(model_name="m", hidden_dim=w)), "SAE weights").host_bytes for w in (1024, 4096)
    )
    assert part(many, "SAE weights").host_bytes == 4 * both
    assert part(many, "optimiser moments").host_bytes == 8 * both
    assert part(many, "gradients of a step").host_bytes == part(one, "gradients of a step").host_bytes
    assert part(many, "activations of a block").host_bytes == 2 * part(one, "activations of a block").host_bytes
    assert part(many, "block, normalised").host_bytes == part(one, "block, normalised").host_bytes


def test_a_transcoder_reads_two_hooks_and_a_module_s_path_says_how_deep_it_is():
    twice = plan(GPT2, TrainConfig(model_name="m", hook="resid_pre", output_hook="mlp_out", layer_number=5))
    assert (twice.workload.hooks, twice.workload.layer) == (2, 5)
    deep = plan(GPT2, TrainConfig(model_name="m", hook="h.9.mlp.c_fc"))
    assert deep.workload.layer == 9
    assert plan(GPT2, TrainConfig(model_name="m", hook="ln_f")).workload.layer == 11, "unknown: all of it"


def test_every_process_holds_everything():
    alone, four = (plan(GPT2, TrainConfig(model_name="m", processes=n)) for n in (1, 4))
    shared = part(four, "exchange between processes").host_bytes if four.peak_phase == "train" else 0
    assert four.host_bytes - shared == pytest.approx(4 * alone.in_phase(four.peak_phase)[0])
    assert part(alone, "exchange between processes").host_bytes == 0


def test_the_whole_model_for_next_token_figures_is_shown_and_counts_for_no_peak():
    planned = plan(GPT2, TrainConfig(model_name="m", layer_number=0, hidden_dim=64))
    assert part(planned, "whole model (next-token figures)").host_bytes == 4 * GPT2.parameters
    without = plan(GPT2, TrainConfig(model_name="m", layer_number=0, hidden_dim=64, splice_tokens=0))
    assert planned.host_bytes == without.host_bytes


def test_constants_are_those_of_the_code_that_they_stand_for():
    from mistudio_core.hostmemory import has_fast_bfloat16
    from mistudio_torch import encoding, tokens
    from mistudio_torch.sae import SaeShape, base, make_sae, sparse
    from mistudio_train import plan_parts

    assert plan_parts.SLICE_BYTES == sparse._SLICE_BYTES and plan_parts.CPU_TOKENS == tokens.CPU_TOKENS
    assert plan_parts.EVALUATE_ROWS == encoding.ENCODE_TOKENS and plan_parts.TOP_K_FAMILY == base.TOP_K_FAMILY
    assert set(plan_parts.DENSE_ARRAYS) == set(plan_parts.ROW_ARRAYS) == set(base.PENALISED)
    assert has_fast_bfloat16() == sparse.has_fast_bfloat16()
    for architecture in (*base.TOP_K_FAMILY, *base.PENALISED):
        sae = make_sae(SaeShape(architecture=architecture, d_in=24, d_sae=64, k=4))
        size = SaeSize(architecture=architecture, d_in=24, d_out=24, d_sae=64, k=4)
        assert size.weights == sum(4 * p.numel() for p in sae.parameters()), architecture
    assert plan_parts.GROUPS["matryoshka"] == len(
        make_sae(SaeShape(architecture="matryoshka", d_in=2, d_sae=64)).group_ends
    )


def test_the_peak_is_the_largest_phase_not_the_sum_of_everything():
    planned = plan(GPT2, TrainConfig(model_name="m", layer_number=3, hidden_dim=4096))
    phases = {phase: planned.in_phase(phase)[0] for phase in PHASES}
    assert planned.host_bytes == max(phases.values()) == phases[planned.peak_phase]
    assert planned.host_bytes < sum(p.host_bytes for p in planned.parts)
    assert planned.gpu_bytes == 0 and phases["load"] < phases["train"]


def test_only_blocks_up_to_the_layer_count():
    early, late = (plan(GPT2, TrainConfig(model_name="m", layer_number=n)).model_bytes for n in (2, 8))
    assert late - early == 6 * GPT2.block_parameters * 4


@pytest.mark.parametrize(("architecture", "grows"), (("topk", False), ("standard", True)))
def test_only_dense_architectures_hold_batch_times_width(architecture, grows):
    def step(width):
        config = TrainConfig(model_name="m", layer_number=3, architecture=architecture, hidden_dim=width)
        return part(plan(GPT2, config), "step").host_bytes

    assert (step(32_768) - step(16_384) >= 4 * 4096 * 16_384) is grows


def test_on_a_gpu_the_host_holds_blocks_of_activations_and_nothing_of_the_model():
    planned = on_gpu("bfloat16")
    assert part(planned, "activations of a block").gpu_bytes == 0
    assert all(part(planned, n).host_bytes == 0 for n in ("model blocks", "embeddings", "SAE weights", "step"))
    assert planned.gpu_bytes > planned.model_bytes + 4 * part(planned, "SAE weights").gpu_bytes


def test_a_model_without_headers_is_planned_from_its_config():
    known = plan(PHI4, RUN).model_bytes
    unknown = replace(PHI4, block_parameters=0, other_parameters=0, linear_parameters=0, embedding_parameters=0)
    assert plan(unknown, RUN).model_bytes == pytest.approx(known, rel=0.01)


def test_what_changes_least_is_tried_first():
    asked = Settings(batch_size=6, max_sequence_length=100, precision="bfloat16")
    found = [(s.max_sequence_length, s.precision, s.batch_size) for s in candidates(asked)]
    assert found[:5] == [(100, "bfloat16", b) for b in (6, 4, 2, 1)] + [(100, "int8", 6)]
    assert found[-1] == (64, "nf4", 1) and len(found) == len(set(found)) == 2 * 3 * 4
    fixed = frozenset({"batch_size", "dtype", "max_sequence_length"})
    assert list(candidates(asked, fixed=fixed)) == [asked]


def test_the_search_finds_the_first_that_fits_and_is_the_same_each_time():
    plenty, tight = (Room(name="g", host_bytes=64 * GB, gpu_bytes=n) for n in (80 * GB, 9 * GB))
    assert fit(PHI4, RUN, plenty)[0] == asked_of(PHI4, RUN, on_gpu=True)
    settings, planned = fit(PHI4, RUN, tight)
    assert settings.max_sequence_length == 512 and planned.gpu_bytes <= 9 * GB
    earlier = []
    for tried in candidates(asked_of(PHI4, RUN, on_gpu=True)):
        if tried == settings:
            break
        earlier.append(plan(PHI4, RUN, on_gpu=True, settings=tried).gpu_bytes)
    assert earlier and min(earlier) > 9 * GB
    assert fit(PHI4, RUN, tight) == (settings, planned)
    assert fit(PHI4, RUN, Room(name="g", host_bytes=64 * GB, gpu_bytes=GB)) is None


def test_a_refusal_says_required_available_and_what_fits():
    room = Room(name="gpu_0 (NVIDIA L4)", host_bytes=64 * GB, gpu_bytes=12 * GB)
    planned = plan(PHI4, RUN, on_gpu=True)
    error = refusal(PHI4, RUN, planned, room)
    assert error.reason == "INSUFFICIENT_MEMORY"
    assert f"Required: {planned.gpu_bytes / GB:.1f} GB, available: 12.0 GB" in error.message
    assert (
        f"It fits with {in_words(fit(PHI4, RUN, room)[0].changes(asked_of(PHI4, RUN, on_gpu=True)))}." in error.message
    )
    assert float(error.facts["required_gb"]) == round(planned.gpu_bytes / GB, 1)
    nothing = proposal(PHI4, RUN, Room(name="g", host_bytes=64 * GB, gpu_bytes=GB))
    assert "earlier layer" in nothing and f"{smallest(PHI4, RUN, on_gpu=True).gpu_bytes / GB:.1f} GB" in nothing
    short = refusal(PHI4, RUN, planned, Room(name="gpu_0", host_bytes=GB, gpu_bytes=80 * GB))
    assert "on the host" in short.message


def test_a_job_counts_what_it_holds_already_as_free(monkeypatch):
    config = TrainConfig(model_name="m", layer_number=3)
    needed = plan(GPT2, config).host_bytes
    monkeypatch.setattr("mistudio_train.memory_plan.available_bytes", lambda: needed - 500)
    monkeypatch.setattr(planner, "resident_bytes", lambda: 500)
    assert check_memory(GPT2, config).host_bytes == needed
    monkeypatch.setattr(planner, "resident_bytes", lambda: 499)
    with pytest.raises(LimitReached, match="RAM"):
        check_memory(GPT2, config)
    monkeypatch.setattr("mistudio_train.memory_plan.available_bytes", lambda: 64 * GB)
    with pytest.raises(LimitReached, match="gpu_7"):  # a device whose memory cannot be read has none
        check_memory(GPT2, config, "cuda:7")


def test_a_length_beyond_the_model_is_refused():
    with pytest.raises(InvalidInput, match="8 to 1024"):
        plan(GPT2, TrainConfig(model_name="m", max_sequence_length=2048))
