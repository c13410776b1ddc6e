"""Policies: built-in ones, files of one's own, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.errors import UserError
from camelid.policy import BUILT_IN, read_policy

OWN = """\
prefix = "R"
[[category]]
key = "spoilers"
name = "Spoilers"
description = "Tells the end of a story."
[[category]]
key = "ads"
name = "Advertising"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_built_in_policies_are_whole() -> None:
    names = [path.stem for path in BUILT_IN.glob("*.toml")]
    sizes = {name: len(read_policy(name).categories) for name in names}
    assert sizes == {"six-categories": 6, "moderation": 5, "hazards": 14}
    assert all(category.description for category in read_policy("six-categories").categories)


def test_codes_follow_the_order_of_the_prompt(own: Path) -> None:
    policy = read_policy(str(own))
    assert policy.write(descriptions=False) == "R1: Spoilers.\nR2: Advertising."
    assert policy.write(descriptions=True) == "R1: Spoilers.\nTells the end of a story.\nR2: Advertising."
    turned = policy.ordered(["ads", "spoilers"])
    assert (turned.code("ads"), turned.code("spoilers")) == ("R1", "R2")
    assert policy.only({"ads"}).write(descriptions=False) == "R1: Advertising."


@pytest.mark.parametrize(("text", "what"), [
    ("prefix = ", "not valid TOML"),
    ('prefix = "S"', "category: Field required"),
    ('[[category]]\nkey = "a"', r"category\.0\.name: Field required"),
    ('[[category]]\nkey = "a"\nname = "A"\nwhy = "x"', r"category\.0\.why: Extra inputs"),
    ('[[category]]\nkey = "a"\nname = "A"\n[[category]]\nkey = "a"\nname = "B"', "several categories with the key 'a'"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(text: str, what: str, own: Path) -> None:
    own.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=what):
        read_policy(str(own))


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(UserError, match="there is no policy 'hazard'") as raised:
        read_policy("hazard")
    assert "hazards" in raised.value.fix
