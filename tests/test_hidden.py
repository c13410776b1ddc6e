"""Edits of states inside the model: against plain forwards of one row, in training, sampling and scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from camelid.engines import Question, Request, Sampling
from camelid.engines.local import LocalEngine
from camelid.errors import UserError
from camelid.hidden import edit_layers
from camelid.sampling import sample
from camelid.scoring import score

LAYER = "layers.0"
PROMPTS = ["the cat sat on", "no", "a much longer text about a dog and a bird", "the cat sat on"]
STRENGTHS = [0.0, 4.0, -4.0, 8.0]  # by row; the last prompt is the first again


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_model)


def steer(hidden_ND: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
    """A direction that grows with the position, as strong as the row says."""
    direction_D = torch.linspace(-1, 1, hidden_ND.shape[1])
    strength_N = torch.tensor(STRENGTHS)[row_N] * (1 + position_N / 4)
    return hidden_ND + strength_N[:, None] * direction_D


def steered_logits(lm: Any, ids: list[int], row: int) -> Tensor:
    """logits_TV of one sequence through the whole model, with the states changed by hand behind the layer."""

    def change(_: Any, __: Any, hidden_1TD: Tensor) -> Tensor:
        tokens = hidden_1TD.shape[1]
        return steer(hidden_1TD[0], torch.full((tokens,), row), torch.arange(tokens))[None]

    hook = lm.get_decoder().get_submodule(LAYER).register_forward_hook(change)
    with torch.no_grad():
        logits_TV = lm(torch.tensor([ids])).logits[0]
    hook.remove()
    return logits_TV


def test_sampling_under_edits_is_that_of_whole_forwards(lm: Any, tokenizer: Any) -> None:
    """With rows of several lengths side by side, one prompt twice, and one that is too long for the model."""
    engine = LocalEngine(lm, tokenizer, edits={LAYER: steer})
    found = sample(engine, PROMPTS, Sampling(max_tokens=8))
    for row, prompt in enumerate(PROMPTS):
        ids = list(tokenizer(prompt)["input_ids"])
        for token in found[row][0].token_ids:
            assert steered_logits(lm, ids, row)[-1].argmax() == token
            ids.append(token)
    assert found[0][0].token_ids != found[3][0].token_ids
    overlong = Request(PROMPTS[0] * engine.context)
    answers = dict(engine.complete([overlong, *(Request(prompt, Sampling(max_tokens=8)) for prompt in PROMPTS[1:])]))
    assert [answers[row].token_ids for row in (1, 2, 3)] == [found[row][0].token_ids for row in (1, 2, 3)]


def test_scoring_under_edits_is_that_of_whole_forwards(lm: Any, tokenizer: Any) -> None:
    """Questions that begin alike are edited apart, and the answers of one share its prompt."""
    engine = LocalEngine(lm, tokenizer, edits={LAYER: steer})
    answers = (" good", " rather unusually bad")
    for row, scored in enumerate(score(engine, [Question(prompt, answers) for prompt in PROMPTS])):
        before = tokenizer(PROMPTS[row])["input_ids"]
        for answer, values in zip(answers, scored.logprobs, strict=True):
            ids = [*before, *tokenizer(answer)["input_ids"]]
            logprobs_TV = steered_logits(lm, ids, row).log_softmax(dim=-1)
            wanted = [logprobs_TV[at - 1, ids[at]].item() for at in range(len(before), len(ids))]
            assert values == pytest.approx(wanted, abs=1e-4)


def test_an_edit_reaches_later_layers_and_later_tokens_only(lm: Any) -> None:
    """The second row from its third token on; the gradient of what the edit adds flows."""
    shift_D = torch.ones(lm.config.hidden_size, requires_grad=True)

    def shift(hidden_ND: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        return hidden_ND + ((row_N == 1) & (position_N >= 2))[:, None] * shift_D

    ids_BT = torch.arange(1, 13).view(2, 6)
    trunk = lm.get_decoder()
    plain = trunk(ids_BT, output_hidden_states=True).hidden_states
    with edit_layers(trunk, {LAYER: shift}):
        edited = trunk(ids_BT, output_hidden_states=True).hidden_states
    assert torch.equal(plain[0], edited[0])
    for before, after in zip(plain[2:], edited[2:], strict=True):  # transformers takes [1] before the edit
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1, :2], after[1, :2])
        assert not torch.isclose(before[1, 2:], after[1, 2:]).all(dim=-1).any()
    edited[-1].pow(2).sum().backward()
    assert shift_D.grad is not None
    assert shift_D.grad.abs().sum() > 0
    assert torch.equal(trunk(ids_BT).last_hidden_state, plain[-1]), "the edit is gone outside"


def test_positions_go_on_behind_a_cache(lm: Any) -> None:
    trunk = lm.get_decoder()
    ids_BT = torch.arange(1, 13).view(2, 6)
    with torch.no_grad(), edit_layers(trunk, {LAYER: steer}):
        whole_BTD = trunk(ids_BT).last_hidden_state
        begun = trunk(ids_BT[:, :4], use_cache=True)
        rest_BTD = trunk(ids_BT[:, 4:], past_key_values=begun.past_key_values).last_hidden_state
    assert torch.allclose(torch.cat([begun.last_hidden_state, rest_BTD], dim=1), whole_BTD, atol=1e-5)


def test_attention_and_part_layers_can_be_edited(lm: Any) -> None:
    """A layer that gives a tuple: ablating all attention leaves each token's states to itself, bit for bit.

    The token stands at the same place of each batch: at another place of a product some processors give other bits.
    """
    ablated = {f"layers.{number}.self_attn": lambda h, *_: h * 0 for number in range(lm.config.num_hidden_layers)}
    trunk = lm.get_decoder()
    with torch.no_grad(), edit_layers(trunk, ablated):
        states = trunk(torch.tensor([[5, 6, 7]])).last_hidden_state
        beside_others = trunk(torch.tensor([[6, 6, 6]])).last_hidden_state
        elsewhere = trunk(torch.tensor([[5, 6, 7]]), position_ids=torch.tensor([[2, 0, 4]])).last_hidden_state
    assert torch.equal(states[0, 1], beside_others[0, 1])
    assert torch.equal(states[0, 1], elsewhere[0, 1])


def test_what_edits_are_refused(lm: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"no layer 'layer\.0'"):
        LocalEngine(lm, tokenizer, edits={"layer.0": steer})
    with pytest.raises(UserError, match="continuous"):
        LocalEngine(lm, tokenizer, edits={LAYER: steer}, batching="continuous")
    assert "edit" not in LocalEngine(lm, tokenizer, batching="continuous").can
    cached = LocalEngine(lm, tokenizer, weights="w", cache=object(), edits={LAYER: steer})
    assert cached.cache is None, "what an edit does is in no key"
