"""Four layers, each over the one before; every unknown key and wrong value found at once, with name and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from camelid import recipe
from camelid.errors import UserError
from camelid.recipe import field_names, field_types, parse_override, parse_value, read_recipe, write_recipe

FILE = """\
# a comment
pooling = "mean"

[data]
train = "emotion"
train_rows = 100
text = "body"

[plan]
epochs = 4
learning_rate = 1e-3

[scale.gpu]
pooling = "max"
[scale.gpu.plan]
epochs = 9
batch_rows = 64
"""


class Recipe(recipe.Recipe):
    data: recipe.Data = Field(default_factory=recipe.Data)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    pooling: Literal["last", "mean", "max"] = Field(default="last", description="how")
    compare: bool = Field(default=False, description="or not")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def problems(path: Path, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as raised:
        read_recipe(Recipe, path, **options)
    return [(problem.what, problem.fix) for problem in raised.value.all()]


def test_layers_override_one_another(file: Path) -> None:
    plain = read_recipe(Recipe, file)
    assert (plain.pooling, plain.plan.epochs, plain.plan.batch_rows) == ("mean", 4, 16)
    scaled = read_recipe(Recipe, file, scale="gpu")
    assert (scaled.pooling, scaled.plan.epochs, scaled.plan.batch_rows) == ("max", 9, 64)
    set_ = read_recipe(Recipe, file, scale="gpu", overrides={"plan.epochs": 1, "pooling": "last"})
    assert (set_.pooling, set_.plan.epochs, set_.plan.batch_rows, set_.plan.learning_rate) == ("last", 1, 64, 1e-3)


def test_rows_of_ones_own_drop_the_files_data_table(file: Path) -> None:
    own = read_recipe(Recipe, file, overrides={"data.train": "mine.csv", "data.label": "y"}).data
    assert own == recipe.Data(train="mine.csv", label="y")
    assert (own.train_rows, own.text) == (None, "text")
    other = read_recipe(Recipe, file, overrides={"data.label": "y"}).data
    assert (other.train, other.train_rows, other.text, other.label) == ("emotion", 100, "body", "y")


def test_an_unknown_key_in_the_file_has_nearest_name_and_line(file: Path) -> None:
    file.write_text(FILE.replace("learning_rate", "lerning_rate"), encoding="utf-8")
    assert problems(file) == [(f"{file} line 11: unknown field plan.lerning_rate", "Did you mean plan.learning_rate?")]


def test_an_unknown_top_level_key_and_table_have_their_lines(file: Path) -> None:
    file.write_text(FILE.replace('pooling = "mean"', 'poling = "mean"').replace("[plan]", "[plam]"), encoding="utf-8")
    assert problems(file) == [
        (f"{file} line 2: unknown field poling", "Did you mean pooling?"),
        (f"{file} line 9: unknown field plam", f"The fields are: {', '.join(field_names(Recipe))}."),
    ]


def test_an_unknown_key_of_the_command_line_says_so(file: Path) -> None:
    found = problems(file, overrides={"plan.epocs": 2, "epochs": 2})
    assert found == [
        ("command line: unknown field plan.epocs", "Did you mean plan.epochs?"),
        ("command line: unknown field epochs", "Did you mean plan.epochs?"),
    ]


def test_a_far_off_key_lists_the_fields(file: Path) -> None:
    [(what, fix)] = problems(file, overrides={"zzz": 1})
    assert what == "command line: unknown field zzz"
    assert fix.startswith("The fields are: model.base, model.revision, data.train,")


def test_wrong_values_of_all_layers_are_found_at_once(file: Path) -> None:
    file.write_text(FILE.replace("epochs = 4", 'epochs = "four"').replace('"body"', "7"), encoding="utf-8")
    found = [what for what, _ in problems(file, overrides={"plan.batch_rows": 0, "pooling": "first"})]
    assert found == [
        f"{file} line 7: data.text = 7: input should be a valid string",
        f"{file} line 10: plan.epochs = 'four': input should be a valid integer, unable to parse string as an integer",
        "command line: plan.batch_rows = 0: input should be greater than or equal to 1",
        "command line: pooling = 'first': input should be 'last', 'mean' or 'max'",
    ]


def test_a_wrong_value_of_a_scale_has_the_line_of_the_scale(file: Path) -> None:
    file.write_text(FILE.replace("epochs = 9", "epochs = 0"), encoding="utf-8")
    assert read_recipe(Recipe, file).plan.epochs == 4
    [(what, _)] = problems(file, scale="gpu")
    assert what == f"{file} line 16: plan.epochs = 0: input should be greater than or equal to 1"


def test_a_wrong_value_before_a_scale_keeps_its_own_line(file: Path) -> None:
    file.write_text(FILE.replace("rate = 1e-3", "rate = 0") + "learning_rate = 2e-3\n", encoding="utf-8")
    [(what, _)] = problems(file)
    assert what == f"{file} line 11: plan.learning_rate = 0: input should be greater than 0"
    assert read_recipe(Recipe, file, scale="gpu").plan.learning_rate == 2e-3


def test_a_key_in_an_inline_table_has_the_line_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('pooling = "max"\nplan = { epocs = 2 }\n', encoding="utf-8")
    assert problems(path) == [(f"{path} line 2: unknown field plan.epocs", "Did you mean plan.epochs?")]


def test_a_value_of_two_types_is_one_problem(file: Path) -> None:
    [(what, _)] = problems(file, overrides={"plan.adapt_from_layer": "quarter"})
    assert what == (
        "command line: plan.adapt_from_layer = 'quarter': input should be a valid integer, "
        "unable to parse string as an integer; or input should be 'half' or 'two-thirds'"
    )


def test_an_item_of_a_list_is_a_problem_of_its_field(file: Path) -> None:
    [(what, _)] = problems(file, overrides={"plan.lora_targets": ["q_proj", 3]})
    assert what == "command line: plan.lora_targets = 3: input should be a valid string"


@pytest.mark.parametrize("overrides", [{"pooling.x": 1}, {"plan.epochs.x": 1}])
def test_a_value_is_no_table(file: Path, overrides: dict[str, Any]) -> None:
    [(what, fix)] = problems(file, overrides=overrides)
    name = next(iter(overrides))
    assert what == f"{name} cannot be set: {name.split('.')[-2]} is a single value"
    assert "camelid show" in fix


def test_a_value_in_place_of_a_table_is_of_the_command_line(file: Path) -> None:
    [(what, _)] = problems(file, overrides={"plan": 3})
    assert what.startswith("command line: plan = 3: input should be a valid dictionary")


def test_a_missing_file_names_the_way_on(tmp_path: Path) -> None:
    [(what, fix)] = problems(tmp_path / "no.toml")
    assert what == f"there is no recipe file {tmp_path / 'no.toml'}"
    assert "camelid list" in fix


def test_broken_toml_has_its_line(file: Path) -> None:
    file.write_text(FILE.replace('"emotion"', "emotion"), encoding="utf-8")
    [(what, _)] = problems(file)
    assert what.startswith(f"{file} is not valid TOML: ")
    assert "line 5" in what


def test_a_recipe_that_is_not_utf8_says_so(file: Path) -> None:
    file.write_bytes(b'pooling = "m\xe9an"\n')
    assert problems(file) == [(f"{file} is not UTF-8 (byte 12)", "Save the recipe as UTF-8.")]


def test_an_unknown_scale_names_the_others(file: Path) -> None:
    [(what, fix)] = problems(file, scale="cpu")
    assert what == f"{file} has no [scale.cpu]; it has: gpu"
    assert fix == "Choose one of those, or drop --scale."


def test_what_is_written_is_read_back_equal(tmp_path: Path, file: Path) -> None:
    odd = {"data.train": 'ro"ws\\ 😀.csv', "data.text": "te\nxt", "plan.learning_rate": 1 / 3, "compare": True}
    for given in (Recipe(), read_recipe(Recipe, file, scale="gpu"), read_recipe(Recipe, file, overrides=odd)):
        write_recipe(tmp_path / "copy.toml", given)
        assert read_recipe(Recipe, tmp_path / "copy.toml") == given


def test_the_written_recipe_says_every_value(tmp_path: Path) -> None:
    write_recipe(tmp_path / "copy.toml", Recipe())
    text = (tmp_path / "copy.toml").read_text(encoding="utf-8")
    absent = {
        "model.revision",
        "data.dev",
        "data.test",
        "data.tokens",
        "data.tags",
        "plan.patience",
        "data.train_per_class",
    }
    absent |= {f"data.{role}_rows" for role in ("train", "dev", "test")}
    for name in set(field_names(Recipe)) - absent:
        assert f"{name.rpartition('.')[2]} = " in text


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().plan.epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("plan.epochs=2", ("plan.epochs", 2)),
        (" plan.epochs = 2 ", ("plan.epochs", 2)),
        ("plan.learning_rate=1e-4", ("plan.learning_rate", 1e-4)),
        ("compare=true", ("compare", True)),
        ("pooling=mean", ("pooling", "mean")),
        ('pooling="mean"', ("pooling", "mean")),
        ("data.train=a=b.csv", ("data.train", "a=b.csv")),
        ("data.train=", ("data.train", "")),
        ('plan.lora_targets=["q_proj", "v_proj"]', ("plan.lora_targets", ["q_proj", "v_proj"])),
        ("data.train=runs/2024-01/x y.csv", ("data.train", "runs/2024-01/x y.csv")),
    ],
)
def test_an_override_is_read_as_toml_or_as_it_stands(assignment: str, expected: tuple[str, Any]) -> None:
    assert parse_override(assignment) == expected


@pytest.mark.parametrize("assignment", ["plan.epochs", "=2", " =2", ""])
def test_an_override_needs_a_name_and_a_value(assignment: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_override(assignment)
    assert raised.value.what == f"--set {assignment!r} is not of the form name=value"
    assert raised.value.fix == "Write for example --set plan.epochs=2"


@pytest.mark.parametrize("raw", ["3", "true", "1e5", "2024.10", "2024-01-01", "[a]", "nan"])
def test_a_name_of_a_column_is_taken_as_it_stands(raw: str) -> None:
    types = field_types(Recipe)
    assert parse_override(f"data.label={raw}", types) == ("data.label", raw)
    assert parse_value(raw, types["data.dev"]) == raw
    assert parse_value(f'"{raw}"', types["data.label"]) == raw


def test_field_names_are_dotted_and_in_order() -> None:
    names = field_names(Recipe)
    assert names[:3] == ["model.base", "model.revision", "data.train"]
    assert names[-2:] == ["pooling", "compare"]
    assert field_types(Recipe)["plan.epochs"] is int


def test_every_field_has_help() -> None:
    tables = [recipe.Model, recipe.Data, recipe.Plan]
    assert [name for table in tables for name, field in table.model_fields.items() if not field.description] == []
