"""Further language models of a run beside its main one: a judge, a weaker model, a policy; local, adapted or remote."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from camelid import bases, engines, models, recipe
from camelid.bases import Base
from camelid.engines import Engine
from camelid.engines.cache import Cache, cache_path
from camelid.engines.remote import RemoteEngine
from camelid.errors import UserError
from camelid.labelling import fit_answers
from camelid.recipe import Model
from camelid.rows import Message, Preference
from camelid.runs import Run


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


def complain_of_pair(strong: Side, weak: Side, model: Model, kind: str, *, ended: bool) -> list[tuple[str, str]]:
    """What keeps two sides from scoring the same answers by an engine of this `kind`, as (what, fix).

    Raises UserError as `model_of` does.
    """
    given, found = (strong, weak), []
    one, other = ((model_of(side, model), side.adapted, side.url, side.name) for side in given)
    if one == other:
        found.append(("strong and weak are the same model", "Every ratio would be 0: name another for one."))
    if kind == "remote" and not all(side.url for side in given):
        found.append(("engine.kind is remote, and the two models need addresses", "Set strong.url and weak.url."))
    if any(side.url and not side.base for side in given):
        found.append(("an endpoint's tokenizer and chat template are not known", "Name its model: strong.base."))
    if ended and any(side.url for side in given):
        found.append(("an endpoint cannot score the end of a turn", "Add --ended false."))
    return found


def lay_out(tokenizer: Any, messages: Sequence[Message]) -> str:
    """A conversation as text that the answer follows; the endpoint adds the first token itself."""
    turns = [asdict(message) for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token or "")


def pair_sides(strong: Side, weak: Side, model: Model) -> tuple[Side, Side]:
    """(strong, weak); the weak one of an adapter is the base it was trained on, unless another is named.

    Raises UserError as `model_of` does.
    """
    if strong.adapted and weak == Side():
        origin = model_of(strong, model)
        weak = Side(base=origin.base, revision=origin.revision)
    return strong, weak


def tune_apart(
    run: Run, model: Model, rows: Sequence[Preference], plan: recipe.Plan, kept: Collection[int] = ()
) -> dict[str, Path]:
    """The folders of "weak" and "strong": one base tuned on the rejected, and on the chosen answers to each prompt.

    Of the strong one, those after each of the `kept` steps are in its folder; see `labelling.fit_answers`.
    """
    base = cache(lambda: bases.open_base(model.base, model.revision))

    def make(name: str, told: Sequence[tuple[tuple[Message, ...], str]], kept: Collection[int]) -> Path:
        return run.model(
            name,
            build=lambda: models.language_model(base(), {}, plan),
            fit=lambda model, folder: fit_answers(model, base().tokenizer, told, plan, folder, kept),
        )

    return {
        "weak": make("weak", [(row.prompt, row.rejected) for row in rows], ()),
        "strong": make("strong", [(row.prompt, row.chosen) for row in rows], kept),
    }


def complain_of(role: str, side: Side) -> list[tuple[str, str]]:
    """Fields of a side that contradict each other, as (what, fix)."""
    found = []
    if bool(side.url) != bool(side.name):
        found.append((f"{role}.url and {role}.name go together", "Give both, or neither for a local model."))
    if side.adapted and (side.base or side.url):
        found.append((f"{role}.adapted names its own base", f"Leave out {role}.base and {role}.url."))
    return found


def reads_alike(strong: Base, weak: Base, *texts: str) -> bool:
    """Whether the tokenizers of two models give the same texts back, special tokens left out."""
    if strong.source == weak.source:
        return True
    return all(decode(strong.tokenizer, text) == decode(weak.tokenizer, text) for text in texts)


def check_reading(strong: Base, weak: Base, rows: Sequence[Preference]) -> None:
    """UserError when two models do not decode a text to the same: they would judge different answers."""
    texts = {row.origin: [*(turn.content for turn in row.prompt), row.chosen, row.rejected] for row in rows}
    odd = [origin for origin, found in texts.items() if not reads_alike(strong, weak, *found)]
    if odd:
        raise UserError(
            f"strong and weak do not decode the same text in {len(odd)} pairs: {', '.join(odd[:3])}",
            "Their tokenizers normalise text or take parts of it for special tokens. Remove these rows, or take two "
            "models of one family.",
        )


def decode(tokenizer: Any, text: str) -> str:
    """What is left of a text that was tokenised."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
