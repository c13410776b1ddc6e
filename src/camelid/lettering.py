"""Letters for the choices of a question, such that each is one token where it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_uppercase
from typing import Any

from camelid.chat import encode_answer, encode_prompt
from camelid.errors import UserError
from camelid.rows import Message, Prompt

PROBE = "Answer:"


@dataclass(frozen=True)
class Letters:
    """`labels` as they are printed in front of choices; `lead` stands between prompt and answer: a space or nothing."""

    labels: tuple[str, ...]
    lead: str

    def answer(self, place: int) -> str:
        """The text that is scored, or trained on, for the choice at a place."""
        return self.lead + self.labels[place]


def letter_choices(tokenizer: Any, count: int, model: str, task: str, *, chat: bool = False) -> Letters:
    """Labels for `count` choices: A to Z, then pairs of capitals, of those that are one token behind "Answer:".

    The token is the same whether prompt and answer are tokenised together or apart, so that what is scored is what was
    trained on; all are different. Raises UserError where the tokenizer of `model` has too few for `task`.
    """
    prompt: Prompt = (Message("user", PROBE),) if chat else PROBE
    leads = [""] if chat else [" ", ""]  # tokenizers of SentencePiece put the space before the first word themselves
    found = [(lead, list(islice(_single_tokens(tokenizer, prompt, lead), count))) for lead in leads]
    lead, labels = max(found, key=lambda pair: len(pair[1]))
    if len(labels) < count:
        what = f"the task {task} has {count} choices, and the tokenizer of {model} can letter {len(labels)}"
        fix = "Each needs a token of its own: ask in two steps, merge rare choices, or take a model with more tokens."
        raise UserError(what, fix)
    return Letters(tuple(labels), lead)


def _single_tokens(tokenizer: Any, prompt: Prompt, lead: str) -> Iterator[str]:
    """Capitals and pairs of them that are one token behind the prompt, no two the same one."""
    before = encode_prompt(tokenizer, prompt)
    seen: set[int] = set()
    for length in (1, 2):
        for letters in product(ascii_uppercase, repeat=length):
            label = "".join(letters)
            ids = encode_answer(tokenizer, prompt, lead + label, ended=False)
            if len(ids) != 1 or ids[0] in seen or ids[0] == tokenizer.unk_token_id:
                continue
            if isinstance(prompt, str) and encode_prompt(tokenizer, f"{prompt} {label}") != before + ids:
                continue
            seen.add(ids[0])
            yield label
