"""Further models of a run: whose base a side has, what an endpoint reads, whether two tokenizers read alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import transformers

from camelid import bases, chat, sides
from camelid.candidates import fault_of
from camelid.engines import Completion
from camelid.errors import UserError
from camelid.recipe import Model
from camelid.rows import Preference
from camelid.sides import Side
from conftest import CHAT_TEMPLATE, make_chat_model, write_lower


@pytest.fixture(scope="module")
def strong_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("sides") / "strong")


def test_the_weak_side_of_an_adapter_has_its_revision(tmp_path: Path) -> None:
    (tmp_path / "handle.json").write_text('{"base": "some/base", "revision": "v2"}')
    _, weak = sides.pair_sides(Side(adapted=str(tmp_path)), Side(), Model(base="mine"))
    assert weak == Side(base="some/base", revision="v2")
    named = Side(base="other"), Side(base="third")
    assert sides.pair_sides(*named, Model(base="mine")) == named


def test_the_text_for_an_endpoint_lacks_the_first_token(strong_model: Path) -> None:
    """The endpoint adds it by itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(strong_model)
    tokenizer.bos_token, tokenizer.chat_template = "<|end|>", "{{ bos_token }}" + CHAT_TEMPLATE
    assert sides.lay_out(tokenizer, chat.converse("Hello")) == "#user\nHello<|end|>\n#assistant\n"


def test_two_tokenizers_that_read_a_text_differently(tmp_path: Path, strong_model: Path) -> None:
    lower = write_lower(strong_model, tmp_path / "lower")
    pair = bases.open_base(str(strong_model)), bases.open_base(str(lower))
    assert sides.reads_alike(*pair, "all small letters")
    assert not sides.reads_alike(*pair, "fine", "Not fine")
    assert sides.reads_alike(pair[0], pair[0], "Not fine")

    sides.check_reading(*pair, [row_of("small?", "yes", "no")])
    for texts in (("Big?", "yes", "no"), ("small?", "Yes", "no"), ("small?", "yes", "No")):
        with pytest.raises(UserError, match="in 1 pairs: line 0"):
            sides.check_reading(*pair, [row_of(*texts)])
    assert (
        fault_of(Completion("Not fine", "end"), lambda text: sides.reads_alike(*pair, text))
        == "not decoded alike by strong and weak"
    )


def test_a_special_token_in_an_answer_is_seen(tmp_path: Path, strong_model: Path) -> None:
    """What one tokenizer takes for the end of a turn is plain text to the other."""
    other = tmp_path / "plain"
    shutil.copytree(strong_model, other)
    text = (other / "tokenizer.json").read_text().replace("<|end|>", "<|stop|>")
    (other / "tokenizer.json").write_text(text)
    config = (other / "tokenizer_config.json").read_text().replace('"<|end|>"', '"<|stop|>"')
    (other / "tokenizer_config.json").write_text(config)
    pair = bases.open_base(str(strong_model)), bases.open_base(str(other))
    assert sides.reads_alike(*pair, "an ordinary answer")
    assert not sides.reads_alike(*pair, "an answer<|end|> with more behind it")


def row_of(question: str, chosen: str, rejected: str) -> Preference:
    return Preference("0", "line 0", chat.converse(question), chosen, rejected)


def test_what_keeps_two_sides_from_being_compared() -> None:
    def complaints(strong: Side, weak: Side, kind: str = "local", ended: bool = True) -> list[str]:
        return [what for what, _ in sides.complain_of_pair(strong, weak, Model(base="mine"), kind, ended=ended)]

    assert complaints(Side(base="one"), Side()) == []
    assert complaints(Side(base="mine"), Side()) == ["strong and weak are the same model"]
    there = Side(url="http://localhost:1/v1", name="big", base="one")
    assert complaints(there, Side()) == ["an endpoint cannot score the end of a turn"]
    assert complaints(there, Side(), "remote", ended=False) == [
        "engine.kind is remote, and the two models need addresses"
    ]
