import pytest

from tests.support import tinymodels


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for kind in ("bert", "llama", "gpt2", "gpt_neox"):
        tinymodels.make(root / kind, kind)
    return root
