"""Names of SAEs that no job here trained: which are hub names, which are artifacts, what is refused."""

from __future__ import annotations

import pytest

from mistudio_core.errors import Forbidden, InvalidInput, NotFound
from mistudio_core.secret import Secret
from mistudio_find import imported_source
from tests.support import fakehub


@pytest.mark.parametrize(
    ("uri", "repo", "revision", "folder"),
    [
        ("hf:a/b", "a/b", "", ""),
        ("hf:a/b@main", "a/b", "main", ""),
        ("hf:a/b@0f3c/layer_20/width_16k/average_l0_71", "a/b", "0f3c", "layer_20/width_16k/average_l0_71"),
        ("hf:a/b/blocks.0.hook_resid_pre/", "a/b", "", "blocks.0.hook_resid_pre"),
        ("hf:a/b/layer_20/params.npz", "a/b", "", "layer_20"),
        ("hf:a/b/sae_weights.safetensors", "a/b", "", ""),
    ],
)
def test_a_hub_name_in_its_parts(uri, repo, revision, folder):
    found = imported_source.parse_hub(uri)
    assert (found.repo, found.revision, found.folder) == (repo, revision, folder)
    assert imported_source.parse_hub(found.uri) == found and imported_source.is_hub(uri)


@pytest.mark.parametrize("uri", ["hf:a", "hf:a/b/../c", "hf:a/b//c", "hf:../b/c", "hf:a/b@x y", "hf:a/b/c?x=1", "hf:"])
def test_what_is_no_hub_name_is_refused(uri):
    with pytest.raises(InvalidInput, match="sae_uri"):
        imported_source.parse_hub(uri)


def test_what_is_an_artifact():
    job = "train_20250101_000000_00000000"
    assert imported_source.is_artifact(f"/data/models/{job}/sae")
    assert imported_source.is_artifact(f"/data/models/{job}/layer3_width64/sae")
    for uri in (f"/data/models/{job}/codes", "/data/models/mine/sae", f"/data/activations/{job}/sae", "mine"):
        assert not imported_source.is_artifact(uri)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories with an SAE in a folder, with a pickle alone, and one that wants a token."""
    for name in ("open", "pickled"):
        (tmp_path / name / "layer_1").mkdir(parents=True)
    (tmp_path / "open" / "layer_1" / "params.npz").write_bytes(b"PK")
    (tmp_path / "open" / "layer_1" / "cfg.json").write_text("{}")
    (tmp_path / "open" / "layer_1" / "evil.pt").write_bytes(b"\x80\x02never fetched")
    (tmp_path / "pickled" / "layer_1" / "ae.pt").write_bytes(b"\x80\x02never fetched")
    folders = {"a/open": tmp_path / "open", "a/pickled": tmp_path / "pickled", "a/gated": tmp_path / "open"}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))  # it is set on import
    with fakehub.serve(folders, gated={"a/gated": "hf_good"}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_a_hub_folder_is_pinned_and_fetched_without_pickles(hub):
    pinned = imported_source.pinned("hf:a/open/layer_1", None)
    assert pinned == f"hf:a/open@{fakehub.COMMIT}/layer_1"
    folder = imported_source.fetched(pinned, None, lambda: None)
    assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "params.npz"]
    assert not hub.served("evil.pt")


def test_hub_folders_that_cannot_be_used_say_why(hub):
    with pytest.raises(InvalidInput, match="layer_1"):
        imported_source.pinned("hf:a/open", None)
    with pytest.raises(InvalidInput, match="mistudio sae import") as pickles:
        imported_source.pinned("hf:a/pickled/layer_1", None)
    assert pickles.value.reason == "MODEL_UNSAFE_FORMAT" and not hub.served("ae.pt")
    with pytest.raises(NotFound):
        imported_source.pinned("hf:a/absent/layer_1", None)
    with pytest.raises(Forbidden):
        imported_source.pinned("hf:a/gated/layer_1", None)
    assert imported_source.pinned("hf:a/gated/layer_1", Secret("hf_good")).endswith("/layer_1")
