"""Explains with a language model: evidence becomes a prompt, the engine's answer a Draft.

Owns the way from one to the other; what is asked stands in prompting.py, how the engine is used in policy/.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from mistudio_core.errors import Unsupported
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import ChatRequest, Engine, Failure, Reply
from mistudio_explain.engines.counting import counter_of, within
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.explainer import Draft
from mistudio_explain.few_shot import FewShot
from mistudio_explain.prompting import Prompt, build_prompt, read_answer

PairOf = Callable[[FeatureEvidence], FeatureEvidence | None]
"""The similar feature that contrast_pair shows beside a feature; None for none."""


def readable(text: str) -> bool:
    """Whether a Draft can be made of an answer."""
    return not isinstance(read_answer(text), Failure)


class ChatExplainer:
    """See Explainer."""

    def __init__(
        self,
        engine: Engine,
        config: ExplainConfig,
        *,
        few_shot: FewShot | None = None,
        pair_of: PairOf | None = None,
    ) -> None:
        """Closes `engine` when it is closed; `few_shot` None for the built-in examples."""
        self.engine = engine
        self.name = engine.name
        self._config, self._few_shot, self._pair_of = config, few_shot, pair_of

    async def check(self) -> None:
        """See Explainer. Raises NotFound (MODEL_NOT_FOUND), Unsupported for a context that holds no example."""
        await self.engine.check()
        limits = self.engine.limits
        if limits.context_tokens and limits.context_tokens <= limits.max_output_tokens:
            raise Unsupported(
                f"model {self.engine.model!r} of engine {self.name!r}",
                why=f"its context of {limits.context_tokens} tokens has no room for one example beside an answer of "
                f"{limits.max_output_tokens}",
                instead="Use a model with a longer context, or lower max_output_tokens in the engine's table.",
            )

    async def close(self) -> None:
        """See Explainer."""
        await self.engine.close()

    async def explain(self, evidence: FeatureEvidence, *, strategy: str, seed: int) -> Draft | Failure:
        """See Explainer."""
        prompt = self.prompt(evidence, strategy=strategy, seed=seed)
        if isinstance(prompt, Failure):
            return prompt
        return self._draft(prompt, await self.engine.chat(self.request(prompt, seed)))

    async def stream(
        self, evidence: FeatureEvidence, *, strategy: str, seed: int
    ) -> AsyncGenerator[str | Draft | Failure, None]:
        """Pieces of the model's answer as they come, then the Draft or the Failure."""
        prompt = self.prompt(evidence, strategy=strategy, seed=seed)
        if isinstance(prompt, Failure):
            yield prompt
            return
        async for piece in self.engine.stream(self.request(prompt, seed)):
            yield piece if isinstance(piece, str) else self._draft(prompt, piece)

    def prompt(self, evidence: FeatureEvidence, *, strategy: str, seed: int) -> Prompt | Failure:
        """What the model is asked; a Failure where its context has no room for one example."""
        limits = self.engine.limits
        budget = max(1, limits.context_tokens - limits.max_output_tokens) if limits.context_tokens else 0
        return build_prompt(
            evidence,
            strategy=strategy,
            audience=self._config.audience,
            seed=seed,
            few_shot=self._few_shot,
            max_tokens=budget,
            pair=self._pair_of(evidence) if self._pair_of and strategy == "contrast_pair" else None,
            count=within(counter_of(self.engine), budget) if budget else None,
        )

    def request(self, prompt: Prompt, seed: int) -> ChatRequest:
        """What the engine is given for a prompt."""
        return ChatRequest(
            system=prompt.system,
            prompt=prompt.user,
            schema=prompt.schema,
            seed=seed,
            max_output_tokens=self.engine.limits.max_output_tokens,
        )

    def _draft(self, prompt: Prompt, outcome: Reply | Failure) -> Draft | Failure:
        if isinstance(outcome, Failure):
            return outcome
        found = read_answer(outcome.text)
        if isinstance(found, Failure):
            said = found.message.replace("The answer", f"The answer of engine {self.name!r}")
            return replace(
                found,
                message=said,
                latency_seconds=outcome.latency_seconds,
                prompt_tokens=outcome.prompt_tokens,
                completion_tokens=outcome.completion_tokens,
                cost_usd=outcome.cost_usd,
            )
        return Draft(
            explanation=found[0],
            keywords=found[1],
            engine=self.name,
            model=outcome.model,
            strategy=prompt.strategy,
            prompt_version=prompt.version,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            latency_seconds=outcome.latency_seconds,
            cost_usd=outcome.cost_usd,
            cached=outcome.cached,
        )
