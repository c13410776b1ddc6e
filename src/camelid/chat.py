"""Messages and text to tokens, and back: chat templates, the end of a turn, where an answer begins."""

from __future__ import annotations

import hashlib
from typing import Any

from camelid.errors import UserError
from camelid.rows import Message, Prompt


def converse(*turns: str, system: str = "") -> tuple[Message, ...]:
    """Messages of the turns that user and assistant take, the user first, behind a system message if there is one."""
    first = [Message("system", system)] if system else []
    return (*first, *(Message("assistant" if number % 2 else "user", turn) for number, turn in enumerate(turns)))


def show_turns(prompt: Prompt) -> str:
    """The question, or a conversation with its roles, as text to be read in a prompt."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return prompt if isinstance(prompt, str) else prompt[0].content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in prompt)


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt: raw text with the tokenizer's own special tokens, messages by the chat template.

    Behind messages stands the opening of the assistant's turn. Raises UserError when the model has no chat template or
    the template does not take these roles.
    """
    if isinstance(prompt, str):
        return tokenizer(prompt, verbose=False)["input_ids"]
    return _apply_template(tokenizer, prompt, opens_turn=True)


def encode_answer(tokenizer: Any, prompt: Prompt, answer: str, *, ended: bool) -> list[int]:
    """Token ids of an answer behind the ids of `encode_prompt`; with `ended` up to and including the end of the turn.

    Behind messages the ids are those the template gives the whole conversation, if the prompt's ids are the front of
    them; what the template writes after the end of the turn is left out. Otherwise, and behind raw text, the answer is
    tokenised by itself.
    """
    if not isinstance(prompt, str):
        whole = _apply_template(tokenizer, (*prompt, Message("assistant", answer)), opens_turn=False)
        before, end = encode_prompt(tokenizer, prompt), end_of_turn(tokenizer)
        rest = whole[len(before) :]
        if whole[: len(before)] == before and end in rest:
            last = len(rest) - rest[::-1].index(end)  # the answer itself may hold the token's text
            return rest[:last] if ended else rest[: last - 1]
    ids = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
    return [*ids, end_of_turn(tokenizer)] if ended else ids


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends an assistant's turn. Raises UserError when the tokenizer names none."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer names no end-of-text token", "Set eos_token in its tokenizer_config.json.")
    return tokenizer.eos_token_id


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a completion: the tokenizer's, and those of the model's generation config."""
    named = getattr(model.generation_config, "eos_token_id", None)
    more = named if isinstance(named, list | tuple) else [named]
    return {token for token in (tokenizer.eos_token_id, *more) if token is not None}


def name_template(tokenizer: Any) -> str:
    """A short hash of the chat template, for the keys of a cache."""
    return hashlib.sha256(str(tokenizer.chat_template or "").encode()).hexdigest()[:12]


def defuse(tokenizer: Any, text: str) -> str:
    """The text with every special token's name in it broken by a space of no width.

    Templates are tokenised as one text, in which the name of such a token is the token: whoever writes the end of a
    turn into a message would otherwise end it, and speak on as somebody else.
    """
    for name in tokenizer.all_special_tokens:
        if len(name) > 1 and name in text:
            text = text.replace(name, f"{name[0]}\u200b{name[1:]}")
    return text


def _apply_template(tokenizer: Any, messages: tuple[Message, ...], *, opens_turn: bool) -> list[int]:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError(
            f"the model {tokenizer.name_or_path} has no chat template, and the prompt is a conversation",
            "Take an instruct model.",
        )
    try:
        turns = [{"role": message.role, "content": defuse(tokenizer, message.content)} for message in messages]
        return tokenizer.apply_chat_template(turns, add_generation_prompt=opens_turn, return_dict=False)
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} does not take the roles {roles}: {error}",
            "Leave the system message out, or let user and assistant take turns.",
        ) from error
