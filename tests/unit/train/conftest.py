import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "torch"))
from mistudio_core.jobs.local import LocalContext
from tests.support import tinymodels  # after the path

TEXT = "\n".join(tinymodels.sentences(120))


@pytest.fixture(scope="session")
def model_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tinymodels.make(root / "bert", "bert")
    tinymodels.make(root / "gpt2", "gpt2")
    return root


@pytest.fixture
def make_context(tmp_path):
    def make(text=TEXT, folder="job", cls=LocalContext):
        context = cls(tmp_path / folder)
        writer = context.store.stage("/data/corpora/c", "corpus")
        writer.write("corpus.txt", text.encode() if isinstance(text, str) else text)
        context._inputs["corpus"] = context.store.open(writer.seal())
        return context

    return make
