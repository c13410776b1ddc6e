"""Labels of every kind through a whole run; class weights, temperature, masked tokens, ranges of layers, windows."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from camelid import bases, labelling, methods, models, prediction
from camelid.batches import Batch, Tokens, collate_rows
from camelid.data import read_splits
from camelid.errors import UserError
from camelid.heads import Sight, attention_spans, build_head, run_trunk
from camelid.labelling import balanced_weights, fit_temperature
from camelid.methods.classify import ls_llama
from camelid.methods.classify.ls_llama import mask_tokens
from camelid.objectives import binary_cross_entropy, cross_entropy, squared_error
from camelid.prediction import find_entities, predict_file, split_words
from camelid.reading import Reading, tell_answer
from camelid.recipe import Data, Plan
from camelid.rows import Labelled, Predicted
from camelid.training import trainable
from conftest import batch_of, invoke, labelled_rows, make_tokenizer, tiny_trunk, write_csv, write_jsonl


@pytest.fixture
def on_tweets(tiny_model: Path, tweets_csv: Path) -> dict[str, Any]:
    """Fields of a run on `tweets_csv` that adapts every layer."""
    return {"data.train": str(tweets_csv), "model.base": str(tiny_model), "plan.adapt_from_layer": 0}


def many_rows() -> list[dict[str, Any]]:
    """Texts with the labels "about" a thing and "loud" where they are cross."""
    return [
        {
            "text": row["text"],
            "label": ["about", "loud"] if row["label"] == "cross" else ["about"] if row["label"] == "glad" else [],
        }
        for row in labelled_rows()
    ]


def number_rows() -> list[dict[str, Any]]:
    return [
        {"text": row["text"], "label": {"cross": 90.0, "glad": 120.5, "plain": 100.0}[row["label"]]}
        for row in labelled_rows()
    ]


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_a_whole_run(task: str, tiny_model: Path, tmp_path: Path) -> None:
    rows = many_rows() if task == "multi-label" else number_rows()
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "run"
    options = ["--data", source, "--task", task, "--model", tiny_model, "--compare", "--out", out]
    options += ["--tuning", "full", "--epochs", 12, "--learning-rate", 1e-2, "--batch-rows", 8, "--adapt-from-layer", 0]
    result = invoke("run", "ls-llama", *options)
    assert result.exit_code == 0, result.output
    scores = json.loads((out / "scores.json").read_text())["held_out"]
    assert scores["task"] == task
    best = {"multi-label": "micro_f1", "regression": "r2"}[task]
    assert scores["systems"]["label supervision"][best]["value"] > 0.6
    assert len(scores["systems"]) == 3
    assert (out / "report.html").stat().st_size > 10_000
    unlabelled = write_csv(tmp_path / "new.csv", [{"text": row["text"]} for row in labelled_rows()[:9]])
    predict_file(out, unlabelled, tmp_path / "labels.jsonl")
    found = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    if task == "regression":
        assert {type(row["predicted"]) for row in found} == {float}
        assert np.corrcoef([r["predicted"] for r in found], [r["label"] for r in number_rows()[:9]])[0, 1] > 0.7
    else:
        assert {"probability_about", "probability_loud"} < set(found[0])
        right = [row["predicted"] == "|".join(gold["label"]) for row, gold in zip(found, many_rows())]
        assert sum(right) >= 7


def test_multi_label_cells(tmp_path: Path) -> None:
    """Lists, JSON in a cell, names between separators, and none."""
    rows = [{"text": f"text {n}", "label": cell} for n, cell in enumerate(["a|b", '["c", "a"]', "[]", " b "] * 5)]
    source = write_csv(tmp_path / "rows.csv", rows)
    splits = read_splits(Data(train=str(source), task="multi-label"), 0)
    found = {row.label for row in [*splits.train, *splits.dev]}
    assert found == {("a", "b"), ("a", "c"), (), ("b",)}
    write_csv(source, [{**row, "label": row["label"].replace("|", ";")} for row in rows])
    splits = read_splits(Data(train=str(source), task="multi-label", separator=";"), 0)
    assert ("a", "b") in {row.label for row in splits.train}


@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        ("regression", ["1.5", "two"], "holds 'two', not a number"),
        ("regression", ["1.5", "inf"], "not a number"),
        ("regression", ["3", "3"], "single number"),
        ("regression", ["3", ""], "no number in column 'label'"),
        ("multi-label", ["a|b", "a||b"], "holds nothing where a class should be"),
        ("multi-label", ["a|b", '["a"'], "a list that is not JSON"),
        ("multi-label", ["a|b", ""], "no labels in column 'label'"),
        ("multi-label", ["[]", "[]"], "single class"),
    ],
)
def test_wrong_cells(task: str, cells: list[str], message: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": cell} for n, cell in enumerate(cells * 10)]
    source = write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        read_splits(Data(train=str(source), task=task), 0)  # type: ignore[arg-type]


def logits_model(logits: torch.Tensor) -> Any:
    return lambda batch: logits


def test_losses_by_hand() -> None:
    """-log s(2) - log s(1) for labels [1, 0] of logits [2, -1]; (3 - 1)^2 = 4."""
    batch = Batch(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), counts={"loss": 2})
    terms, metrics = binary_cross_entropy(logits_model(torch.tensor([[2.0, -1.0]])), batch)
    assert terms["loss"].item() == pytest.approx(math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)), abs=1e-6)
    assert metrics == {"accuracy": 2.0}
    weighted, _ = binary_cross_entropy(logits_model(torch.tensor([[2.0, -1.0]])), batch, torch.tensor([3.0, 5.0]))
    assert weighted["loss"].item() == pytest.approx(
        3 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)), abs=1e-6
    )
    batch = Batch(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[1.0]]), counts={"loss": 1})
    assert squared_error(logits_model(torch.tensor([[3.0]])), batch)[0]["loss"].item() == 4.0


def test_class_weights_are_scikit_learns() -> None:
    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    rows = [Labelled(str(n), "here", "text", label) for n, label in enumerate(labels)]
    model = SimpleNamespace(task="labels", classes=["a", "b", "c"])
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    weights = balanced_weights(rows, model)
    assert weights.tolist() == pytest.approx(expected.tolist())
    assert sum(weights[model.classes.index(label)] for label in labels).item() == pytest.approx(len(labels))
    logits = torch.randn(10, 3)
    batch = Batch(
        torch.zeros(10, 1),
        torch.ones(10, 1),
        torch.tensor([model.classes.index(x) for x in labels]),
        counts={"loss": 10},
    )
    ours = cross_entropy(logits_model(logits), batch, weights)[0]["loss"] / 10
    torch.testing.assert_close(
        ours, torch.nn.functional.cross_entropy(logits, batch.labels_N, weights), atol=1e-6, rtol=0
    )


def test_multi_label_weights() -> None:
    rows = [Labelled(str(n), "here", "text", ("a",) if n < 2 else ("a", "b") if n < 3 else ()) for n in range(10)]
    weights = balanced_weights(rows, SimpleNamespace(task="multi-label", classes=["a", "b"]))
    assert weights.tolist() == pytest.approx([7 / 3, 9.0])


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(true: float) -> None:
    """Labels drawn from softmax(logits / t): the most likely temperature is t."""
    torch.manual_seed(0)
    logits = torch.randn(20_000, 4) * 3
    labels = torch.multinomial((logits / true).softmax(dim=-1), 1)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.05)
    drawn = (torch.rand_like(logits) < (logits / true).sigmoid()).float()
    assert fit_temperature(logits, drawn) == pytest.approx(true, rel=0.05)


def test_calibration_is_saved_and_changes_no_label(
    on_tweets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "LEAST_ROWS", 1)
    found = {}
    for calibrate in (True, False):
        options = on_tweets | {"plan.epochs": 2, "calibrate": calibrate}
        folder = methods.run("ls-llama", options, out=tmp_path / str(calibrate))
        handle = json.loads((folder / "model" / "handle.json").read_text())
        lines = (folder / "predictions" / "label-supervision.jsonl").read_text().splitlines()
        found[calibrate] = handle["settings"]["rescaling"]["temperature"], [json.loads(line) for line in lines]
    assert found[False][0] == 1.0 != found[True][0]
    for left, right in zip(found[True][1], found[False][1], strict=True):
        assert left["predicted"] == right["predicted"]
        raw = np.log([*right["probabilities"].values()]) / found[True][0]
        expected = np.exp(raw) / np.exp(raw).sum()
        assert [*left["probabilities"].values()] == pytest.approx(expected.tolist(), rel=1e-6)


UNUSUAL = {"attention": "bidirectional", "unmasked": [1, 2], "reads_padding": True, "pack_tokens": 8}


@pytest.mark.parametrize(
    "settings",
    [
        {
            "kind": "label",
            "classes": ["a", "b"],
            "pooling": "max",
            "sight": UNUSUAL,
            "task": "multi-label",
            "rescaling": {"temperature": 2.0, "mean": 3.0, "std": 4.0},
        },
        {"kind": "token", "classes": ["O", "B-x"], "sight": UNUSUAL},
        {"kind": "language", "sight": UNUSUAL},
    ],
    ids=lambda settings: settings["kind"],
)
def test_settings_build_the_model_they_came_from(settings: dict[str, Any]) -> None:
    """No value is its default, so one that got lost on the way would show."""
    built = build_head(settings, tiny_trunk()).settings()
    assert json.loads(json.dumps(built)) == settings


def test_spans_of_attention() -> None:
    assert attention_spans(Sight("causal"), 6) == [(0, 6, "causal")]
    assert attention_spans(Sight("bidirectional"), 6) == [(0, 6, "bidirectional")]
    middle = [(0, 2, "causal"), (2, 4, "bidirectional"), (4, 6, "causal")]
    assert attention_spans(Sight("bidirectional", (2, 4)), 6) == middle
    assert attention_spans(Sight("bidirectional", (3, 99)), 6) == [(0, 3, "causal"), (3, 6, "bidirectional")]


def test_a_range_of_layers_is_unmasked() -> None:
    """Layers 0 to 2, the middle one unmasked: the first token sees the last behind it, and not before."""
    trunk = tiny_trunk()
    row, changed = [3, 9, 5, 11], [3, 9, 5, 30]
    states = {}
    for unmasked in (None, [0, 3], [1, 2], [2, 3]):
        sight = Sight("bidirectional", unmasked)
        with torch.no_grad():
            states[str(unmasked)] = [run_trunk(trunk, sight, batch_of([ids]))[0] for ids in (row, changed)]
    whole, same = states["None"], states["[0, 3]"]
    torch.testing.assert_close(whole[0], same[0], atol=1e-6, rtol=0)
    for before, after in states.values():
        assert (before[0] - after[0]).abs().max() > 1e-5
    assert (states["[1, 2]"][0] - states["[2, 3]"][0]).abs().max() > 1e-5
    below: list[torch.Tensor] = []
    hook = trunk.layers[1].register_forward_hook(lambda module, inputs, output: below.append(output))
    with torch.no_grad():
        run_trunk(trunk, Sight("bidirectional", [2, 3]), batch_of([row]))
        run_trunk(trunk, Sight("causal"), batch_of([row]))
    hook.remove()
    assert torch.equal(below[0], below[1]), "below the range nothing changed"


def test_masked_tokens_are_told_at_the_one_before() -> None:
    ids = list(range(100, 121))
    row = mask_tokens(ids, 7, 0.2, random.Random(0))
    assert len(row.labels) == 4
    assert row.words is not None
    for place, label in zip(row.words, row.labels):
        assert row.ids[place + 1] == 7
        assert ids[place + 1] == label
    assert sum(left != right for left, right in zip(row.ids, ids)) == 4
    assert row.ids[0] == 100, "nothing stands before the first token"
    assert len(mask_tokens([1, 2], 7, 0.2, random.Random(0)).labels) == 1


def test_mntp_trains_the_adapter_that_label_supervision_starts_from(on_tweets: dict[str, Any], tmp_path: Path) -> None:
    options = on_tweets | {"plan.epochs": 1, "plan.learning_rate": 1e-2}
    options |= {"attention": "bidirectional", "mntp_epochs": 2}
    folder = methods.run("ls-llama", options, out=tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "adapted" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    plain = methods.run("ls-llama", options | {"mntp_epochs": 0}, out=tmp_path / "plain")
    first = [json.loads((run / "model" / "metrics.jsonl").read_text().splitlines()[0]) for run in (folder, plain)]
    assert first[0]["loss"] != first[1]["loss"], "label supervision starts from the adapted weights"
    adapted, base = models.load_handle(folder / "adapted")
    plan = Plan(lora_rank=16, lora_alpha=32)
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "mean", "sight": {"attention": "bidirectional"}}
    model = models.label_model(base, settings, plan, Reading(16), folder / "adapted")
    weights = dict(adapted.trunk.named_parameters())
    started = {name: value for name, value in model.trunk.named_parameters() if "lora_B" in name}
    assert started
    assert all(torch.equal(value, weights[name]) and value.abs().sum() > 0 for name, value in started.items())


def test_instruction_tuning_is_a_rival_over_seeds(on_tweets: dict[str, Any], tmp_path: Path) -> None:
    options = on_tweets | {"plan.epochs": 8, "plan.tuning": "full", "plan.learning_rate": 5e-3}
    options |= {"instruct": True, "seeds": 2}
    folder = methods.run("ls-llama", options, out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["held_out"]["systems"]) == {"instruction tuning", "label supervision"}
    seeds = scores["seeds"]["systems"]["instruction tuning"]
    assert seeds["seeds"] == [0, 1]
    assert seeds["mean"]["value"] == pytest.approx(sum(seeds["values"]) / 2)
    lines = [json.loads(line) for line in (folder / "instruction-tuning" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert (folder / "model-seed-1").is_dir()


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_language_model_is_saved_and_loaded(tuning: str, tiny_model: Path, tmp_path: Path) -> None:
    base = bases.open_base(str(tiny_model))
    plan = Plan(tuning=tuning, precision="float32")  # type: ignore[arg-type]
    model = models.language_model(base, {}, plan)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    batch = collate_rows([Tokens("0", [3, 9, 5, 11], [5, 7], [1, 3]), Tokens("1", [8, 2], [4], [0])], 0)
    models.save(model, tmp_path)
    loaded, _ = models.load_handle(tmp_path)
    with torch.no_grad():
        expected = model.eval()(batch)
        assert torch.equal(loaded(batch), expected)
        assert expected.shape == (3, base.config.vocab_size)
        whole = model.lm(input_ids=batch.ids_BT[:1]).logits[0]
        torch.testing.assert_close(expected[:2], whole[[1, 3]], atol=1e-5, rtol=0)


def test_the_answer_is_told_token_by_token(tiny_model: Path) -> None:
    tokenizer = bases.open_base(str(tiny_model)).tokenizer
    row = tell_answer(tokenizer, "Text: hm\nLabel:", " glad<|end|>", ended=False)
    answer = tokenizer(" glad<|end|>")["input_ids"]
    assert row.labels == answer
    assert row.words is not None
    assert [*row.ids, answer[-1]][row.words[0] + 1 :] == answer
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mntp_epochs": 1}, "need bidirectional attention"),
        ({"unmask_layers": [1, 2]}, "need bidirectional attention"),
        ({"attention": "bidirectional", "unmask_layers": [2, 2]}, "is no range of layers"),
        ({"attention": "bidirectional", "unmask_layers": [1, 9]}, "is no range of layers"),
        ({"attention": "bidirectional", "unmask_layers": [40, 50]}, "is no range of layers"),
        ({"paper_padding": True, "plan.pack_tokens": 64}, "cannot go together"),
        ({"max_tokens": 4096}, "is more than the 512 tokens"),
        ({"compare": True, "shots": 50}, "the longest prompt of the comparison has"),
        ({"data.train_rows": 1, "data.dev_rows": 1}, "has a single class"),
        ({"stride": 200, "max_tokens": 256}, "little or no overlap"),
        ({"stride": 8, "paper_padding": True}, "cannot go together"),
        ({"instruct": True, "data.task": "regression"}, "instruct needs one class a text"),
        ({"instruct": True, "data.tags": "label"}, "instruct needs one class a text"),
        ({"paper_padding": True, "data.tags": "label"}, "paper_padding is for labels of texts"),
    ],
)
def test_contradictions_are_told(
    options: dict[str, Any], message: str, on_tweets: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        methods.run("ls-llama", on_tweets | options, out=tmp_path / "run")
    assert any(message in problem.what for problem in raised.value.all())


def test_entities_have_characters() -> None:
    text = "Ada  Byron saw (New Cairo)."
    words = split_words(text)
    assert words == ("Ada", "Byron", "saw", "(", "New", "Cairo", ")", ".")
    tags = ["B-person", "I-person", "O", "O", "B-place", "I-place", "O", "O"]
    assert find_entities(text, words, tags) == [
        {"type": "person", "text": "Ada  Byron", "start": 0, "end": 10},
        {"type": "place", "text": "New Cairo", "start": 16, "end": 25},
    ]


def test_predicting_entities_of_plain_text(trained_tags: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "new.csv", [{"body": "Ada Byron left Oslo."}, {"body": "Grace, in Lima"}])
    predict_file(trained_tags, source, tmp_path / "out.jsonl", text="body")
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        row = json.loads(line)
        for found in row["entities"]:
            assert row["body"][found["start"] : found["end"]] == found["text"]


def test_entities_found_in_plain_text_have_their_characters(
    trained_tags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of the text are tagged; whatever is tagged B- is cut out of the text as it stands, spaces and all."""

    def tagged(_: Any, rows: Any, __: Any) -> list[Predicted]:
        tags = {"Ada": "B-person", "Byron": "I-person", "Oslo": "B-place"}
        return [Predicted(row.id, None, tuple(tags.get(word, "O") for word in row.tokens), {}) for row in rows]

    monkeypatch.setattr(prediction, "predict_with", tagged)
    source = write_csv(tmp_path / "new.csv", [{"body": "Ada  Byron, left (Oslo)."}])
    predict_file(trained_tags, source, tmp_path / "out.jsonl", text="body")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["entities"] == [
        {"type": "person", "text": "Ada  Byron", "start": 0, "end": 10},
        {"type": "place", "text": "Oslo", "start": 18, "end": 22},
    ]


