"""Safety policies as data: categories of what is not allowed, read from TOML, chosen among, written into a prompt."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from camelid.errors import UserError

BUILT_IN = Path(__file__).parent / "policies"


class Category(BaseModel):
    """One thing that is not allowed: its key in data and results, its name, and what is and is not meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(min_length=1)
    name: str = Field(min_length=1)
    description: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prefix: str = "S"
    category: list[Category] = Field(min_length=1)


@dataclass(frozen=True)
class Policy:
    """Categories in the order of the prompt, where they are numbered from 1 behind the prefix: S1, S2, ..."""

    categories: tuple[Category, ...]
    prefix: str = "S"

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the categories, in order; code number n is keys[n - 1]."""
        return tuple(category.key for category in self.categories)

    def only(self, keys: Collection[str]) -> Policy:
        """The policy with the categories of these keys, in its own order."""
        return replace(self, categories=tuple(category for category in self.categories if category.key in keys))

    def ordered(self, keys: Sequence[str]) -> Policy:
        """The policy with the categories of these keys, in the order of the keys."""
        by_key = {category.key: category for category in self.categories}
        return replace(self, categories=tuple(by_key[key] for key in keys))

    def code(self, key: str) -> str:
        """The code of a category in this policy's prompt."""
        return f"{self.prefix}{self.keys.index(key) + 1}"

    def write(self, *, descriptions: bool) -> str:
        """The categories as text, one a line, each with its description where wanted and given."""
        lines = []
        for category in self.categories:
            lines.append(f"{self.code(category.key)}: {category.name}.")
            if descriptions and category.description:
                lines.append(category.description.strip())
        return "\n".join(lines)


def read_policy(source: str) -> Policy:
    """A policy by the name of a built-in one, or from a TOML file: `prefix`, and [[category]] tables with key and name.

    Raises UserError when there is none, the file is broken, or two categories share a key.
    """
    path = BUILT_IN / f"{source}.toml"
    if not path.is_file():
        path = Path(source)
    if not path.is_file():
        names = ", ".join(sorted(known.stem for known in BUILT_IN.glob("*.toml")))
        raise UserError(
            f"there is no policy {source!r}", f"Built-in ones are: {names}; a TOML file of your own will do."
        )
    try:
        found = _File(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not valid TOML: {error}", "Strings need quotes, categories a [[category]] line."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {place}: {first['msg']}", "A category has key, name and, if you like, description."
        ) from error
    keys = [category.key for category in found.category]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"{path} has several categories with the key {twice[0]!r}", "Give each its own.")
    return Policy(tuple(found.category), found.prefix)
