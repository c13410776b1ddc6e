"""Sampling from a local model: against transformers' own generate, and what a draw may depend on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from camelid.chat import converse
from camelid.engines import Request, Sampling, open_engine
from camelid.engines import decoding as decoding_module
from camelid.engines.decoding import choose_tokens, noise_at, truncate
from camelid.engines.local import LocalEngine
from camelid.errors import UserError
from camelid.recipe import Engine, Model
from camelid.sampling import sample

PROMPTS = ["the cat sat on", "no", "a much longer text about a dog and a bird, and then some more of it", "x y z"] * 3
GREEDY = Sampling(max_tokens=12)
DRAWN = Sampling(max_tokens=12, temperature=1.0)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> LocalEngine:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    return LocalEngine(model, transformers.AutoTokenizer.from_pretrained(tiny_model))


def generated(engine: LocalEngine, prompt: str, tokens: int) -> list[int]:
    """What transformers' greedy generate writes after one prompt, on its own."""
    ids = torch.tensor([engine.tokenizer(prompt)["input_ids"]])
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": list(engine.ends)}
    output: Any = engine.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("rows", [1, 3, 48])
def test_greedy_is_that_of_generate(engine: LocalEngine, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when rows must wait for each other, and leave and enter in the middle: limits differ from row to row."""
    monkeypatch.setattr(decoding_module, "ROWS", rows)
    requests = [Request(prompt, replace(GREEDY, max_tokens=3 + number)) for number, prompt in enumerate(PROMPTS)]
    found = dict(engine.complete(requests))
    for index, request in enumerate(requests):
        wanted = generated(engine, str(request.prompt), request.sampling.max_tokens)
        assert list(found[index].token_ids) == wanted
        assert found[index].completion_tokens == len(wanted)


def test_logprobs_are_the_raw_models(engine: LocalEngine) -> None:
    """Whatever the temperature: log-softmax of the logits, from a forward over prompt and completion."""
    (found,) = sample(engine, [PROMPTS[0]], replace(DRAWN, temperature=0.7, top_p=0.9))[0]
    before = engine.tokenizer(PROMPTS[0])["input_ids"]
    with torch.no_grad():
        logprobs = engine.model(torch.tensor([[*before, *found.token_ids]])).logits[0].log_softmax(dim=-1)
    wanted = [logprobs[len(before) - 1 + at, token].item() for at, token in enumerate(found.token_ids)]
    assert found.logprobs == pytest.approx(wanted, abs=1e-4)


def test_a_draw_does_not_depend_on_its_batch(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(prompts: list[str]) -> list[list[tuple[int, ...]]]:
        found = sample(engine, prompts, DRAWN, samples=2, seed=3)
        return [[completion.token_ids for completion in completions] for completions in found]

    together = drawn(PROMPTS)
    monkeypatch.setattr(decoding_module, "ROWS", 2)
    assert drawn(PROMPTS[::-1])[::-1] == together
    assert drawn(PROMPTS[1:2]) == together[1:2]


def test_samples_and_seeds_differ(engine: LocalEngine) -> None:
    found = [completion.token_ids for completion in sample(engine, PROMPTS[:1], DRAWN, samples=8)[0]]
    assert len(set(found)) == 8
    assert sample(engine, PROMPTS[:1], DRAWN, seed=1)[0][0].token_ids != found[0]


def test_the_global_random_generator_is_left_alone(engine: LocalEngine) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    sample(engine, PROMPTS[:2], DRAWN)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.is_inference_mode_enabled()


def test_draws_follow_the_probabilities() -> None:
    """20,000 draws from 0.5, 0.3, 0.2; each share within four standard errors."""
    count = 20_000
    logprobs_NV = torch.tensor([0.5, 0.3, 0.2]).log().expand(count, -1)
    noise = [noise_at("a request", position) for position in range(count)]
    drawn = Counter(choose_tokens(logprobs_NV, [DRAWN] * count, noise).tolist())
    for token, share in enumerate((0.5, 0.3, 0.2)):
        assert abs(drawn[token] / count - share) < 4 * math.sqrt(share * (1 - share) / count)


def test_temperature_by_hand() -> None:
    """At temperature 0.5 probabilities are squared: 0.25 and 0.0625 + ... of (0.5, 0.25, 0.25) -> 2/3, 1/6, 1/6."""
    logprobs_NV = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(4, -1)
    cool = Sampling(temperature=0.5)
    assert choose_tokens(logprobs_NV, [cool] * 4, [0.0, 0.66, 0.67, 0.84]).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("top", [2, 256])
def test_truncation_by_hand(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 + 0.3 = 0.7: top_p 0.6 and 0.7 need two tokens, 0.71 three; min_p 0.7 keeps 0.28 and more."""
    monkeypatch.setattr(decoding_module, "TOP", top)
    probs_V = torch.tensor([0.1, 0.4, 0.2, 0.3])

    def kept(top_p: float, min_p: float) -> list[int]:
        found = truncate(probs_V[None], torch.tensor([[top_p]]), torch.tensor([[min_p]]))
        return found[0].nonzero()[:, 0].tolist()

    assert kept(1.0, 0.0) == [0, 1, 2, 3]
    assert kept(0.6, 0.0) == kept(0.69, 0.0) == [1, 3]
    assert kept(0.71, 0.0) == [1, 2, 3]
    assert kept(0.3, 0.0) == [1]
    assert kept(1.0, 0.7) == [1, 3]
    assert kept(0.95, 0.7) == [1, 3]


def test_a_stop_string_ends_and_is_cut_off(engine: LocalEngine) -> None:
    (whole,) = sample(engine, [PROMPTS[0]], replace(GREEDY, max_tokens=40))[0]
    mark = whole.text[5:7]
    (cut,) = sample(engine, [PROMPTS[0]], replace(GREEDY, max_tokens=40, stop=(mark,)))[0]
    assert cut.stop == "string"
    assert cut.text == whole.text[: whole.text.index(mark)]
    assert cut.completion_tokens < whole.completion_tokens


def test_why_it_ended(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    (long,) = sample(engine, [PROMPTS[0]], GREEDY)[0]
    assert long.stop == "length"
    monkeypatch.setattr(engine, "ends", {long.token_ids[4]})
    (ended,) = sample(engine, [PROMPTS[0]], GREEDY)[0]
    assert ended.stop == "end"
    assert ended.token_ids == long.token_ids[: long.token_ids.index(long.token_ids[4]) + 1]
    assert ended.text == engine.tokenizer.decode(ended.token_ids[:-1])


def test_the_context_is_the_limit(engine: LocalEngine) -> None:
    tokens = len(engine.tokenizer("word " * 100)["input_ids"])
    found = sample(engine, ["word " * 600, "word " * 100], replace(GREEDY, max_tokens=10_000))
    assert (found[0][0].stop, found[0][0].problem) == ("failed", "context overflow")
    assert found[1][0].stop in ("length", "end")
    assert tokens + found[1][0].completion_tokens <= engine.context


def test_continuous_batching_is_greedy_too(engine: LocalEngine, tiny_model: Path) -> None:
    """In float32 on the tiny model the same tokens as the plain path, prompt by prompt, and their log-probabilities."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    paged = LocalEngine(model, engine.tokenizer, batching="continuous")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    found = sample(paged, PROMPTS, GREEDY)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (one,), (other,) in zip(found, sample(engine, PROMPTS, GREEDY), strict=True):
        assert one.token_ids == other.token_ids
        assert one.stop == other.stop
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert {len(completion[0].token_ids) for completion in sample(paged, PROMPTS[:3], DRAWN)} <= set(range(1, 13))


@pytest.mark.parametrize("values", [
    {"kind": "remote", "url": "http://x/v1", "name": "m"}, {"kind": "vllm"}, {"ray": "auto"}
])  # fmt: skip
def test_an_adapter_is_never_left_out_silently(values: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a local engine reads"):
        open_engine(Engine(**values), Model(), tmp_path)  # type: ignore[arg-type]


def test_messages_need_a_chat_template(engine: LocalEngine) -> None:
    with pytest.raises(UserError, match="no chat template"):
        sample(engine, [converse("hello")])


def test_fingerprints_tell_what_answers_depend_on(engine: LocalEngine) -> None:
    one, other = (LocalEngine(engine.model, engine.tokenizer, weights=name, cache=object()) for name in ("a", "b"))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint != replace_batching(one).fingerprint
    assert engine.cache is None, "a module that may be in training keeps nothing"


def replace_batching(engine: LocalEngine) -> LocalEngine:
    return LocalEngine(engine.model, engine.tokenizer, weights="a", batching="continuous")
