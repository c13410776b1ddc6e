"""vLLM in this process as an engine, for machines with accelerators. Its server is reached as a remote engine.

Prompts are tokenised here and handed over as token ids, so that chat template and answer boundaries are those of every
other engine. Prefix caching is vLLM's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from camelid import bases, chat, recipe
from camelid.engines import Ability, Completion, Question, Request, Scored, Stop
from camelid.engines.local import encode_question
from camelid.errors import UserError


class VllmEngine:
    """A model that vLLM has loaded, and its tokenizer."""

    def __init__(self, llm: Any, tokenizer: Any, *, weights: str, cache: Any = None) -> None:
        self.llm, self.tokenizer, self.cache = llm, tokenizer, cache
        self.can: frozenset[Ability] = frozenset(("sample", "score"))
        template = chat.name_template(tokenizer)
        self.fingerprint = f"vllm {weights} {llm.llm_engine.model_config.dtype} template {template}"
        self.context = llm.llm_engine.model_config.max_model_len

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Completions, once all of them are done: vLLM batches them as it likes."""
        prompts = [chat.encode_prompt(self.tokenizer, request.prompt) for request in requests]
        fitting = [index for index, ids in enumerate(prompts) if 0 < len(ids) < self.context]
        for index in sorted(set(range(len(requests))) - set(fitting)):
            yield index, Completion("", "failed", prompt_tokens=len(prompts[index]), problem="context overflow")
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompts[index]} for index in fitting],
            [self._sampling(requests[index], len(prompts[index])) for index in fitting],
            use_tqdm=False,
        )
        for index, output in zip(fitting, outputs, strict=True):
            yield index, _completion(output.outputs[0], len(prompts[index]))

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        """Scores from the log-probs of a prompt that ends with the answer."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        for index, question in enumerate(questions):
            before, answers = encode_question(self.tokenizer, question)
            if len(before) + max(map(len, answers)) >= self.context:
                yield index, Scored((), len(before), problem="context overflow")
                continue
            outputs = self.llm.generate(
                [{"prompt_token_ids": [*before, *answer]} for answer in answers],
                SamplingParams(max_tokens=1, prompt_logprobs=0),
                use_tqdm=False,
            )
            found = tuple(_told(output, answer) for output, answer in zip(outputs, answers, strict=True))
            yield index, Scored(found, len(before))

    def _sampling(self, request: Request, prompt_tokens: int) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        wanted = request.sampling
        return SamplingParams(
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
            max_tokens=min(wanted.max_tokens, self.context - prompt_tokens),
            stop=list(wanted.stop) or None,
            seed=request.seed * 1_000_003 + request.sample,
            logprobs=0,
        )


def open_vllm(engine: recipe.Engine, model: recipe.Model, cache: Any) -> VllmEngine:
    """The recipe's model in vLLM. Raises UserError when vLLM is not installed."""
    if find_spec("vllm") is None:
        raise UserError("engine.kind is vllm, which is not installed", "pip install 'camelid[vllm]', or take local.")
    from vllm import LLM  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    base = bases.open_base(model.base, model.revision)
    precision = bases.resolve_precision(engine.precision)
    llm = LLM(model=base.source, revision=base.revision, dtype=precision, enable_prefix_caching=True)
    return VllmEngine(llm, base.tokenizer, weights=bases.fingerprint(base), cache=cache)


def _completion(output: Any, prompt_tokens: int) -> Completion:
    stop: Stop = "length"
    if output.finish_reason == "stop":
        stop = "string" if isinstance(output.stop_reason, str) else "end"
    logprobs = tuple(step[token].logprob for step, token in zip(output.logprobs or (), output.token_ids, strict=False))
    return Completion(output.text, stop, tuple(output.token_ids), logprobs, prompt_tokens, len(output.token_ids))


def _told(output: Any, answer: Sequence[int]) -> tuple[float, ...]:
    """Log-probs of the answer's tokens, which end the prompt."""
    steps = output.prompt_logprobs[-len(answer) :]
    return tuple(step[token].logprob for step, token in zip(steps, answer, strict=True))
