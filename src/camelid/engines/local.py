"""Text and probabilities from a model on this machine, through transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from camelid import bases, chat, models, recipe, runs
from camelid.engines import Ability, Completion, Question, Request, Sampling, Scored, Stop
from camelid.engines.decoding import CACHE_BYTES, Draw, decode, token_bytes
from camelid.errors import UserError
from camelid.heads import LanguageModel
from camelid.hidden import Edit, edit_layers
from camelid.token_trees import Scorable, sequence_logprobs

Batching = Literal["plain", "continuous"]
BATCH_TOKENS = 512  # of a continuous batch
PAGE_TOKENS = 32  # tokens of a page of its cache


class LocalEngine:
    """A causal language model and its tokenizer as an engine; the model is used as it is, and not changed.

    `batching` is "plain" (own decoding; results do not depend on batch mates beyond rounding) or "continuous"
    (transformers' paged batching, whose noise is the batch's: samples at a temperature depend on their mates).
    `weights` names the weights in the cache's keys: give "" for a module in training, which then has no cache.
    `edits` change states inside the model, by the names of its decoder's layers (`hidden.edit_layers`). The row an edit
    is told is the number of the request or question, so nothing is shared between questions then, nor cached.

    Raises UserError for a layer that is not there, and for edits with continuous batching.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        weights: str = "",
        batching: Batching = "plain",
        cache: Any = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.batching, self.edits = model, tokenizer, batching, edits or {}
        abilities: tuple[Ability, ...] = ("sample", "score", "hidden", "edit")
        self.can: frozenset[Ability] = frozenset(abilities if batching == "plain" else abilities[:-1])
        if self.edits and batching != "plain":  # its batches are made in a thread that names no request
            raise UserError("continuous batching takes no edits", 'Set engine.batching to "plain".')
        with edit_layers(model.get_decoder(), self.edits):
            pass  # the layers are there
        self.cache = cache if weights and not self.edits else None
        template = chat.name_template(tokenizer)
        self.fingerprint = f"local {weights} {model.dtype} {model.device.type} {batching} template {template}"
        self.context = model.config.get_text_config().max_position_embeddings
        self.ends = chat.end_tokens(model, tokenizer)

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Completions as they are finished. A prompt that fills the model's context fails as "context overflow"."""
        draws: dict[int, Draw] = {}
        for index, request in enumerate(requests):
            ids = tuple(chat.encode_prompt(self.tokenizer, request.prompt))
            room = self.context - len(ids)
            if not ids:
                raise UserError("a prompt has no tokens", "Give it some text.")
            if room < 1:
                yield index, Completion("", "failed", prompt_tokens=len(ids), problem="context overflow")
                continue
            sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, room))
            draws[index] = Draw(ids, sampling, noise_of(request), index)
        numbers = list(draws)
        run = self._run_plain if self.batching == "plain" else self._run_continuous
        for place, tokens, logprobs, stop in run(list(draws.values())):
            yield numbers[place], self._completion(draws[numbers[place]], tokens, logprobs, stop)

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        """Scores as they are finished; one longer than the model's context fails as "context overflow"."""
        sequences, owners = [], []
        left: dict[int, list[Any]] = {}
        for index, question in enumerate(questions):
            prompt, answers = encode_question(self.tokenizer, question)
            if len(prompt) + max(map(len, answers)) > self.context:
                yield index, Scored((), len(prompt), problem="context overflow")
                continue
            left[index] = [len(prompt), *([None] * len(answers))]
            for number, answer in enumerate(answers):
                sequences.append(Scorable((*prompt, *answer), len(prompt)))
                owners.append((index, number))
        for place, values in self._sequence_logprobs(sequences, [index for index, _ in owners]):
            index, number = owners[place]
            left[index][number + 1] = tuple(values)
            if None not in left[index]:
                prompt_tokens, *found = left.pop(index)
                yield index, Scored(tuple(found), prompt_tokens)

    def _sequence_logprobs(
        self, sequences: Sequence[Scorable], questions: Sequence[int]
    ) -> Iterator[tuple[int, list[float]]]:
        """(place, log-probs); with edits question by question, because a shared token has no row of its own."""
        if not self.edits:
            yield from sequence_logprobs(self.model, sequences)
            return
        for question, members in groupby(range(len(sequences)), key=questions.__getitem__):
            places = list(members)
            with edit_layers(self.model.get_decoder(), self.edits, [question]):
                found = list(sequence_logprobs(self.model, [sequences[place] for place in places]))
            yield from ((places[at], values) for at, values in found)

    def _run_plain(self, draws: Sequence[Draw]) -> Iterator[tuple[int, list[int], list[float], Stop]]:
        for index, row, stop in decode(self.model, draws, self.ends, self._text_of, self.edits):
            yield index, row.tokens, row.logprobs, stop

    def _run_continuous(self, draws: Sequence[Draw]) -> Iterator[tuple[int, list[int], list[float], Stop]]:
        """Draws with the same sampling go together. Stop strings are only known to the plain path."""
        plain = [index for index, draw in enumerate(draws) if draw.sampling.stop]
        for index, tokens, logprobs, stop in self._run_plain([draws[index] for index in plain]):
            yield plain[index], tokens, logprobs, stop
        paged = sorted(
            (index for index, draw in enumerate(draws) if not draw.sampling.stop), key=lambda i: _kind(draws[i])
        )
        for _, members in groupby(paged, key=lambda index: _kind(draws[index])):
            yield from self._run_pages(draws, list(members))

    def _run_pages(
        self, draws: Sequence[Draw], members: list[int]
    ) -> Iterator[tuple[int, list[int], list[float], Stop]]:
        sampling = draws[members[0]].sampling
        seed = int.from_bytes(hashlib.sha256("".join(draws[index].noise for index in members).encode()).digest()[:4])
        raw = _kind(draws[members[0]]) in ((0.0, 1.0, 0.0), (1.0, 1.0, 0.0))  # else its log-probs are the warped ones
        with (
            torch.random.fork_rng(),
            self.model.continuous_batching_context_manager(
                generation_config=_generation_config(sampling, self.ends),
                continuous_batching_config=self._paging(draws, members, seed),
                block=True,
                timeout=60,
            ) as manager,
        ):
            for index in members:
                limit = draws[index].sampling.max_tokens
                manager.add_request(list(draws[index].ids), request_id=str(index), max_new_tokens=limit)
            for _ in members:
                found = manager.get_result()
                if found is None or found.error:
                    raise RuntimeError(f"continuous batching stopped: {found and found.error}")
                tokens = list(found.generated_tokens)
                stop: Stop = "end" if tokens and tokens[-1] in self.ends else "length"
                yield int(found.request_id), tokens, list(found.logprobs) if raw else [], stop

    def _paging(self, draws: Sequence[Draw], members: list[int], seed: int) -> Any:
        """Both sizes are always given: left to itself it takes nearly all memory for its cache."""
        from transformers import ContinuousBatchingConfig

        wanted = sum(len(draws[index].ids) + draws[index].sampling.max_tokens + PAGE_TOKENS for index in members)
        tokens = min(wanted + BATCH_TOKENS, CACHE_BYTES // token_bytes(self.model))
        return ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=-(-tokens // PAGE_TOKENS),
            max_batch_tokens=BATCH_TOKENS,
            return_logprobs=True,
            seed=seed,
        )

    def _text_of(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _completion(self, draw: Draw, tokens: list[int], logprobs: list[float], stop: Stop) -> Completion:
        written = tokens[:-1] if stop == "end" else tokens
        text = self._text_of(written)
        if stop == "string":
            text = text[: min((text.index(mark) for mark in draw.sampling.stop if mark in text), default=len(text))]
        return Completion(text, stop, tuple(tokens), tuple(logprobs), len(draw.ids), len(tokens))


def open_local(
    engine: recipe.Engine, model: recipe.Model, cache: Any, adapted: Path | None = None, moved: str | None = None
) -> LocalEngine:
    """The recipe's model on this machine; `adapted` is the folder of a language model that was trained on it."""
    precision = bases.resolve_precision(engine.precision)
    if adapted is None:
        base = bases.open_base(model.base, model.revision)
        lm, weights = bases.load_lm(base, precision), bases.fingerprint(base)
    else:
        trained, base = models.load_handle(adapted, moved)
        if not isinstance(trained, LanguageModel):
            raise UserError(f"{adapted} holds a model with a label head, which writes no text", "Give another run.")
        trained, weights = trained.to(getattr(torch, precision)), f"{bases.fingerprint(base)} + {runs.sha256(adapted)}"
        if precision == "float32":
            trained = models.merge(trained)
        else:  # the base's weights lie on the grid of bfloat16, and a small product would be rounded away from them
            weights += " beside, one rounding"
        lm = trained.lm
    return LocalEngine(lm, base.tokenizer, weights=weights, batching=engine.batching, cache=cache)


def _kind(draw: Draw) -> tuple[float, float, float]:
    return draw.sampling.temperature, draw.sampling.top_p, draw.sampling.min_p


def noise_of(request: Request) -> str:
    """What a request's random numbers depend on: seed, prompt and the number of the sample."""
    return hashlib.sha256(repr((request.seed, request.prompt, request.sample)).encode()).hexdigest()


def encode_question(tokenizer: Any, question: Question) -> tuple[list[int], list[list[int]]]:
    """Token ids of the prompt and of each answer. Raises UserError when there is nothing before an answer, or in it."""
    prompt = chat.encode_prompt(tokenizer, question.prompt)
    if not prompt:
        raise UserError(
            "a prompt to score after has no tokens, and the tokenizer writes none at the front", "Give it some text."
        )
    answers = [
        chat.encode_answer(tokenizer, question.prompt, answer, ended=question.ended) for answer in question.answers
    ]
    for text, answer in zip(question.answers, answers, strict=True):
        if not answer:
            raise UserError(f"the answer {text!r} has no tokens to score", "Leave it out, or score its end too.")
    return prompt, answers


def _generation_config(sampling: Sampling, ends: set[int]) -> Any:
    from transformers import GenerationConfig

    drawn = sampling.temperature > 0
    options: dict[str, Any] = {"do_sample": drawn, "eos_token_id": sorted(ends) or None}
    if drawn:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_p": sampling.min_p or None}
    return GenerationConfig(**options)
