"""CheckMemory, ValidateModel, GetGpuStatus, WatchGpu and the check at a start, over gRPC, with GPUs stood in for."""

from __future__ import annotations

import shutil

import grpc.aio
import pytest
from mistudio.train.v1 import train_service_pb2 as train
from mistudio.train.v1 import training_pb2

from mistudio_core import hostmemory
from mistudio_core.errors import InvalidInput, LimitReached, Unavailable, Unsupported
from mistudio_rpc.channel import open_channel
from mistudio_rpc.contract import installed
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.json_out import to_json
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.server import ControlServer, ServerConfig, running
from mistudio_rpc.status import from_rpc_error
from mistudio_train.convert_memory import shape_of
from mistudio_train.service import TrainServicer
from tests.support import fakehub, tinymodels
from tests.support.fakenvml import GIB, FakeCard, FakeNvml
from tests.support.shapes import PHI4, phi4_repository

SERVICE = "mistudio.train.v1.TrainService"
PHI_RUN = {"architecture": 2, "hidden_dim": 16_384, "layer_number": 16, "token_budget": 10_000_000}


class Train:
    """Calls Train's RPCs as any client would, and raises what the server raised."""

    def __init__(self, channel: grpc.aio.Channel, token: str, nvml: FakeNvml, server: ControlServer) -> None:
        self.channel, self.nvml, self.server = channel, nvml, server
        self.metadata = (("authorization", f"Bearer {token}"),)

    async def __call__(self, name: str, request):
        method = installed().methods[f"/{SERVICE}/{name}"]
        call = self.channel.unary_unary(
            f"/{SERVICE}/{name}", method.request_class.SerializeToString, method.response_class.FromString
        )
        try:
            return await call(request, timeout=30, metadata=self.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def watch(self, samples: int):
        call = self.channel.unary_stream(
            f"/{SERVICE}/WatchGpu", train.WatchGpuRequest.SerializeToString, train.WatchGpuResponse.FromString
        )(train.WatchGpuRequest(interval_seconds=0.1), timeout=30, metadata=self.metadata)
        found = []
        async for sample in call:
            found.append(sample.status)
            if len(found) == samples:
                break
        call.cancel()
        return found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    tiny = tinymodels.make(tmp_path / "tiny", "llama")
    big = tinymodels.make(tmp_path / "big", "llama")
    with (big / "model.safetensors").open("r+b") as weights:
        weights.truncate(50_000_000)  # its header is as before
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(tiny / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"never opened")
    folders = {"a/tiny": tiny, "a/big": big, "a/gated": tiny, "a/pickled": pickled}
    folders["a/phi4"] = phi4_repository(tmp_path / "phi4")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with fakehub.serve(folders, gated={"a/gated": "hf_good"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
async def service(home, hub, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml()
    entry = ServiceEntry(name="train", grpc_service=SERVICE, servicer=TrainServicer, worker="nobody:run")
    config = ServerConfig(home=home, devices=DevicePool(nvml=nvml))
    async with running(config, [entry]) as server, open_channel(home.control_target) as channel:
        yield Train(channel, home.token().reveal(), nvml, server)


def check(**fields) -> train.CheckMemoryRequest:
    return train.CheckMemoryRequest(**{"model_name": "a/tiny", **fields})


def phi(**fields) -> train.CheckMemoryRequest:
    return check(model_name="a/gated", shape=shape_of(PHI4), **{**PHI_RUN, **fields})


async def test_a_run_is_planned_by_part_for_this_machine(service):
    reply = await service("CheckMemory", check(layer_number=0, hidden_dim=64))
    plan = reply.plan
    assert (plan.device, plan.layer_number, plan.precision, plan.shape_from) == ("cpu", 0, "float32", "model")
    in_peak = [p.host_bytes for p in plan.parts if plan.peak_phase in p.phases]
    assert sum(in_peak) == plan.host_bytes and plan.gpu_bytes == 0
    found = reply.memory_check
    assert found.sufficient and found.required_gb == round(plan.host_bytes / 1e9, 1) <= found.available_gb
    assert not found.recommendations.is_large_model and reply.optimization_suggestions.batch_size == 16
    assert reply.optimization_suggestions.max_sequence_length == 32, "the model's own limit"
    assert all(c.sufficient for c in reply.cards) and reply.time.seconds_per_million_tokens > 0
    assert not reply.time.HasField("seconds")


async def test_the_run_s_parameters_change_the_plan(service):
    async def host_bytes(**fields):
        return (await service("CheckMemory", check(**fields))).plan.host_bytes

    usual = await host_bytes()
    assert await host_bytes(hidden_dim=65_536) > usual
    assert await host_bytes(sae_batch_tokens=65_536) > usual
    assert await host_bytes(architecture=2, k=8) < usual
    assert await host_bytes(processes=2) > 1.9 * usual
    sweep = train.Sweep(layers=[0, 2], widths=[2048, 4096])
    assert await host_bytes(architecture=2, sweep=sweep) > await host_bytes(architecture=2, hidden_dim=4096)
    assert (await service("CheckMemory", check(hook_name="blocks.2.hook_mlp_out"))).plan.layer_number == 2
    halved = await service("CheckMemory", check(enable_4bit=True))
    assert (
        halved.plan.precision == "nf4"
        and halved.plan.model_bytes < (await service("CheckMemory", check())).plan.model_bytes
    )
    timed = await service("CheckMemory", check(token_budget=1000))
    assert timed.time.seconds > 0
    for bad, error in (
        ({"layer_number": 3}, "LAYER_OUT_OF_RANGE"),
        ({"k": 8}, "UNSUPPORTED"),
        ({"max_sequence_length": 64}, "INVALID_FIELD"),
        ({"gpu_id": 0}, "GPU_NOT_FOUND"),
        ({"hidden_dim": 1}, "INVALID_FIELD"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            await service("CheckMemory", check(**bad))
        assert refusal.value.reason == error, bad


async def test_a_model_out_of_reach_is_planned_from_the_given_shape(service, hub):
    reply = await service("CheckMemory", phi())
    assert reply.plan.shape_from == "request" and reply.plan.model_bytes_whole == 2 * PHI4.parameters
    assert reply.memory_check.recommendations.is_large_model
    hub.fail_with = 500
    assert (await service("CheckMemory", phi())).plan == reply.plan
    with pytest.raises(Unavailable):
        await service("CheckMemory", check())


async def test_each_gpu_gets_its_verdict(service):
    service.nvml.cards = [FakeCard(total=12 * GIB, used=0), FakeCard(total=24 * GIB, used=0, uuid="GPU-b")]
    reply = await service("CheckMemory", phi())
    gpus = to_json(reply)["gpu_compatibility"]
    assert {name: gpus[name]["recommended"] for name in gpus} == {"gpu_0": False, "gpu_1": True}
    assert gpus["gpu_1"]["memory_sufficient"] and not gpus["gpu_0"]["memory_sufficient"]
    assert gpus["gpu_0"]["message"].startswith("fits with")
    assert reply.plan.device == "gpu_1" and reply.memory_check.available_gb == round(24 * GIB / 1e9, 1)
    assert "RTX 3090" in reply.time.basis
    small = await service("CheckMemory", phi(gpu_id=0))
    assert not small.memory_check.sufficient and small.plan.device == "gpu_0"
    assert small.optimization_suggestions.summary in gpus["gpu_0"]["message"]
    recommended = small.memory_check.recommendations
    assert recommended.min_gpu_memory_gb < small.memory_check.required_gb < recommended.recommended_gpu_memory_gb


async def test_validation_reads_config_and_headers_alone(service, hub):
    reply = await service("ValidateModel", train.ValidateModelRequest(model_name="a/big"))
    assert reply.valid and reply.accessible and reply.model_info.total_layers == 3
    assert 0 < reply.memory_requirements.minimum_gb <= reply.memory_requirements.recommended_gb
    assert hub.sent_bytes < 1_000_000 < 50_000_000
    assert not hub.served(".bin") and not hub.served("tokenizer.json")
    refused = await service("ValidateModel", train.ValidateModelRequest(model_name="a/gated"))
    assert not refused.valid and refused.requires_token and refused.reason == "MODEL_GATED"
    opened = train.ValidateModelRequest(model_name="a/gated", huggingface_token="hf_good")
    assert (await service("ValidateModel", opened)).valid
    pickled = await service("ValidateModel", train.ValidateModelRequest(model_name="a/pickled"))
    assert pickled.reason == "MODEL_UNSAFE_FORMAT" and "mistudio models convert" in pickled.message


async def test_gpu_status_and_its_watch(service, home):
    assert to_json(await service("GetGpuStatus", train.GetGpuStatusRequest()))["device_count"] == 0
    card = FakeCard()
    service.nvml.cards = [card, FakeCard(name="NVIDIA A100-SXM4-80GB", total=80 * GIB, uuid="GPU-b")]
    status = to_json(await service("GetGpuStatus", train.GetGpuStatusRequest()))
    assert (status["cuda_available"], status["device_count"], status["current_device"]) == (True, 2, 1)
    first = status["gpus"]["0"]
    assert (first["name"], first["utilization"], first["free_gb"]) == ("NVIDIA GeForce RTX 3090", 0.04, 24.7)
    assert first["memory_free"] == first["memory_total"] - first["memory_allocated"] == 23 * GIB
    assert (first["compute_capability"], first["temperature_c"], first["power_w"]) == ("8.6", 41.0, 31.5)
    lease = DevicePool(nvml=service.nvml)._lock("cuda:1", "cuda-GPU-b")
    assert lease is not None
    samples = await service.watch(2)
    lease.release()
    assert all(s.gpus["1"].in_use and not s.gpus["0"].in_use and s.current_device == 0 for s in samples)


async def start(service, **fields):
    request = train.StartTrainingRequest(**{"model_name": "a/tiny", "corpus_file": "c.txt", **fields})
    return await service("StartTraining", request)


@pytest.fixture
async def corpus(service):
    """A corpus named c.txt."""
    call = service.channel.stream_unary(
        f"/{SERVICE}/UploadCorpus", train.UploadCorpusRequest.SerializeToString, train.UploadCorpusResponse.FromString
    )
    parts = [train.UploadCorpusRequest(header=train.UploadHeader(filename="c.txt")), train.UploadCorpusRequest()]
    parts[1].chunk.data = b"the cat sat\n" * 20
    await call(iter(parts), timeout=30, metadata=service.metadata)


@pytest.mark.usefixtures("corpus")
async def test_a_start_that_can_never_fit_is_refused_with_what_would(service, monkeypatch):
    monkeypatch.setattr(hostmemory, "available_bytes", lambda: 1_500_000_000)
    monkeypatch.setattr(hostmemory, "total_bytes", lambda: 1_500_000_000)
    with pytest.raises(LimitReached, match=r"Required: \d+\.\d GB, available: 1.5 GB") as refusal:
        await start(service, hidden_dim=1_048_576, architecture=1)
    assert refusal.value.reason == "INSUFFICIENT_MEMORY" and "lower hidden_dim" in refusal.value.message
    reply = await start(service, hidden_dim=64, architecture=2)
    assert reply.memory_check.startswith("passed") and "neither read nor loaded" in reply.optimizations_applied
    assert "to fit" not in reply.optimizations_applied, "nothing was changed"


@pytest.mark.usefixtures("corpus")
async def test_what_the_caller_left_open_is_settled_and_told_and_what_was_chosen_is_kept(service):
    service.nvml.cards = [FakeCard(total=int(17.2 * GIB), used=0)]
    run = {"model_name": "a/phi4", "layer_number": 16, "architecture": 2, "hidden_dim": 16_384, "dtype": 2}
    reply = await start(service, **run, sae_batch_tokens=4096)
    assert "batch_size" in reply.optimizations_applied and "to fit in gpu_0" in reply.optimizations_applied
    assert reply.memory_check.startswith("passed") and "gpu_0" in reply.memory_check
    with pytest.raises(LimitReached, match="It fits with") as refusal:
        await start(service, **run, batch_size=16, max_sequence_length=512)
    assert "batch_size" in refusal.value.message, "it is proposed, not done"
    job = await service.server.runtime.queries.get(reply.job_id)
    kept = train.StartTrainingRequest.FromString(job.request)
    assert kept.batch_size < 16 and f"batch_size {kept.batch_size}" in reply.optimizations_applied
    assert kept.dtype == 2 and not kept.enable_4bit, "what was chosen"
    planned = float(reply.memory_check.removeprefix("passed: ").split(" GB")[0])
    assert job.device_request.min_gpu_memory_gb == pytest.approx(planned, abs=0.05), "placed by what fits"
    del run["dtype"]
    service.nvml.cards = [FakeCard(total=9 * GIB, used=0)]
    small = await start(service, **run)
    stored = (await service.server.runtime.queries.get(small.job_id)).request
    assert "enable_4bit true" in small.optimizations_applied
    assert train.StartTrainingRequest.FromString(stored).enable_4bit
    service.nvml.cards = [FakeCard(capability=(3, 7))]
    with pytest.raises(Unsupported, match="capability"):
        await start(service, gpu_id=0)


async def test_a_shape_that_lies_is_refused(service):
    with pytest.raises(InvalidInput):
        await service("CheckMemory", check(model_name="a/gated", shape=training_pb2.ModelShape(total_layers=-1)))
