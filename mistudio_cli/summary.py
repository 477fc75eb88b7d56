"""Results for people: what a finished training, analysis or explanation run has to show.

Only formatting: every figure comes from the services and is defined in docs/metrics.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio_cli.output import count_text, facts_table, message_json, seconds_text, show, table

if TYPE_CHECKING:
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2
    from mistudio.train.v1 import train_service_pb2
    from rich.table import Table

    from mistudio_rpc.client import Client

BEST = 10


def show_training(result: train_service_pb2.GetTrainingResultResponse) -> None:
    """Figures, gates and files of a training run."""
    stats = result.training_stats
    facts = {
        "explained variance": f"{stats.explained_variance:.3f} (held-out text)",
        "L0": f"{stats.l0:.1f} features a token",
        "features": f"{result.feature_count} ({stats.feature_statistics.dead_features} dead on held-out text)",
        "tokens": f"{count_text(stats.tokens)} in {seconds_text(stats.training_time_seconds)}",
        "SAE": result.model_path,
        "activations": result.activations_path,
        "save it": f"mistudio export {result.job_id} --format safetensors",
    }
    if stats.HasField("ce_loss_recovered"):
        facts["loss recovered"] = f"{stats.ce_loss_recovered:.3f} (KL {stats.kl_divergence:.3f} nats a token)"
    show(facts_table(facts))
    if len(result.saes) > 1:
        columns = ("SAE", "explained variance", "L0", "dead", "note")
        show(table("SAEs", columns, [_sae_row(sae) for sae in result.saes], right=columns[1:4]))
    rows = [
        (g.name, f"{g.value:.3g}", g.threshold, "pass" if g.passed else "warn", "" if g.passed else g.remedy)
        for g in stats.quality_gates
    ]
    if rows:
        show(table("Quality gates", ("gate", "value", "passes at", "verdict", "remedy"), rows, right=("value",)))


def _sae_row(sae: train_service_pb2.SaeSummary) -> tuple[str, str, str, str, str]:
    """One SAE of several."""
    stats = sae.training_stats
    if sae.error:
        return sae.name, "", "", "", sae.error
    dead = str(stats.feature_statistics.dead_features)
    return sae.name, f"{stats.explained_variance:.3f}", f"{stats.l0:.1f}", dead, ""


def show_find(result: find_service_pb2.GetFindResultResponse) -> None:
    """Counts of an analysis."""
    tiers = ", ".join(f"{level.count} {level.name}" for level in result.quality_levels)
    facts = {
        "features": f"{result.total_features} ({result.live_features} live, {result.dead_features} dead)",
        "mean coherence": f"{result.mean_coherence:.3f}",
        "tiers": tiers,
        "time": seconds_text(result.processing_time_seconds),
        "analysis": result.feature_analysis_path,
        "save it": f"mistudio export {result.job_id} --format json",
    }
    show(facts_table(facts))


def show_explain(
    result: explain_service_pb2.GetExplainResultResponse, best: explain_service_pb2.ListExplanationsResponse
) -> None:
    """The best features with explanation and measured quality, and averages."""
    show(best_table(best))
    insights = result.summary_insights
    facts = {
        "features explained": f"{result.total_features_processed} by {result.engine}",
        "mean quality": f"{insights.explanation_quality_average:.3f}",
        "mean accuracy": f"{insights.accuracy_average:.3f}",
        **_people_and_costs(result),
        "report": result.report_path,
        "explanations": result.explanations_path,
        "save it": f"mistudio export {result.job_id} --format html",
    }
    show(facts_table(facts))


def _people_and_costs(result: explain_service_pb2.GetExplainResultResponse) -> dict[str, str]:
    """What waits for people and what the run cost, where there is something to say."""
    insights, costs = result.summary_insights, result.summary_insights.costs
    facts = {}
    if insights.failed:
        facts["failed"] = str(insights.failed)
    if insights.flagged:
        facts["flagged"] = f"{insights.flagged}: mistudio explanations queue {result.job_id}"
    if insights.reviewed:
        facts["reviewed"] = f"{insights.reviewed}, human accuracy {insights.human_accuracy:.3f}"
    if costs.openai_cost or costs.spent_usd:
        facts["cost"] = (
            f"${costs.local_cost:.4f} energy ({costs.energy_method}), ${costs.spent_usd:.4f} at providers; the same "
            f"tokens: ${costs.openai_cost:.4f} at OpenAI, ${costs.anthropic_cost:.4f} at Anthropic ({costs.prices})"
        )
    return facts


def show_result(client: Client, job_id: str) -> None:
    """What a completed job has to show, whichever service it is of; nothing for any other job."""
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2
    from mistudio.job.v1 import job_pb2, job_service_pb2
    from mistudio.train.v1 import train_service_pb2

    job = client.jobs.GetJob(job_service_pb2.GetJobRequest(job_id=job_id)).job
    if job.status != job_pb2.JOB_STATUS_COMPLETED:
        return
    if job.service == "train":
        show_training(client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id)))
    elif job.service == "find":
        show_find(client.find.GetFindResult(find_service_pb2.GetFindResultRequest(job_id=job_id)))
    elif job.service == "explain":
        page = explain_service_pb2.ListExplanationsRequest(job_id=job_id, page_size=BEST)
        result = client.explain.GetExplainResult(explain_service_pb2.GetExplainResultRequest(job_id=job_id))
        show_explain(result, client.explain.ListExplanations(page))


def best_table(best: explain_service_pb2.ListExplanationsResponse) -> Table:
    """One row an explanation, best first."""
    rows = [
        (
            e.feature_id,
            e.explanation,
            f"{e.explanation_quality:.2f}",
            f"{e.quality_parts.accuracy:.2f}",
            f"{e.original_coherence:.2f}",
        )
        for e in best.explanations
    ]
    columns = ("feature", "explanation", "quality", "accuracy", "coherence")
    return table(f"The {len(rows)} best features", columns, rows, right=("feature", *columns[2:]))


def best_json(best: explain_service_pb2.ListExplanationsResponse) -> list[dict[str, object]]:
    """The same as JSON."""
    return [message_json(e) for e in best.explanations]
