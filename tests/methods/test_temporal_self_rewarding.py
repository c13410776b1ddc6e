"""temporal-self-rewarding: the card's checks, broken on purpose where a toy would pass; the loop, resume, bad input."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from camelid import bases, chat, methods, models
from camelid.branches import encode_all
from camelid.engines import Sampling
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.judges import Answers, Parts, Scored, judge_by_model
from camelid.preferences import measure_features
from camelid.rows import Graded, Judged, Preference, iterate_rows
from camelid.runs import open_run, reopen_run
from conftest import invoke, make_chat_model, write_jsonl

tsr = methods.load("temporal-self-rewarding")
LN2 = 0.693147
ROW = Preference("0", "line 1", chat.converse("Why?"), "", "")


# Checks 1, 2 and 7: the pair


def scored(role: str, scores: Sequence[float]) -> Scored:
    return Scored(role, tuple(f"{role} {place}" for place in range(len(scores))), tuple(scores))


def pair_of(present: Sequence[float], past: Sequence[float] = (), future: Sequence[float] = (), seed: int = 0) -> Any:
    roles = zip(tsr.ROLES, (present, past, future), strict=True)
    return tsr.contrast(ROW, *(scored(role, scores) for role, scores in roles), random.Random(seed))


def test_check_1_phase_1_takes_the_worst_past_answer() -> None:
    found = pair_of([2, 4, 3], past=[1, 5, 3])
    assert (found.chosen, found.rejected) == ("present 1", "past 0")
    assert tuple(found.source.values()) == ("present", "past")
    assert (found.score_chosen, found.score_rejected) == (4, 1)


def test_check_1_a_past_answer_that_is_no_worse_is_not_taken() -> None:
    """min(s_0) = 2 is not smaller than min(s_i) = 2."""
    found = pair_of([2, 4, 3], past=[2, 5, 3])
    assert (found.chosen, found.rejected) == ("present 1", "present 0")


def test_check_1_phase_2_takes_the_best_future_answer() -> None:
    found = pair_of([2, 4, 3], past=[1, 5, 3], future=[4.5, 2, 3])
    assert (found.chosen, found.score_chosen, found.rejected, found.score_rejected) == ("future 0", 4.5, "past 0", 1)


def test_check_1_a_future_answer_that_is_no_better_is_not_taken() -> None:
    found = pair_of([2, 4, 3], past=[1, 5, 3], future=[4, 2, 3])
    assert (found.chosen, found.rejected) == ("present 1", "past 0")


SCORES = st.lists(st.integers(0, 10).map(lambda half: half / 2), max_size=5)


@given(present=SCORES, past=SCORES, future=SCORES, seed=st.integers(0, 9))
def test_check_2_roles(present: list[float], past: list[float], future: list[float], seed: int) -> None:
    """A past answer is never chosen, a future one never rejected, whatever their scores."""
    found = pair_of(present, past, future, seed)
    if isinstance(found, Graded):
        assert found.source["chosen"] in ("present", "future")
        assert found.source["rejected"] in ("present", "past")


def test_check_2_an_excellent_past_and_a_wretched_future() -> None:
    found = pair_of([2, 3], past=[5, 1], future=[0, 2.5])
    assert (found.chosen, found.rejected) == ("present 1", "past 1")


@given(present=SCORES, past=SCORES, future=SCORES, seed=st.integers(0, 9))
def test_check_7_dominance(present: list[float], past: list[float], future: list[float], seed: int) -> None:
    """gap(D_2) = max(s_i, s_f) - min(s_i, s_0) >= gap(D_1) >= gap(SR); what SR keeps, both phases keep."""
    plain, first, second = pair_of(present, seed=seed), pair_of(present, past), pair_of(present, past, future)
    if isinstance(plain, Graded):
        assert isinstance(first, Graded)
        assert tsr.gap(plain) == max(present) - min(present)
        assert tsr.gap(first) >= tsr.gap(plain)
    if isinstance(first, Graded):
        assert isinstance(second, Graded)
        assert tsr.gap(first) == max(present) - min([*present, *past])
        assert tsr.gap(second) == max([*present, *future]) - min([*present, *past])
        assert tsr.gap(second) >= tsr.gap(first)


def test_of_equal_scores_a_drawn_one_counts() -> None:
    """The order is drawn with the seed: not always the first, always the same."""
    chosen = [pair_of([3, 3, 3, 1], seed=seed).chosen for seed in range(40)]
    assert set(chosen) == {"present 0", "present 1", "present 2"}
    assert chosen == [pair_of([3, 3, 3, 1], seed=seed).chosen for seed in range(40)]
    assert tsr.find_first([1, 4, 4], [2, 0, 1], largest=True) == 2


def test_reasons_without_a_pair() -> None:
    assert pair_of([2, 2]) == "no difference of score"
    assert pair_of([]) == "no scored answer for one side"
    again = [Scored(role, ("the same",), (score,)) for role, score in (("present", 4.0), ("past", 1.0))]
    assert tsr.contrast(ROW, *again, Scored(), random.Random(0)) == "equal answers"
    assert isinstance(pair_of([2, 2], past=[1]), Graded)
    assert isinstance(pair_of([], past=[1], future=[2]), Graded)
    rows = [Preference(str(n), "", ROW.prompt, "", "") for n in range(3)]
    nobody = [Scored()] * 3
    present = [scored("present", scores) for scores in ([1, 2], [2, 2], [])]
    pairs, left = tsr.pair_up(rows, "0", present, nobody, nobody)
    assert [pair.id for pair in pairs] == ["0"]
    assert left == {"no difference of score": 1, "no scored answer for one side": 1}


# Check 5: the parser


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good.\nScore: 2\nOn reflection:\nScore: 4", 4),
        ("Score: 3.5/5", 3.5),
        ("Fine. **Score:** 4", 4),
        ("**Score**: 4.", 4),
        ("score: 0", 0),
        ("Total Score: 5", 5),
    ],
)
def test_check_5_scores(text: str, score: float) -> None:
    parsed = tsr.read_score(text)
    assert (parsed.outcome, parsed.value) == ("value", score)


@pytest.mark.parametrize(
    "text",
    [
        "Score: 7",
        "Score: 45",  # not 4
        "Score: -1",
        "Score: 3\nScore: 7",  # an invalid last line is not replaced by an earlier one
        "Score: 3\nScore: none",
        "Score: 4/10",
        "Score: 3-4",
        "Score: 1 + 1 + 1 = 3",  # not 1
        "It deserves a 4.",
        "Underscore: 4",
        "Score:\n4",
        "",
    ],
)
def test_check_5_no_scores(text: str) -> None:
    assert tsr.read_score(text).outcome == "malformed"


def test_check_5_unread_judgements_are_counted_and_left_out() -> None:
    """The mean of those that could be read; an answer without any has no score and makes no pair."""
    replies = ["Score: 2", "Score: 7", "no", "Score: 4", "Score: 3", "?"]
    judge = judge_by_model(ScriptedEngine(replies), tsr.ask_judge, tsr.read_score, Sampling(9, 0.7), 2, 0)
    (judged,) = judge([Answers("0", "", chat.converse("Why?"), ("a", "b", "c"))])
    assert judged.value["scores"] == [2, 4, 3]
    assert judged.value["outcomes"] == [["value", "malformed"], ["malformed", "value"], ["value", "malformed"]]
    silent = judge_by_model(ScriptedEngine(["?"] * 2), tsr.ask_judge, tsr.read_score, Sampling(9, 0.7), 2, 0)
    (judged,) = silent([Answers("0", "", chat.converse("Why?"), ("a",))])
    assert judged.value["scores"] == [None]


def test_the_judge_is_shown_question_and_answer() -> None:
    (message,) = tsr.ask_judge(chat.converse("How far is the moon?"), "384,000 km.")
    for words in ("How far is the moon?", "384,000 km.", "100 words", "from 0 to 5", "Score: 3"):
        assert words in message.content


# The loop on the tiny model


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("tsr") / "model")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"What is {n} and {n}?"} for n in range(24)])


def values_of(model: Path, prompts: Path, **more: Any) -> dict[str, Any]:
    """A run of seconds in float32, in which DPO begins at ln 2 to six digits."""
    values = {
        "model.base": str(model), "data.train": str(prompts), "data.chunk": 4, "data.test_rows": 4, "answers": 3,
        "max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0, "compare_iterations": 0, "plan.epochs": 2,
        "plan.batch_rows": 4, "plan.precision": "float32", "engine.precision": "float32",
        "plan.learning_rate": 1e-2, "pair_tokens": 128,
    }  # fmt: skip
    return values | {name.replace("__", "."): value for name, value in more.items()}


class Scripted:
    """A writer that signs its texts with the model, and a judge whose scores follow from the text; both remember."""

    def __init__(self, score: Callable[[str], float | None] | None = None) -> None:
        self.wrote: list[tuple[str, int, int]] = []
        self.judged: list[tuple[str, str]] = []
        self.score = score or (lambda text: random.Random(text).randrange(11) / 2)

    def writer(self, folder: Path) -> Any:
        def write(rows: Sequence[Preference], count: int, seed: int) -> list[Judged]:
            self.wrote.append((folder.name, count, seed))
            author = "-".join(folder.parts[-2:])
            texts = [[f"{author} says {row.id} {n} {seed}" for n in range(count)] for row in rows]
            return [
                Judged(row.id, row.origin, "value", {"texts": each, "left out": {}, "cut": 1}, "")
                for row, each in zip(rows, texts, strict=True)
            ]

        return write

    def judge(self, folder: Path) -> Any:
        def judge(rows: Sequence[Answers]) -> list[Judged]:
            self.judged += [("-".join(folder.parts[-2:]), text) for row in rows for text in row.texts]
            scores = [[self.score(text) for text in row.texts] for row in rows]
            return [
                Judged(row.id, row.origin, "value", {"scores": each, "judgements": [[one] for one in each]}, "")
                for row, each in zip(rows, scores, strict=True)
            ]

        return judge

    @property
    def parts(self) -> Parts:
        return Parts(self.writer, self.judge)


def loop(folder: Path, script: Scripted, values: dict[str, Any]) -> dict[str, Any]:
    recipe = methods.resolve("temporal-self-rewarding", values)
    with open_run(folder, recipe=recipe, method="temporal-self-rewarding", command=[]) as run:
        tsr.run(recipe, run, script.parts)
        run.finish()
    return json.loads((folder / "scores.json").read_text())


def place_of(folder: Path, number: int, loop: str = "temporal-self-rewarding") -> Path:
    return folder / loop / f"iteration-{number}"


def test_check_3_the_present_model_judges(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Also the answers of M_0 and of M_f; the judge is never given the folder of M_f."""
    script = Scripted()
    loop(tmp_path / "run", script, values_of(chat_model, prompts))
    by_author: dict[str, set[str]] = {}
    held_out = {row.id for row in iterate_rows(tmp_path / "run" / "test.jsonl")}
    for judge, text in script.judged:
        if text.split(" says ")[1].split()[0] not in held_out:
            by_author.setdefault(text.split(" says ")[0], set()).add(judge)
    first, second = "iteration-0-next", "iteration-1-next"
    assert by_author == {
        "run-start": {"run-start", first},  # M_0, judged by itself and by M_1
        "iteration-0-future": {"run-start"},
        first: {first},
        "iteration-1-future": {first},
    }
    assert not {judge for judge, _ in script.judged} & {"iteration-0-future", "iteration-1-future", second}


