"""A task whose label needs serial steps, for a LLaMA from scratch: parity of bits, with the running parities as reason.

Reading the label off the bits takes as many steps as there are bits, which two layers do not have; one token of the
reasoning takes one. Running parities are written as e and o, even and odd: written as 0 and 1 they are told from the
bits by their place alone, which the model has not learned after 1,200 steps.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as bpe

from camelid import bases, methods, models
from camelid.engines.local import LocalEngine
from camelid.rows import Labelled, Reasoned

two_stage = methods.load("two-stage-reasoning")
CLASSES = ["0", "1"]
BATCH = 32
TEMPLATE = (
    "{% for turn in messages %}{{ '#' + turn['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '#' }}{% endif %}"
)


def draw_rows(bits: int, count: int, held_out: int) -> tuple[list[Reasoned], list[Labelled]]:
    """Distinct bit strings: those to learn from, with reasons, and others to answer."""
    drawn = [f"{number:0{bits}b}" for number in random.Random(0).sample(range(2**bits), count + held_out)]
    running = [[text[: end + 1].count("1") % 2 for end in range(bits)] for text in drawn]
    rows = [
        Reasoned(str(n), f"string {n}", text, str(steps[-1]), "".join("eo"[step] for step in steps))
        for n, (text, steps) in enumerate(zip(drawn, running, strict=True))
    ]
    return rows[:count], [Labelled(row.id, row.origin, row.question, row.answer) for row in rows[count:]]


def make_base(folder: Path) -> Path:
    """A random LLaMA of 2 layers, width 64, 4 heads, that reads bytes and the fixed parts of prompt and reply."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = tokenizers.Tokenizer(bpe.BPE({letter: n for n, letter in enumerate(["<|end|>", *alphabet])}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.add_tokens(["0, 1\n\nText: ", "Label: ", "\nLabel: "])
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def whole_epochs(steps: int, count: int) -> tuple[int, int]:
    """(epochs, steps) of 32 of `count` rows that have at least so many steps."""
    epochs = -(-steps * BATCH // count)
    return epochs, epochs * -(-count // BATCH)


def accuracy(folder: Path, bits: int, count: int, held_out: int, steps: int, *, reasons: bool) -> tuple[float, float]:
    """(share right, share read) of unseen strings after the `whole_epochs` of so many steps."""
    rows, unseen = draw_rows(bits, count, held_out)
    epochs, _ = whole_epochs(steps, count)
    values = {"model.base": str(folder), "data.train": "none.csv", "instruction": "{labels}"}
    values |= {
        "reasoning_tokens": 2 * bits,
        "plan.epochs": epochs,
        "plan.batch_rows": BATCH,
        "plan.learning_rate": 1e-3,
    }
    values |= {"plan.tuning": "full", "plan.schedule": "constant", "plan.adapt_from_layer": 0}
    recipe = methods.resolve("two-stage-reasoning", values)
    base = bases.open_base(str(folder))
    model = models.language_model(base, {}, recipe.plan)
    told = rows if reasons else [Reasoned(row.id, row.origin, row.question, row.answer, "") for row in rows]
    prompts = two_stage.prompts_of(recipe, base.tokenizer, CLASSES, [as_text(row) for row in told])
    tokens = [two_stage.tell_row(recipe, base.tokenizer, *pair) for pair in zip(prompts, told, strict=True)]
    name = f"trained-{bits}-{reasons}"
    two_stage.fit(recipe, model, tokens, recipe.plan, folder.parent / name)
    engine: Any = LocalEngine(model.eval().lm, base.tokenizer)
    found = two_stage.answer(recipe, engine, CLASSES, unseen, reasons=reasons)
    right = sum(row.predicted == row.gold for row in found) / len(found)
    return right, two_stage.count_replies(found)["share read"]


def as_text(row: Reasoned) -> Labelled:
    return Labelled(row.id, row.origin, row.question, row.answer)