def test_full_training_goes_on_from_an_adapted_model(on_tweets: dict[str, Any], tmp_path: Path) -> None:
    """What masked next-token prediction changed in all weights is what the label model starts from."""
    values = {"attention": "bidirectional", "mntp_epochs": 1, "plan.tuning": "full", "plan.epochs": 1}
    recipe = methods.resolve("ls-llama", on_tweets | values)
    folder = methods.run("ls-llama", on_tweets | values, out=tmp_path / "run")
    adapted = load_file(folder / "adapted" / "trunk" / "model.safetensors")
    started = ls_llama.build(recipe, recipe.plan, "labels", ["a", "b"], folder / "adapted")
    fresh = ls_llama.build(recipe, recipe.plan, "labels", ["a", "b"])
    name = "layers.0.self_attn.q_proj.weight"
    assert torch.equal(started.trunk.state_dict()[name], adapted[f"model.{name}"])
    assert not torch.equal(started.trunk.state_dict()[name], fresh.trunk.state_dict()[name])


def test_a_class_of_all_rows_or_none_weighs_one() -> None:
    """Nothing is there to be balanced: a weight of 0 would teach nothing, one without bound everything."""
    rows = [Labelled(str(n), "", "t", ("a", "b") if n < 1 else ("a",)) for n in range(4)]
    weights = balanced_weights(rows, SimpleNamespace(task="multi-label", classes=["a", "b", "c"]))
    assert weights.tolist() == [1.0, 3.0, 1.0]


