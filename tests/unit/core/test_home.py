"""Where an installation keeps things when some of them are mounted from outside or shared by several homes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_core import ids
from mistudio_core.artifacts import ArtifactStore
from mistudio_core.home import Home


def test_everything_is_in_the_home_unless_a_variable_says(home: Home):
    assert home.artifacts == home.root / "artifacts"
    assert home.engines_file == home.root / "engines.toml"
    assert home.token_file == home.secrets / "token"
    assert home.area(["train"]) == ""


def test_what_is_mounted_is_named_by_variables(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = {
        "MISTUDIO_ARTIFACTS": "a",
        "MISTUDIO_ENGINES_FILE": "e",
        "MISTUDIO_TOKEN_FILE": "t",
        "MISTUDIO_MODEL_ROOT": "m",
    }
    for variable, name in named.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    found = (home.artifacts, home.engines_file, home.token_file, home.models)
    assert found == tuple(tmp_path / name for name in named.values())
    assert home.area(["train", "find"]) == "find-train"


def test_homes_that_share_a_folder_write_and_clean_areas_of_their_own(tmp_path: Path):
    one, two = ArtifactStore(tmp_path, "train"), ArtifactStore(tmp_path, "find")
    records = {}
    for store in (one, two):
        writer = store.stage("/data/samples/x", "corpus")
        writer.write("x.txt", b"text\n")
        records[store.area] = writer.seal()
    assert one.own_folders() == {records["train"].folder}
    staged = two.stage("/data/samples/y", "corpus")
    one.clear_staging()
    assert staged.folder.is_dir()
    assert one.open(records["find"]).read_bytes("x.txt") == b"text\n"


@pytest.mark.parametrize(
    ("uri", "owner", "job"),
    [
        ("/data/models/train_20250725_224918_198212ab/sae", "train", "train_20250725_224918_198212ab"),
        ("data/find/find_20250726_151321_d9675dce/analysis", "find", "find_20250726_151321_d9675dce"),
        ("/data/samples/my.txt", "train", ""),
        ("/data/samples/find_20250726_151321_d9675dce.txt", "train", "find_20250726_151321_d9675dce"),
        ("/data/elsewhere", "", ""),
    ],
)
def test_a_uri_names_who_keeps_it(uri: str, owner: str, job: str):
    assert ids.owner_of_uri(uri) == owner
    assert ids.job_of_uri(uri) == job
