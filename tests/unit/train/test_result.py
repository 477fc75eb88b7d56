"""Gates and the record of figures."""

import dataclasses

import pytest
from mistudio.train.v1 import training_pb2

from mistudio_torch.metrics import METRICS_VERSION, SaeMetrics, SpliceMetrics
from mistudio_train.convert import result_message
from mistudio_train.gates import quality_gates
from mistudio_train.result import CorpusStatistics, ModelInfo, Speed, TrainResult, training_stats

FAMILY = ("topk", "batchtopk", "matryoshka")
PENALISED = ("standard", "jumprelu", "gated")
GOOD = {
    "architecture": "topk",
    "hidden_dim": 1000,
    "explained_variance": 0.96,
    "density": 0.02,
    "dead_share": 0.01,
    "losses": (0.3, 0.05, 0.049),
}


def judged(**figures):
    return {gate.name: gate for gate in quality_gates(**(GOOD | figures))}


def test_what_is_good_passes_and_needs_no_remedy():
    gates = judged()
    assert list(gates) == ["reconstruction", "activation_rate", "convergence", "dead_features"]
    assert all(g.passed and not g.remedy and g.threshold for g in gates.values())


@pytest.mark.parametrize(
    ("name", "figure", "passes", "fails"),
    (
        ("reconstruction", "explained_variance", 0.95, 0.9499),
        ("activation_rate", "density", 0.01, 0.0099),
        ("activation_rate", "density", 0.05, 0.0501),
        ("dead_features", "dead_share", 0.1, 0.1001),
        ("convergence", "losses", (1.0, 0.951), (1.0, 0.949)),
        ("convergence", "losses", (1.0, 1.049), (1.0, 1.051)),
        ("convergence", "losses", (1.0, 0.0, 0.0), (0.5,)),
        ("convergence", "losses", (9.0, 1.0, 1.0), ()),
    ),
)
def test_bounds(name, figure, passes, fails):
    assert judged(**{figure: passes})[name].passed
    warned = judged(**{figure: fails})
    assert not warned[name].passed and warned[name].remedy
    assert all(gate.passed for gate in warned.values() if gate.name != name)


@pytest.mark.parametrize("architecture", (*FAMILY, *PENALISED))
@pytest.mark.parametrize("density", (0.001, 0.2))
def test_remedies_fit_the_architecture(architecture, density):
    gates = judged(architecture=architecture, density=density, explained_variance=0.5, dead_share=0.5, losses=(1, 0.5))
    text = " ".join(gate.remedy for gate in gates.values())
    assert ("sparsity_coeff" in text) == (architecture in PENALISED)
    assert (" k" in text) == (architecture in FAMILY)
    assert all(0 < len(gate.remedy) <= 500 and len(gate.threshold) <= 300 for gate in gates.values())


def test_a_remedy_names_values_that_pass():
    assert "Raise k to 31 to 153" in judged(hidden_dim=3072, density=8 / 3072)["activation_rate"].remedy
    narrower = judged(hidden_dim=3072, density=8 / 3072)["activation_rate"].remedy
    assert "hidden_dim to 160 to 800" in narrower and 0.01 <= 8 / 800 and 8 / 160 <= 0.05
    assert "Lower k to 1 to 3" in judged(hidden_dim=64, density=0.5)["activation_rate"].remedy
    assert "Lower sparsity_coeff" in judged(architecture="standard", density=0.001)["activation_rate"].remedy
    assert "Raise sparsity_coeff" in judged(architecture="standard", density=0.3)["activation_rate"].remedy


def test_convergence_says_which_way():
    assert "still falling" in judged(losses=(1.0, 0.5))["convergence"].remedy
    assert "learning_rate" in judged(losses=(0.5, 1.0))["convergence"].remedy
    short = judged(losses=(0.5,))["convergence"]
    assert "too short" in short.remedy and short.value == 1.0


def metrics(**changes):
    base = {
        "tokens": 500,
        "fvu": 0.2,
        "explained_variance": 0.8,
        "explained_variance_uncentred": 0.97,
        "cosine": 0.9,
        "norm_ratio": 0.85,
        "l0": 32.0,
        "l1": 41.5,
        "dead_features": 100,
        "active_features": 900,
        "dense_features": 3,
        "density": 0.032,
        "density_histogram": tuple(range(28)),
        "mean_activation": 0.04,
    }
    return SaeMetrics(**(base | changes))


def stats(splice, speed=None):
    return training_stats(
        metrics=metrics(),
        splice=splice,
        epoch_losses=[0.9, 0.302, 0.3, 0.301],
        losses=[0.31, 0.3],
        architecture="topk",
        hidden_dim=1000,
        tokens=40_000,
        seconds=8.0,
        metrics_version=METRICS_VERSION,
        deterministic=True,
        speed=speed,
    )


def test_figures_of_a_run():
    found = stats(SpliceMetrics.absent("bert predicts no next token"))
    assert (found.total_epochs, found.convergence_epoch, found.tokens_per_second) == (4, 2, 5000.0)
    assert found.final_loss == found.fvu == 0.2 and found.metrics_version == "2"
    assert found.ce_loss_recovered is found.kl_divergence is None and "bert" in found.splice.not_measured
    features = found.feature_statistics
    assert (features.total_features, features.dense_features, sum(features.density_histogram)) == (1000, 3, 378)
    gates = {gate.name: gate.value for gate in found.quality_gates}
    assert gates["dead_features"] == 0.1 and gates["activation_rate"] == 0.032


def test_every_figure_reaches_the_reply():
    splice = SpliceMetrics(tokens=9, ce_clean=1.0, ce_spliced=1.5, ce_zero_ablated=3.0, ce_mean_ablated=2.5)
    splice = dataclasses.replace(splice, ce_loss_recovered=0.75, ce_loss_recovered_mean=2 / 3, kl_divergence=0.4)
    found = stats(splice, Speed(matrix_peak_flops=2e11, matrix_peak_share=0.35))
    model = ModelInfo(
        **{f.name: f.type == "bool" or (0 if f.type == "int" else "x") for f in dataclasses.fields(ModelInfo)}
    )
    corpus = CorpusStatistics(**{f.name: "x" if f.type == "str" else 0 for f in dataclasses.fields(CorpusStatistics)})
    whole = {"feature_count": 1000, "model_info": model, "sae_sha256": "0" * 64, "corpus": corpus, "saes": ()}
    result = TrainResult(training_stats=found, **whole)
    sent = result_message(result).training_stats
    assert {f.name for f in training_pb2.TrainingStats.DESCRIPTOR.fields} == {f.name for f in dataclasses.fields(found)}
    for name in ("ce_loss_recovered", "kl_divergence", "l1", "norm_ratio", "matrix_peak_share", "matrix_peak_flops"):
        assert sent.HasField(name) and getattr(sent, name) == getattr(found, name)
    for field in dataclasses.fields(splice):
        assert getattr(sent.splice, field.name) == getattr(splice, field.name)
    assert list(sent.feature_statistics.density_histogram) == list(range(28))


def test_an_absent_figure_is_absent_in_the_reply():
    plain = dataclasses.asdict(SpliceMetrics.absent("too little memory"))
    sent = training_pb2.TrainingStats(splice=plain).splice
    assert sent.not_measured == "too little memory" and not sent.HasField("ce_clean")
