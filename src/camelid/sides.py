"""Further language models of a run beside its main one: a judge, a weaker model, a policy; local, adapted or remote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field

from camelid import bases, engines, recipe
from camelid.engines import Engine
from camelid.engines.cache import Cache, cache_path
from camelid.engines.remote import RemoteEngine
from camelid.errors import UserError
from camelid.recipe import Model
from camelid.rows import Message


class Side(recipe.Values):
    """A language model of the run; what is left empty is that of [model] and [engine]."""

    base: str = Field(default="", description="hub id, folder, .gguf file or short name")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    adapted: str = Field(default="", description="folder of a language model that camelid trained; it names its base")
    url: str = Field(default="", description="address of an endpoint that has the model; base names its tokenizer then")
    name: str = Field(default="", description="the model's name at the endpoint")


def model_of(side: Side, model: Model) -> Model:
    """The base of a side, `model` where it names none. Raises UserError when `adapted` holds no trained model."""
    if not side.adapted:
        return Model(base=side.base, revision=side.revision) if side.base else model
    path = Path(side.adapted) / "handle.json"
    if not path.is_file():
        raise UserError(
            f"{side.adapted} holds no trained model (no handle.json)", "Give the folder of a trained model."
        )
    origin = json.loads(path.read_text(encoding="utf-8"))
    return Model(base=origin["base"], revision=origin["revision"])


def open_side(
    side: Side, model: Model, engine: recipe.Engine, adapted: Path | None = None, *, scores: bool = True
) -> Engine:
    """The engine of a side; `adapted` is what was trained in this run. An endpoint `scores` laid-out text, or chats."""
    folder = adapted or (Path(side.adapted) if side.adapted else None)
    if not side.url:
        return engines.open_engine(engine, model_of(side, model), folder)
    given = {"kind": "remote", "url": side.url, "name": side.name, "api": "completions" if scores else "chat"}
    values = engine.model_copy(update=given)
    if not scores:
        return engines.open_engine(values, model)
    tokenizer = bases.open_base(side.base, side.revision).tokenizer
    answers = Cache(cache_path()) if values.cache else None
    return RemoteEngine(values, cache=answers, lay_out=lambda messages: lay_out(tokenizer, messages))


def lay_out(tokenizer: Any, messages: Sequence[Message]) -> str:
    """A conversation as text that the answer follows; the endpoint adds the first token itself."""
    turns = [asdict(message) for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token or "")


def complain_of(role: str, side: Side) -> list[tuple[str, str]]:
    """Fields of a side that contradict each other, as (what, fix)."""
    found = []
    if bool(side.url) != bool(side.name):
        found.append((f"{role}.url and {role}.name go together", "Give both, or neither for a local model."))
    if side.adapted and (side.base or side.url):
        found.append((f"{role}.adapted names its own base", f"Leave out {role}.base and {role}.url."))
    return found


def reads_alike(strong: Any, weak: Any, *texts: str) -> bool:
    """Whether two tokenizers give the same texts back, special tokens left out."""
    return all(decode(strong, text) == decode(weak, text) for text in texts)


def decode(tokenizer: Any, text: str) -> str:
    """What is left of a text that was tokenised."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
