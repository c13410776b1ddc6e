"""Choice log-probabilities against whole sequences scored one by one with transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from camelid.scoring import choice_logprobs

PREFIX = "Choose a label.\n\n"
PROMPTS = ["Text: the cat sat\nLabel:", "Text: no\nLabel:", "Text: a much longer text about a dog and a bird\nLabel:"]
CHOICES = [" good", " rather unusually bad", " x", " rather"]


def one_by_one(model: torch.nn.Module, tokenizer: object, prefix: str, prompts: list[str]) -> torch.Tensor:
    """log p(choice | prefix + prompt) from a full forward per sequence."""
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]  # noqa: E731
    rows = []
    for prompt in prompts:
        values = []
        for choice in CHOICES:
            before, ending = encode(prefix) + encode(prompt), encode(choice)
            with torch.no_grad():
                logits = model(torch.tensor([before + ending])).logits[0].log_softmax(dim=-1)
            at = range(len(before) - 1, len(before) + len(ending) - 1)
            values.append(sum(logits[place, token].item() for place, token in zip(at, ending, strict=True)))
        rows.append(values)
    return torch.tensor(rows)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_equal_to_scoring_each_sequence_alone(tiny_model: Path, prefix: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    lengths = {len(tokenizer(choice)["input_ids"]) for choice in CHOICES}
    assert len(lengths) > 1, "the check needs choices of several lengths"
    found = choice_logprobs(model, tokenizer, prefix, PROMPTS, CHOICES)
    torch.testing.assert_close(found, one_by_one(model, tokenizer, prefix, PROMPTS), atol=1e-4, rtol=0)


def test_a_prompt_does_not_depend_on_its_batch(tiny_model: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    together = choice_logprobs(model, tokenizer, PREFIX, PROMPTS, CHOICES)
    alone = torch.cat([choice_logprobs(model, tokenizer, PREFIX, [prompt], CHOICES) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