def test_check_4_restart(chat_model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M_{i+1} begins at M_i and not at M_f; DPO's first loss is ln 2, since policy and reference are the same."""
    begun: dict[str, dict[str, torch.Tensor]] = {}

    def spy(model: Any, *args: Any, folder: Path, **options: Any) -> None:
        begun["-".join(folder.parts[-2:])] = {
            name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad
        }
        train(model, *args, folder=folder, **options)

    train = tsr.train
    monkeypatch.setattr(tsr, "train", spy)
    loop(tmp_path / "run", Scripted(), values_of(chat_model, prompts))
    for number, name in ((0, "future"), (0, "next"), (1, "future"), (1, "next")):
        start = tmp_path / "run" / "start" if number == 0 else place_of(tmp_path / "run", 0) / "next"
        saved = load_file(start / "adapter_model.safetensors")
        for key, value in begun[f"iteration-{number}-{name}"].items():
            inside = key.removeprefix("lm.model.").replace(".default.", ".")
            torch.testing.assert_close(saved[models.PEFT_PREFIX + inside], value, rtol=0, atol=0)
        lines = (place_of(tmp_path / "run", number) / name / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["loss"] == pytest.approx(LN2, abs=1e-5)
        assert json.loads(lines[-1])["loss"] < LN2 - 1e-3
    future = load_file(place_of(tmp_path / "run", 0) / "future" / "adapter_model.safetensors")
    kept = load_file(place_of(tmp_path / "run", 0) / "next" / "adapter_model.safetensors")
    assert any(not torch.equal(future[name], kept[name]) for name in kept)


def test_check_4_the_reference_is_the_present_model(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """In both phases of the second iteration: log-probabilities of M_1, as it is rebuilt from its folder."""
    from camelid import preferences
    from camelid.reading import pad_id

    folder = tmp_path / "run"
    loop(folder, Scripted(), values_of(chat_model, prompts))
    model, base = models.load_handle(place_of(folder, 0) / "next")
    for phase, name in ((1, "future"), (2, "next")):
        pairs = list(iterate_rows(place_of(folder, 1) / f"pairs-{phase}.jsonl"))
        told, _ = encode_all(base.tokenizer, pairs, 128)  # type: ignore[arg-type]
        kept = load_file(place_of(folder, 1) / f"reference-{name}.safetensors")
        again = preferences.measure_logprobs(model, told, pad_id(base.tokenizer), "")
        np.testing.assert_allclose(kept["logprobs"].numpy(), again, atol=1e-4)


@pytest.mark.parametrize("judgements", [1, 3])
def test_check_6_prices(judgements: int) -> None:
    """SR: K answers, K J judgements, one run of DPO. TSR: 3 K and 3 K J, 2 K and 2 K J at i = 0, two runs of DPO."""
    count, told = 7, 7 * judgements
    price = {
        name: [rule.price(first, count, judgements) for first in (True, False)] for name, rule in tsr.RULES.items()
    }
    assert price["self-rewarding"] == [{"answers": count, "judgements": told, "DPO runs": 1}] * 2
    assert price["both"][0] == {"answers": 2 * count, "judgements": 2 * told, "DPO runs": 2}
    assert price["both"][1] == {"answers": 3 * count, "judgements": 3 * told, "DPO runs": 2}
    assert [each["answers"] for each in price["past"]] == [count, 2 * count]
    assert [each["DPO runs"] for each in price["past"] + price["future"]] == [1, 1, 2, 2]


def test_check_6_what_is_logged_is_what_was_done(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """4 prompts, K = 3, beside 3 iterations of SR; every prompt has a pair, so that prices are met."""
    script = Scripted()
    scores = loop(tmp_path / "run", script, values_of(chat_model, prompts, compare_iterations=3))
    spent = [scores[f"temporal-self-rewarding, iteration-{number}"]["spent"] for number in (0, 1)]
    plain = [scores[f"self-rewarding, iteration-{number}"]["spent"] for number in (0, 1, 2)]
    for number, found in enumerate(spent):
        price = tsr.RULES["both"].price(number == 0, 3 * 4, 1)
        assert {name: found[name] for name in price} == price
    for found in plain:
        assert (found["answers"], found["judgements"], found["DPO runs"]) == (12, 12, 1)
    runs = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    stages = [run["stage"] for run in runs]
    assert sum(stage.endswith(("/future", "/next")) for stage in stages) == sum(f["DPO runs"] for f in spent + plain)
    pairs = [scores["temporal-self-rewarding, iteration-0"][f"phase {phase}"]["pairs in DPO"] for phase in (1, 2)]
    assert spent[0]["pairs seen in DPO"] == 2 * sum(pairs)
    curves = scores["curves"]["lines"]
    assert [drawn for drawn, _ in curves["temporal self-rewarding"]] == [0, 24, 60]
    assert [drawn for drawn, _ in curves["self-rewarding"]] == [0, 12, 24, 36]


def kept_scores(place: Path, role: str) -> list[list[float]]:
    path = place / f"scores-{role}.jsonl"
    return [[score for score in one.value["scores"] if score is not None] for one in iterate_rows(path)]  # type: ignore[union-attr]


def assert_dominates(place: Path, rows: Sequence[Any]) -> None:
    """Check 7 on the files of an iteration."""
    present, future = kept_scores(place, "present"), kept_scores(place, "future")
    past = kept_scores(place, "past") if (place / "scores-past.jsonl").exists() else [[] for _ in present]
    gaps = [
        {pair.id: tsr.gap(pair) for pair in iterate_rows(place / f"pairs-{phase}.jsonl")}  # type: ignore[union-attr]
        for phase in (1, 2)
    ]
    for row, s_i, s_0, s_f in zip(rows, present, past, future, strict=True):
        plain = max(s_i) - min(s_i) if s_i else 0
        first = max(s_i) - min(s_i + s_0) if s_i else 0
        second = max(s_i + s_f) - min(s_i + s_0) if s_i else 0
        assert second >= first >= plain
        for kept, value in zip(gaps, (first, second), strict=True):
            assert (row.id in kept) == (value > 0)
            assert kept.get(row.id, 0) == value


def test_check_7_on_the_stored_scores(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Exactly, with some answers that have no score, in both iterations."""
    script = Scripted(lambda text: None if len(text) % 7 == 0 else random.Random(text).randrange(7) / 2)
    loop(tmp_path / "run", script, values_of(chat_model, prompts, data__chunk=8))
    rows = list(iterate_rows(tmp_path / "run" / "prompts.jsonl"))
    for number in (0, 1):
        assert_dominates(place_of(tmp_path / "run", number), rows[8 * number : 8 * number + 8])


def test_pairs_say_where_they_come_from(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Model, score and text of both sides can be found again in the files of answers and scores."""
    loop(tmp_path / "run", Scripted(), values_of(chat_model, prompts))
    place = place_of(tmp_path / "run", 1)
    pairs: list[Any] = list(iterate_rows(place / "pairs-2.jsonl"))
    assert pairs
    for pair in pairs:
        for role, text, score in zip(
            pair.source.values(), (pair.chosen, pair.rejected), (pair.score_chosen, pair.score_rejected), strict=True
        ):
            texts = {one.id: one.value["texts"] for one in iterate_rows(place / f"answers-{role}.jsonl")}  # type: ignore[union-attr]
            told = {one.id: one.value["scores"] for one in iterate_rows(place / f"scores-{role}.jsonl")}  # type: ignore[union-attr]
            assert told[pair.id][texts[pair.id].index(text)] == score


def test_chunks_are_new_and_hold_no_held_out_prompt(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    script = Scripted()
    loop(tmp_path / "run", script, values_of(chat_model, prompts, iterations=3))
    chunks = [
        {one.id for one in iterate_rows(place_of(tmp_path / "run", number) / "answers-present.jsonl")}
        for number in (0, 1, 2)
    ]
    chunks.append({row.id for row in iterate_rows(tmp_path / "run" / "test.jsonl")})
    assert [len(chunk) for chunk in chunks] == [4, 4, 4, 4]
    assert len(set.union(*chunks)) == 16
    seeds = [seed for _, _, seed in script.wrote[: 2 + 3 + 3]]
    assert len(set(seeds)) == len(seeds), "a model little changed must not write the same texts in another role"


@pytest.mark.parametrize(
    ("pairs", "roles", "tuned"),
    [
        ("self-rewarding", [["present"], ["present"]], ["next"]),
        ("past", [["present"], ["past", "present"]], ["next"]),
        ("future", [["future", "present"], ["future", "present"]], ["future", "next"]),
    ],
)
def test_other_rules(
    pairs: str, roles: list[list[str]], tuned: list[str], chat_model: Path, prompts: Path, tmp_path: Path
) -> None:
    scores = loop(tmp_path / "run", Scripted(), values_of(chat_model, prompts, pairs=pairs))
    for number in (0, 1):
        place = place_of(tmp_path / "run", number, pairs)
        assert sorted(path.stem[8:] for path in place.glob("answers-*")) == roles[number]
        assert sorted(path.name for path in place.iterdir() if path.is_dir()) == tuned
        found = [tuple(pair.source.values()) for pair in iterate_rows(place / f"pairs-{len(tuned)}.jsonl")]  # type: ignore[union-attr]
        assert {role for pair in found for role in pair} <= set(roles[number])
    assert scores["held_out"]["ours"] == pairs


def test_a_chunk_without_pairs_keeps_the_model(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Every score is the same: nothing is tuned, and the loop goes on with M_0."""
    scores = loop(tmp_path / "run", Scripted(lambda text: 3.0), values_of(chat_model, prompts))
    for number in (0, 1):
        found = scores[f"temporal-self-rewarding, iteration-{number}"]
        assert found["spent"]["DPO runs"] == 0
        assert found["phase 2"]["prompts without a pair"] == {"no difference of score": 4}
        assert not (place_of(tmp_path / "run", number) / "next").exists()
    start, final = (load_file(tmp_path / "run" / name / "adapter_model.safetensors") for name in ("start", "model"))
    assert all(torch.equal(start[name], final[name]) for name in start)
    assert (tmp_path / "run" / "manifest.json").read_text().count('"finished": true') == 1


@pytest.mark.parametrize("threshold", [{"least_pairs": 5}, {"least_gap": 5.5}])
def test_thresholds_end_the_loop(threshold: dict[str, Any], chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    scores = loop(tmp_path / "run", Scripted(), values_of(chat_model, prompts, **threshold))
    assert scores["temporal-self-rewarding, iteration-0"]["spent"]["DPO runs"] == 0
    assert "temporal-self-rewarding, iteration-1" not in scores


def test_a_resumed_run_is_the_uninterrupted_one(
    chat_model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second run of DPO, and again while M_1 writes; bit for bit, by the recipe's own judge."""
    values = values_of(chat_model, prompts, plan__checkpoint_seconds=0)
    whole = methods.run("temporal-self-rewarding", values, out=tmp_path / "whole")
    train, calls = tsr.train, []

    def killed(*args: Any, **options: Any) -> None:
        calls.append(1)

        def stop(step: int) -> None:
            if len(calls) == 2 and step == 2:
                raise KeyboardInterrupt

        train(*args, after_step=stop, **options)

    monkeypatch.setattr(tsr, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        methods.run("temporal-self-rewarding", values, out=tmp_path / "killed")
    assert (place_of(tmp_path / "killed", 0) / "next" / "checkpoints").is_dir()
    methods.resume(tmp_path / "killed")
    for name in ("scores.json", "model/adapter_model.safetensors", "temporal-self-rewarding/iteration-1/pairs-2.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes(), name
    assert len(calls) == 5, "what was finished is not trained again"


# Diagnostics


def test_the_margin_is_that_of_dpo() -> None:
    """beta ((-8 + 10) - (-12 + 11)) = 0.1 * 3."""
    assert tsr.implicit_margin(0.1, [[-8.0, -12.0]], [[-10.0, -11.0]]).tolist() == pytest.approx([0.3])


def test_features_are_mean_states_of_answers(chat_model: Path) -> None:
    """Against each answer by itself behind its prompt, at the positions that tell its tokens."""
    from camelid.recipe import Plan

    base = bases.open_base(str(chat_model))
    model = models.language_model(base, {}, Plan(precision="float32"))
    row = Preference("0", "", chat.converse("Why is it so late?"), "It was the bus", "no")
    (told,), _ = encode_all(base.tokenizer, [row], None)
    found = measure_features(model, [told], 0)
    for place, answer in enumerate(told.answers):
        ids = torch.tensor([[*told.prompt, *answer[:-1]]])
        with torch.no_grad():
            states = model.trunk(input_ids=ids).last_hidden_state[0, len(told.prompt) - 1 :]
        assert len(states) == len(answer)
        np.testing.assert_allclose(found[place], states.mean(dim=0).numpy(), atol=1e-5)


def test_figures_of_an_iteration(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Means and counts follow from the files; the margin grows above 0, as DPO wants it."""
    folder = tmp_path / "run"
    scores = loop(folder, Scripted(), values_of(chat_model, prompts))
    found, place = scores["temporal-self-rewarding, iteration-1"], place_of(folder, 1)
    pairs: list[Any] = list(iterate_rows(place / "pairs-2.jsonl"))
    phase = found["phase 2"]
    assert phase["mean gap"] == pytest.approx(fmean(pair.score_chosen - pair.score_rejected for pair in pairs))
    assert sum(phase["chosen of"].values()) == phase["pairs"] == len(pairs)
    assert found["answers"]["future"]["cut off at the limit"] == 4
    assert found["answers"]["past"]["mean score"] == pytest.approx(fmean(chain(*kept_scores(place, "past"))))
    assert -1 <= phase["cosine of chosen and rejected"] <= 1
    assert phase["implicit margin after"] > 0
    assert phase["sigmoid(-margin) after"] < 0.5


def test_lessons_make_the_start(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """IFT and EFT rows tune M_0; a judgement without a score is an error, or counted."""
    ift = write_jsonl(tmp_path / "ift.jsonl", [{"prompt": f"Say {n}", "answer": str(n)} for n in range(4)])
    verdicts = [{"prompt": "Say 1", "answer": "1", "verdict": f"Right.\nScore: {n}"} for n in (4, 9)]
    eft = write_jsonl(tmp_path / "eft.jsonl", verdicts)
    values = values_of(chat_model, prompts, data__lessons=str(ift), data__verdicts=str(eft), iterations=1)
    recipe = methods.resolve("temporal-self-rewarding", values)
    with pytest.raises(UserError, match="ends in no score") as error:
        tsr.check(recipe)
    assert "--missing drop" in error.value.fix
    loop(tmp_path / "run", Scripted(), values | {"data.missing": "drop"})
    lessons: list[Any] = list(iterate_rows(tmp_path / "run" / "lessons" / "rows.jsonl"))
    assert [row.chosen for row in lessons] == ["0", "1", "2", "3", "Right.\nScore: 4"]
    assert "Say 1" in lessons[-1].prompt[0].content
    assert (tmp_path / "run" / "start" / "metrics.jsonl").is_file()
    dropped = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes"]["data"]["dropped"]
    assert any("verdicts" in reason and count == 1 for reason, count in dropped.items())


def test_the_judge_is_tried_on_pairs(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Two right, one tie, one wrong: 2.5 of 4."""
    pairs = [("5", "1"), ("4", "2"), ("3", "3"), ("1", "2")]
    rows = [{"prompt": f"p{n}", "chosen": f"a{a}", "rejected": f"b{b}"} for n, (a, b) in enumerate(pairs)]
    probe = write_jsonl(tmp_path / "probe.jsonl", rows)
    script = Scripted(lambda text: float(text[-1]) if text[0] in "ab" else random.Random(text).random())
    scores = loop(tmp_path / "run", script, values_of(chat_model, prompts, data__probe=str(probe), iterations=1))
    assert scores["judge"]["agreement"]["value"] == 0.625
    assert (scores["judge"]["pairs"], scores["judge"]["ties"]) == (4, 1)


# The recipe, its command line, and users' mistakes


def test_the_recipe_on_the_command_line(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    options = ["--data", prompts, "--chunk", 3, "--test-rows", 3, "--model", chat_model, "--answers", 2]
    options += ["--max-new-tokens", 5, "--epochs", 1, "--compare-iterations", 2, "--set", "judge=rule"]
    told = invoke("check", "temporal-self-rewarding", *options)
    assert told.exit_code == 0, told.output
    assert "2 iterations, at most 30 answers, 30 judgements, 4 DPO runs" in told.output
    result = invoke("run", "temporal-self-rewarding", *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "run" / "report.html").read_text()
    for words in (
        "temporal self-rewarding",
        "Mean score of held-out answers by answers drawn and judged",
        "How gaps are spread",
    ):
        assert words in page, words


def test_a_judge_that_cannot_read_is_told(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """The judge's prompt is too long for the tiny model: counted, nothing is tuned, and the run says so."""
    values = values_of(chat_model, prompts, judge="self", judgements=2, judge_tokens=8, iterations=1)
    with pytest.raises(UserError, match="no held-out prompt has a scored answer"):
        methods.run("temporal-self-rewarding", values, out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "scores.json").read_text())["temporal-self-rewarding, iteration-0"]
    assert found["answers"]["present"]["prompts whose judgements failed"] == {"context overflow": 4}
    assert found["phase 1"]["prompts without a pair"] == {"no scored answer for one side": 4}
    assert found["spent"]["DPO runs"] == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data__chunk": 12}, "need 24, and 2"),
        ({"engine__kind": "vllm"}, "only the local engine reads"),
        ({"plan__keep": "best"}, "need dev rows"),
        ({"start": "nowhere"}, "holds no trained model"),
        ({"judge": "reward"}, "needs a reward model"),
        ({"judge": "model"}, "go together"),
        ({"judge_model__base": "smollm2-135m"}, "go together"),
        ({"judge": "self", "judge_temperature": 0.0}, "are all the same"),
        ({"data__prompt": "question"}, "has no column 'question'"),
    ],
)
def test_mistakes_are_told_before_a_model_loads(
    values: dict[str, Any], words: str, chat_model: Path, prompts: Path
) -> None:
    recipe = methods.resolve("temporal-self-rewarding", values_of(chat_model, prompts, **values))
    with pytest.raises(UserError) as error:
        tsr.check(recipe)
    assert any(words in each.what for each in error.value.all()), [each.what for each in error.value.all()]


def test_prompts_that_repeat_or_are_long_are_counted(chat_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?"} for n in range(12)] + [{"prompt": "What is 1?"}, {"prompt": "why " * 80}]
    source = write_jsonl(tmp_path / "prompts.jsonl", rows)
    recipe = methods.resolve("temporal-self-rewarding", values_of(chat_model, source, data__prompt_tokens=64))
    found = tsr.read(recipe)
    assert found.dropped == {"prompts: there before": 1, "prompts: longer than 64 tokens": 1}
    assert len(found.prompts) + len(found.test) == 12


def test_held_out_prompts_of_a_file_are_never_drawn_from_train(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """Those that are too long leave nothing to measure on; those that train holds too are taken out of it, and told."""
    long = write_jsonl(tmp_path / "long.jsonl", [{"prompt": "word " * 200}])
    values = values_of(chat_model, prompts, data__prompt_tokens=40)
    with pytest.raises(UserError, match="there are 0 to measure on"):
        tsr.check(methods.resolve("temporal-self-rewarding", values | {"data.test": str(long)}))
    both = write_jsonl(tmp_path / "both.jsonl", [{"prompt": f"What is {n} and {n}?"} for n in (0, 1, 99)])
    found = tsr.read(methods.resolve("temporal-self-rewarding", values | {"data.test": str(both)}))
    assert (len(found.prompts), len(found.test), found.dropped) == (22, 3, {"prompts: held out": 2})


def test_resume_reads_back(chat_model: Path, prompts: Path, tmp_path: Path) -> None:
    """A finished run is gone through without a writer or a judge."""
    values = values_of(chat_model, prompts)
    loop(tmp_path / "run", Scripted(), values)
    before = (tmp_path / "run" / "scores.json").read_bytes()
    script = Scripted()
    with reopen_run(tmp_path / "run") as run:
        tsr.run(methods.resolve("temporal-self-rewarding", values), run, script.parts)
    assert (tmp_path / "run" / "scores.json").read_bytes() == before
    assert not script.wrote
    assert not script.judged
    assert math.isfinite(fmean(value for _, value in json.loads(before)["curves"]["lines"]["temporal self-rewarding"]))