def test_no_temperature_from_few_rows_or_from_rows_that_are_all_right() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]] * 15)
    right = torch.tensor([0, 1] * 15)
    assert fit_temperature(logits, right) == 1.0
    wrong = right.clone()
    wrong[:6] = 1 - wrong[:6]
    assert fit_temperature(logits, wrong) != 1.0
    assert fit_temperature(logits[:19], wrong[:19]) == 1.0


def test_windows_through_a_whole_run(tiny_model: Path, tmp_path: Path) -> None:
    """What tells the classes apart stands behind the first window."""
    labels = random.Random(4).choices("ab", k=40)
    ends = {"a": "yes yes yes", "b": "no no no"}
    rows = [{"text": f"{n} {'word ' * 30}{ends[label]}", "label": label} for n, label in enumerate(labels)]
    source = write_csv(tmp_path / "rows.csv", rows)
    common = ["--data", source, "--model", tiny_model, "--tuning", "full", "--epochs", 6, "--learning-rate", 5e-3]
    common += ["--max-tokens", 24, "--adapt-from-layer", 0, "--batch-rows", 8, "--pooling", "max"]
    accuracy = {}
    for name, more in (("cut", []), ("windows", ["--stride", 12])):
        result = invoke("run", "ls-llama", *common, *more, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        scores = json.loads((tmp_path / name / "scores.json").read_text())["held_out"]
        accuracy[name] = scores["systems"]["label supervision"]["accuracy"]["value"]
    assert accuracy["windows"] == 1.0
    assert accuracy["cut"] < 1.0


def test_answers_are_taught_with_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, taught = make_tokenizer(), []
    monkeypatch.setattr(labelling, "over_epochs", lambda tokens, *_: taught.extend(tokens))
    monkeypatch.setattr(labelling, "train", lambda *_, **__: None)
    labelling.fit_answers(None, tokenizer, [("How are you?", "Quite well.")], Plan(), tmp_path)
    assert taught[0].labels[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(taught[0].labels[:-1]).strip() == "Quite well."
