"""Activations that an SAE must explain: figures for those that fit, reasons for those that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistudio_core.errors import InvalidInput
from mistudio_torch.formats import read_sae
from tests.support import saefiles as files
from tests.support.saefiles import OUT, D


def saved(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def test_an_sae_is_measured_on_the_activations_that_are_given(tmp_path: Path):
    formula, x = files.saelens(tmp_path, "transcoder"), files.rows(count=300)
    _, y = formula(x.astype(np.float64))
    noisy = (y + 0.1 * np.random.default_rng(0).standard_normal(y.shape)).astype(np.float32)
    given = saved(tmp_path / "x.npy", x)
    fit = read_sae(tmp_path, activations=given, targets=saved(tmp_path / "y.npy", noisy)).fit
    assert fit is not None
    expected = np.square(noisy - y).sum() / np.square(noisy - noisy.mean(0)).sum()
    assert fit.rows == 300 and fit.fvu == pytest.approx(expected, rel=1e-3)
    assert fit.l0 == pytest.approx((formula(x.astype(np.float64))[0] > 0).sum(1).mean())
    with pytest.raises(InvalidInput, match=r"targets.*as a second"):
        read_sae(tmp_path, activations=given)
    with pytest.raises(InvalidInput, match="as many rows"):
        read_sae(tmp_path, activations=given, targets=saved(tmp_path / "few.npy", noisy[:9]))
    with pytest.raises(InvalidInput, match=f"rows of {OUT} values"):
        read_sae(tmp_path, activations=given, targets=given)


def test_activations_of_another_place_are_refused_with_what_is_usually_wrong(tmp_path: Path):
    files.saelens(tmp_path, "standard")
    given = saved(tmp_path / "x.npy", files.rows())
    with pytest.raises(InvalidInput, match="another layer or hook") as refused:
        read_sae(tmp_path, activations=given)
    assert float(refused.value.facts["fvu"]) > 0.9
    assert read_sae(tmp_path, activations=given, max_fvu=1e9).fit is not None


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.zeros((5, D + 1), np.float32), f"rows of {D} values"),
        (np.zeros(D, np.float32), "two rows or more"),
        (np.zeros((5, D), np.int64), "floating-point"),
        (np.full((5, D), np.nan, np.float32), "finite numbers"),
        (np.array([{}], dtype=object), "numpy.save"),
    ],
)
def test_activations_that_are_none(values: np.ndarray, shown: str, tmp_path: Path):
    files.saelens(tmp_path, "standard")
    np.save(tmp_path / "x.npy", values, allow_pickle=True)
    with pytest.raises(InvalidInput, match=shown):
        read_sae(tmp_path, activations=tmp_path / "x.npy")
