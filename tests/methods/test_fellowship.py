"""fellowship: the card's checks on real judgements, the protocols with scripted models, bad files, and whole runs."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from camelid import data, engines, methods
from camelid.agreement import cohen_kappa, measure_agreement
from camelid.data.columns import verdict_in
from camelid.dialogues import Revision
from camelid.engines import Completion, Request, Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.judging import find_letter, find_score
from camelid.panels import convene, seat_panel, tabulate_juries
from camelid.rows import Contest, Judged, Message, Preference
from camelid.verdicts import (
    CLASSES,
    compare_scores,
    correlate_errors,
    count_wins,
    decide,
    find_judges,
    prefer_longer,
    settle_verdicts,
    vote_jury,
)
from camelid.verdicts import read_judge as read_file
from conftest import invoke, own_rows, write_jsonl

fellow = methods.load("fellowship")
MINI, LLAMA = "gpt-4o-mini", "Meta-Llama-3.1-70B-Instruct-Turbo"
A, B = "Score Assistant A", "Score Assistant B"


def kappa(gold: Sequence[str], said: Sequence[str]) -> float:
    import numpy as np

    return cohen_kappa(*(np.array([CLASSES.index(one) for one in each]) for each in (gold, said)), len(CLASSES))


# Checks 1 and 2 on the real judgements


@pytest.fixture(scope="module")
def pairs() -> list[Contest]:
    return data.read_rows("pandalm")


@pytest.fixture(scope="module")
def panel(pairs: list[Contest]) -> Any:
    files, left = find_judges("pandalm")
    assert (set(files), left) == ({MINI, LLAMA}, [])
    verdicts = {name: [decide(one) for one in read_file(path, pairs)] for name, path in files.items()}
    return seat_panel(pairs, verdicts | {"longer": [prefer_longer(row.first, row.second) for row in pairs]})


@pytest.mark.data
def test_check_1_kappas_of_the_released_judgements(panel: Any) -> None:
    """To 1e-6, against the majority of three people; no item has three different labels."""
    assert (len(panel.rows), panel.dropped) == (999, {})
    assert all(len(set(row.verdicts.values())) < 3 for row in panel.rows)
    for name, value in ((MINI, 0.613314), (LLAMA, 0.596641), ("longer", 0.302663)):
        assert kappa(panel.gold, panel.verdicts[name]) == pytest.approx(value, abs=1e-6)


@pytest.mark.data
def test_check_1_people_among_themselves(panel: Any) -> None:
    found = measure_agreement(panel.people, CLASSES)
    kappas = {(pair["first"][-1], pair["second"][-1]): pair["cohen_kappa"]["value"] for pair in found["pairs"]}
    expected = {("1", "2"): 0.852023, ("1", "3"): 0.878944, ("2", "3"): 0.861661}
    assert kappas == pytest.approx(expected, abs=1e-6)
    assert found["fleiss_kappa"]["value"] == pytest.approx(0.864175, abs=1e-6)


@pytest.mark.data
def test_check_2_juries_under_both_rules(panel: Any) -> None:
    """Two judges lose under the intended rule; a weak third one with other errors lifts them: 0.637236."""
    table = {tuple(sorted(line["members"])): line for line in tabulate_juries(panel.gold, panel.verdicts)["juries"]}
    assert len(table) == 7
    two, three = table[tuple(sorted((MINI, LLAMA)))], table[tuple(sorted((MINI, LLAMA, "longer")))]
    assert two["tie"]["value"] == pytest.approx(0.599563, abs=1e-6)
    assert two["intended"]["value"] == pytest.approx(0.569905, abs=1e-6)
    assert three["tie"]["value"] == three["intended"]["value"] == pytest.approx(0.637236, abs=1e-6)
    assert three["tie"]["value"] > max(table[name,]["tie"]["value"] for name in panel.verdicts)
    errors = correlate_errors(panel.gold, panel.verdicts)
    assert errors[f"{LLAMA} and {MINI}"] == pytest.approx(0.68, abs=0.005)


@pytest.mark.data
def test_the_recipe_as_it_comes(tmp_path: Path) -> None:
    """The whole run: kappas with intervals around them, the confusion, and the report."""
    done = invoke("run", "fellowship", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    systems = scores["agreement"]["systems"]
    assert systems[MINI]["cohen_kappa"]["value"] == pytest.approx(0.613314, abs=1e-6)
    assert systems[LLAMA]["cohen_kappa"]["value"] == pytest.approx(0.596641, abs=1e-6)
    assert systems["jury of all"]["cohen_kappa"]["value"] == pytest.approx(0.599563, abs=1e-6)
    assert scores["agreement"]["ours"] == MINI
    for line in systems.values():
        assert line["cohen_kappa"]["low"] < line["cohen_kappa"]["value"] < line["cohen_kappa"]["high"]
        assert sum(map(sum, line["confusion"])) == 999
    assert scores["people"]["fleiss_kappa"]["value"] == pytest.approx(0.864175, abs=1e-6)
    between = [pair["cohen_kappa"]["value"] for pair in scores["people"]["pairs"]]
    assert between == pytest.approx([0.852023, 0.878944, 0.861661], abs=1e-6)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The juries" in page
    assert "What is taken for what" in page
    intended = invoke("run", "fellowship", "--ties", "intended", "--setup", "jury of all", "--out", tmp_path / "other")
    assert intended.exit_code == 0, intended.output
    found = json.loads((tmp_path / "other" / "scores.json").read_text())["agreement"]
    assert found["ours"] == "jury of all"
    assert found["systems"]["jury of all"]["cohen_kappa"]["value"] == pytest.approx(0.569905, abs=1e-6)


@pytest.mark.data
def test_six_answers_of_the_set_are_booleans(pairs: list[Contest]) -> None:
    places = [place for place, row in enumerate(pairs) if {row.first[0], row.second[0]} & {"True", "False"}]
    assert {157, 158, 159, 161, 162, 164} <= set(places)
    assert pairs[157].first == ("True",)


# Checks 2 and 7: what a vote is worth


@pytest.mark.parametrize(("votes", "tie", "intended"), [
    (["first"], "first", "first"), (["tie", "first"], "tie", "first"), (["second", "tie"], "tie", "second"),
    (["first", "second"], "tie", "tie"), (["first", "tie", "second"], "tie", "tie"),
    (["first", "first", "tie"], "first", "first"), (["tie", "tie", "first"], "tie", "tie"),
    (["tie", "tie", "first", "first", "second"], "tie", "first"),
    (["first", "first", "second", "second", "tie"], "tie", "tie"),
])  # fmt: skip
def test_both_rules_of_juries(votes: list[str], tie: str, intended: str) -> None:
    for order in itertools.permutations(votes):
        assert (vote_jury(order), vote_jury(order, "intended")) == (tie, intended)


def accuracy_of_jury(accuracies: Sequence[float], copied: float = 0.0) -> float:
    """P(right) of a jury of binary judges, by enumeration; with probability `copied` all are one draw of the first."""
    value = copied * accuracies[0]
    for right in itertools.product((True, False), repeat=len(accuracies)):
        chance = math.prod(p if one else 1 - p for p, one in zip(accuracies, right))
        voted = vote_jury(["first" if one else "second" for one in right])
        value += (1 - copied) * chance * (voted == "first")
    return value


@pytest.mark.parametrize(("accuracies", "copied", "expected"), [
    ([0.7] * 3, 0, 0.784), ([0.7] * 5, 0, 0.83692), ([0.7] * 3, 0.5, 0.742), ([0.7] * 3, 1, 0.7),
    ([0.8, 0.7, 0.7], 0, 0.826), ([0.8, 0.6, 0.6], 0, 0.744),
])  # fmt: skip
def test_check_7_what_a_jury_is_worth(accuracies: list[float], copied: float, expected: float) -> None:
    """The gain shrinks linearly with the share of copies and is never negative for equal judges."""
    assert accuracy_of_jury(accuracies, copied) == pytest.approx(expected, abs=1e-12)


def test_kappa_is_the_formula_of_the_card() -> None:
    """gold 1 1 T 2 2 2, said 1 T T 2 2 1: p_o = 4/6; p_e = (2*2 + 1*2 + 3*2) / 36 = 12/36; (4/6 - 1/3) / (2/3)."""
    gold = ["first", "first", "tie", "second", "second", "second"]
    said = ["first", "tie", "tie", "second", "second", "first"]
    assert kappa(gold, said) == pytest.approx(0.5)
    assert kappa(gold, gold) == 1
    assert kappa(gold, ["tie"] * 6) == 0


# Check 3


@pytest.mark.parametrize(("wins", "ties", "expected", "wrong"), [(359, 46, 71.8, 79.1), (369, 4, 73.8, 74.4)])
def test_check_3_ties_are_not_won(wins: int, ties: int, expected: float, wrong: float) -> None:
    """Wins over all 500 prompts, as published; over those that are no ties it is another, larger number."""
    found = count_wins(["first"] * wins + ["tie"] * ties + ["second"] * (500 - wins - ties))
    assert 100 * found["win_rate"]["value"] == pytest.approx(expected)
    assert round(100 * wins / (500 - ties), 1) == wrong
    assert found["win_rate"]["low"] < found["win_rate"]["value"] < found["win_rate"]["high"]
    assert {name: found[name] for name in ("pairs", "wins", "ties", "losses")} == {
        "pairs": 500, "wins": wins, "ties": ties, "losses": 500 - wins - ties,
    }  # fmt: skip


def test_check_3_the_lowest_rate() -> None:
    assert count_wins(["first"] * 245 + ["second"] * 255)["win_rate"]["value"] == pytest.approx(0.49)


# Check 5: the parser


@pytest.mark.parametrize(("text", "score", "strict"), [
    ("### Score Assistant A:\n8.5/10", 8.5, 8.5), ("### Score Assistant A:\n10/10", 10, 10),
    ("### Score Assistant A:\n10.0/10", 10, -1), ("### Score Assistant A: 7/10", 7, 7),
    ("### SCORE ASSISTANT A\n**7/10**", 7, 7), ("# Score Assistant A: 7 / 10 because", 7, 7),
    ("### Score Assistant A: 7 out of 10", 7, 7), ("### Score Assistant A: 0/10", 0, 0),
    ("### Score Assistant B:\n7/10", -1, -1), ("I give Assistant A 7/10", -1, -1), ("", -1, -1),
    ("### Score Assistant A: 7/100", -1, -1), ("### Score Assistant A: 12/10", -1, -1),
    ("### Score Assistant A: see below\n### Score Assistant A: 3/10\n### Score Assistant A: 9/10", 3, 3),
])  # fmt: skip
def test_check_5_scores(text: str, score: float, strict: float) -> None:
    assert find_score(text, A, 10) == score
    assert find_score(text, A, 10, strict=True) == strict


def test_check_5_other_scales() -> None:
    assert find_score(f"### {A}: 4.5/5", A, 5) == find_score(f"### {A}: 4.5/5", A, 5, strict=True) == 4.5
    assert find_score(f"### {A}: 87/100", A, 100) == find_score(f"### {A}: 87/100", A, 100, strict=True) == 87
    assert find_score(f"### {A}: 100/100", A, 100, strict=True) == 100
    assert find_score(f"### {A}: 8/10", A, 100) == -1


@pytest.mark.parametrize(("text", "letter"), [
    ("### Answer:\nA", "first"), ("### Answer: [[B]]", "second"), ("### answer:\n**C**", "tie"),
    ("### Answer: Assistant B", "second"), ("### Answer: A\n### Answer: B", "first"),
    ("### Answer: A, as B is wrong", "first"), ("### Answer: A tie", ""), ("### Answer:\na draw", ""),
    ("### Answer: A and B are level", ""), ("### Answer: A/B", ""), ("### Answer: **A** or **B**", ""),
    ("### Answer: A tie\n### Answer: C", "tie"),
    ("A is better", ""), ("### Answer: both", ""), ("### Answer: Absolutely A", ""),
])  # fmt: skip
def test_letters(text: str, letter: str) -> None:
    assert find_letter(text, "Answer") == letter


# Scripted models


def text_of(request: Request) -> str:
    return request.prompt[-1].content  # type: ignore[union-attr]


def form(first: float, second: float, scale: int = 10) -> str:
    return f"### Evaluation Evidence:\nwell\n\n### {A}:\n{first:g}/{scale}\n\n### {B}:\n{second:g}/{scale}"


def shown(request: Request) -> tuple[str, str]:
    """The answers that a judge was shown as A and B."""
    text = request.prompt[1].content  # type: ignore[union-attr]
    return tuple(re.search(rf"\[assistant {name}\]\n(.*?)\n\[/assistant", text, re.DOTALL)[1] for name in "AB")  # type: ignore[index,return-value]


def by_quality(request: Request) -> str:
    """Scores by the digit that an answer ends in."""
    return form(*(float(answer.rstrip(".")[-1]) for answer in shown(request)))


def contest(number: int = 0, first: str = "good 8", second: str = "bad 2", gold: str = "first") -> Contest:
    return Contest(str(number), f"row {number}", (f"q {number}",), (first,), (second,), {"verdict": gold})


def recipe_of(**values: Any) -> Any:
    return methods.resolve("fellowship", {name.replace("__", "."): value for name, value in values.items()})


Script = Callable[[Request], str] | Sequence[str]


@pytest.fixture
def cast(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, ScriptedEngine]]:
    """`cast(model=script, ...)` lets each base of that name speak from its script; "model" is the recipe's."""

    def let_speak(**scripts: Script) -> dict[str, ScriptedEngine]:
        made = {name: ScriptedEngine(script) for name, script in scripts.items()}
        monkeypatch.setattr(engines, "open_engine", lambda engine, model, *more: made[str(model.base)])
        return made

    return let_speak


def test_check_5_a_missing_score_is_asked_for_and_the_first_match_counts() -> None:
    """B is missing, then A comes again with another score: the first A stands, and B is read from the further turn."""
    engine = ScriptedEngine([f"### {A}: 7/10, and B is worse", f"### {A}: 1/10\n### {B}: 4/10"])
    (found,) = fellow.score_together(recipe_of(), engine, [contest()])
    assert (found.value, found.repairs) == ({"score_1": 7.0, "score_2": 4.0}, 1)
    again = engine.asked[1].prompt
    assert [turn.role for turn in again] == ["system", "user", "assistant", "user"]
    assert again[2].content.startswith("### Score Assistant A: 7/10")
    assert f"### {B}" in again[3].content
    assert f"### {A}" not in again[3].content


def test_check_5_prose_is_asked_again_twice_and_then_the_policy_decides() -> None:
    """A parsed side beats an unparsed one as it is; tie and drop are the other policies."""
    engine = ScriptedEngine(["A is nice", f"### {A}: 3/10", "no idea"])
    (found,) = fellow.score_together(recipe_of(), engine, [contest()])
    assert (found.value, found.repairs, len(engine.asked)) == ({"score_1": 3.0, "score_2": -1.0}, 2, 3)
    assert [decide(found, policy) for policy in ("as_is", "tie", "drop")] == ["first", "tie", None]
    silent = Judged("0", "", "value", {"score_1": -1.0, "score_2": -1.0}, "")
    assert [decide(silent, policy) for policy in ("as_is", "tie", "drop")] == ["tie", "tie", None]
    assert decide(Judged("0", "", "failed", None, "", problem="refused"), "tie") is None


def test_independent_scores_and_letters() -> None:
    """Each answer by itself; a letter; both turned back where B was shown first."""
    engine = ScriptedEngine(lambda request: f"### Overall Score: {text_of(request)[-len('8[/conversation]') - 1]}/10")
    (found,) = fellow.score_alone(recipe_of(strategy="independent"), engine, [contest()])
    assert found.value == {"score_1": 8.0, "score_2": 2.0}
    assert len(engine.asked) == 2
    assert not any("good" in text_of(one) and "bad" in text_of(one) for one in engine.asked)  # type: ignore[arg-type]
    direct = recipe_of(strategy="direct")
    for swapped, pick in ((False, "first"), (True, "second")):
        (found,) = fellow.compare_directly(direct, ScriptedEngine(["### Answer: A"]), [contest()], swapped)
        assert found.value == {"pick": pick}
    (found,) = fellow.compare_directly(direct, ScriptedEngine(["hm", "hm"]), [contest()], True)
    assert (found.value, found.repairs) == ({"pick": ""}, 1)
    assert [decide(found, policy) for policy in ("as_is", "tie", "drop")] == ["tie", "tie", None]


@pytest.mark.parametrize(("likely", "swapped", "pick"), [
    ("A", False, "first"), ("B", False, "second"), ("C", False, "tie"),
    ("A", True, "second"), ("B", True, "first"), ("C", True, "tie"),
])  # fmt: skip
def test_the_likeliest_letter(likely: str, swapped: bool, pick: str) -> None:
    """Nothing is written: A stands for what was shown first."""
    score = lambda asked: Scored(tuple((-0.1 if letter == likely else -2.0,) for letter in asked.answers))  # noqa: E731
    engine = ScriptedEngine([], score)
    (found,) = fellow.weigh_letters(recipe_of(strategy="likelihood"), engine, [contest()], swapped)
    assert (found.value, decide(found)) == ({"pick": pick}, pick)
    assert sorted(engine.asked[0].answers) == ["A", "B", "C"]  # type: ignore[union-attr]


@pytest.mark.parametrize("swapped", [False, True])
def test_scores_belong_to_the_answers_of_the_row(swapped: bool) -> None:
    (found,) = fellow.score_together(recipe_of(), ScriptedEngine(by_quality), [contest()], swapped)
    assert found.value == {"score_1": 8.0, "score_2": 2.0}


def test_two_turns_are_shown_as_two_conversations() -> None:
    row = Contest("0", "", ("one?", "two?"), ("a1", "a2"), ("b1", "b2"))
    text = fellow.show_contest(row, False)
    assert text.index("a1") < text.index("two?") < text.index("a2") < text.index("b1") < text.index("b2")
    turned = fellow.show_contest(row, True)
    assert turned.index("b2") < turned.index("a1")


# Step 3: the debate


def test_the_debate_has_its_order_its_memory_and_its_means() -> None:
    """2 rounds of three speakers, then scores; each call is one message, and the transcript is all it remembers."""
    spoken = iter(range(100))

    def speak(request: Request) -> str:
        if "discussion is over" not in text_of(request):
            return f"remark {next(spoken)}"
        system = request.prompt[0].content  # type: ignore[union-attr]
        return form(9, 6) if "Critic" in system else form(4, 6)

    recipe, engine = recipe_of(referees=["model"]), ScriptedEngine(speak)
    (found,) = fellow.debate(recipe, lambda name: engine, [contest()])
    assert found.value["score_1"] == pytest.approx((4 + 4 + 9) / 3)
    assert found.value["score_2"] == 6
    assert decide(found) == "second"
    assert len(engine.asked) == 9
    for number, asked in enumerate(engine.asked):
        assert [turn.role for turn in asked.prompt] == ["system", "user"]
        said = re.findall(r"remark (\d+)", text_of(asked))  # type: ignore[arg-type]
        assert said == [str(place) for place in range(min(number, 6))]
    names = [
        next(name for name in fellow.REFEREES if f"the {name} among" in one.prompt[0].content) for one in engine.asked
    ]
    assert names == ["General Public", "Psychologist", "Critic"] * 3
    assert found.value["said"]["Psychologist 2"] == "remark 4"


def test_a_referee_that_cannot_be_read_gives_nothing() -> None:
    """0 and 0, after two further turns."""

    def speak(request: Request) -> str:
        return form(8, 2) if "Critic" in request.prompt[0].content else "no numbers"  # type: ignore[union-attr]

    engine = ScriptedEngine(speak)
    (found,) = fellow.debate(recipe_of(referees=["model"], rounds=1), lambda name: engine, [contest()])
    assert (found.value["score_1"], found.value["score_2"]) == pytest.approx((8 / 3, 2 / 3))
    assert found.repairs == 4
    (turned,) = fellow.debate(recipe_of(referees=["model"], rounds=1), lambda name: engine, [contest()], True)
    assert (turned.value["score_1"], turned.value["score_2"]) == pytest.approx((2 / 3, 8 / 3))


# Check 6: position bias


def write_pairs(folder: Path, count: int = 12) -> Path:
    rows = [
        {"question": f"q {n}", "first": "x 8" if n % 3 else "x 2", "second": "y 5", "verdict": "A" if n % 3 else "B"}
        for n in range(count)
    ]
    return write_jsonl(folder / "pairs.jsonl", rows)


def run_pairs(folder: Path, *options: object) -> Any:
    return invoke(
        "run", "fellowship", "--data", write_pairs(folder), "--model", "own", *options, "--out", folder / "run"
    )


def scores_of(folder: Path) -> Any:
    return json.loads((folder / "scores.json").read_text())


@pytest.mark.parametrize("strategy", ["combined", "direct"])
def test_check_6_a_judge_that_always_says_a(strategy: str, tmp_path: Path, cast: Any) -> None:
    """Kappa exactly 0, and 100 % order inconsistency, both in the report."""
    made = cast(own=lambda request: "### Answer: A" if strategy == "direct" else form(9, 1))
    done = run_pairs(tmp_path, "--judges", '["model"]', "--strategy", strategy, "--order", "both")
    assert done.exit_code == 0, done.output
    scores = scores_of(tmp_path / "run")
    assert scores["agreement"]["systems"]["model"]["cohen_kappa"] == {"value": 0, "low": 0, "high": 0}
    assert scores["orders"]["model"]["inconsistent"]["value"] == 1
    assert scores["orders"]["model"]["shown_first"]["value"] == 1
    assert len(made["own"].asked) == 24
    page = (tmp_path / "run" / "report.html").read_text()
    assert "model.inconsistent" in page
    assert "model says tie of every pair, so its kappa is 0" in page


def test_check_6_a_judge_that_reads(tmp_path: Path, cast: Any) -> None:
    cast(own=by_quality)
    done = run_pairs(tmp_path, "--judges", '["model"]', "--order", "both")
    assert done.exit_code == 0, done.output
    scores = scores_of(tmp_path / "run")
    assert scores["agreement"]["systems"]["model"]["cohen_kappa"]["value"] == 1
    assert scores["orders"]["model"]["inconsistent"]["value"] == 0
    assert scores["orders"]["model"]["shown_first"]["value"] == 0.5
    assert scores["agreement"]["systems"]["longer answer"]["cohen_kappa"]["value"] == 0


# Check 4: the loop


QUESTION = Preference("0", "row 0", (Message("user", "Why?"),), "", "")


def test_check_4_the_protocol(cast: Any) -> None:
    """3 calls of G and 2 of R, growing conversations for both, no third feedback."""
    answers = ScriptedEngine([f"answer {n}" for n in (1, 2, 3)])
    reviews = ScriptedEngine([f"review {n}" for n in (1, 2)])
    found = loop(answers, [reviews])
    assert found.responses == ("answer 1", "answer 2", "answer 3")
    assert found.feedbacks == (("review 1",), ("review 2",))
    assert [len(one.prompt) for one in answers.asked] == [1, 3, 5]
    assert [[turn.role for turn in one.prompt] for one in reviews.asked] == [
        ["system", "user"], ["system", "user", "assistant", "user"],
    ]  # fmt: skip
    last = [turn.content for turn in answers.asked[2].prompt]
    assert (last[0], last[1], last[3]) == ("Why?", "answer 1", "answer 2")
    assert "[feedback]\nreview 1\n[/feedback]" in last[2]
    assert "review 2" in last[4]
    told = [turn.content for turn in reviews.asked[1].prompt]
    assert "answer 1" in told[1]
    assert told[2] == "review 1"
    assert "answer 2" in told[3]
    assert "Why?" in told[3]


def loop(generator: ScriptedEngine, reviewers: Sequence[ScriptedEngine], **values: Any) -> Revision:
    recipe = recipe_of(reviewers=[f"r{n}" for n in range(len(reviewers))], **values)
    named = {"model": generator} | {f"r{n}": each for n, each in enumerate(reviewers)}

    class Kept:
        def map_rows(self, name: str, rows: Any, ask: Any) -> Any:
            return ask(rows)

    (one,) = fellow.go_round(recipe, Kept(), [QUESTION], named.__getitem__)
    return Revision(one.value["responses"], one.value["feedbacks"], one.value["ended"])


def test_check_4_no_feedback_ends_the_loop() -> None:
    answers, reviews = ScriptedEngine(["one", "two"]), ScriptedEngine(["more", "  "])
    found = loop(answers, [reviews])
    assert (found.responses, found.ended) == (("one", "two"), "no feedback")
    assert len(answers.asked) == 2


def test_two_reviewers_are_told_apart_and_one_may_be_silent() -> None:
    answers = ScriptedEngine(["one", "two", "three"])
    found = loop(answers, [ScriptedEngine(["a1", "a2"]), ScriptedEngine(["b1", ""])])
    assert found.feedbacks == (("a1", "b1"), ("a2", ""))
    second, third = (one.prompt[-1].content for one in answers.asked[1:])
    assert "[feedback of agent 1]\na1" in second
    assert "[feedback of agent 2]\nb1" in second
    assert "of agent 1" in third
    assert "of agent 2" not in third


def test_a_loop_may_stop_when_the_score_stops_rising() -> None:
    """6, 7, 7: the third feedback ends it; without the option, or with scores that cannot be read, it goes on."""
    scores = [f"### Overall Score: {n}/10" for n in (6, 7, 7, 9)]
    found = loop(ScriptedEngine(list("abcde")), [ScriptedEngine(scores)], iterations=5, stop_level=True)
    assert (found.responses, found.ended) == (("a", "b", "c"), "the score went from 7 to 7")
    found = loop(ScriptedEngine(list("abcde")), [ScriptedEngine(scores)], iterations=5)
    assert len(found.responses) == 5
    found = loop(ScriptedEngine(list("abc")), [ScriptedEngine(["none"] * 2)], stop_level=True)
    assert len(found.responses) == 3


def test_an_empty_response_is_none() -> None:
    found = loop(ScriptedEngine(["one", " "]), [ScriptedEngine(["more"])])
    assert (found.responses, found.ended) == (("one",), "an empty response")


@pytest.mark.parametrize(("qualities", "picked"), [
    ((5, 6, 7), 2), ((5, 7, 6), 1), ((7, 5, 6), 0), ((7, 6, 5), 0), ((5, 5, 5), 2), ((6, 6, 5), 1), ((4, 6, 6), 2),
    ((6, 4, 6), 2), ((5, 6, 9), 2), ((3,), 0), ((4, 3), 0), ((3, 3), 1), ((1, 2, 3, 4), 3), ((4, 3, 5, 4), 2),
])  # fmt: skip
def test_check_4_the_winner_is_picked(qualities: tuple[int, ...], picked: int) -> None:
    """Each later response stands first against the best so far; what wins goes on, of a tie the later one.

    (5, 6, 7) is the case that the authors' code inverts.
    """
    best = 0
    for challenger in range(1, len(qualities)):
        duel = fellow.place_duel(challenger, best)
        assert duel == ((0, 1) if challenger == 1 else (challenger, best))
        best = fellow.win_duel(duel, compare_scores(*(qualities[place] for place in duel)))
    assert best == picked


# The whole of modules B and C


def answer_in_turn(request: Request) -> str:
    """Of even questions the answers get better, 3, 5, 8; of odd ones 6, 4, 4."""
    turns = request.prompt
    number, step = int(turns[0].content.split()[-1]), len(turns) // 2  # type: ignore[union-attr]
    return f"step {step} of question {number} {((3, 5, 8), (6, 4, 4))[number % 2][step]}"


def ask_loop(folder: Path, *options: object, voices: dict[str, Any], count: int = 4) -> Any:
    asked = write_jsonl(folder / "asked.jsonl", [{"prompt": f"question {n}"} for n in range(count)])
    return invoke(
        "run", "fellowship", "--data", "", "--prompts", asked, "--model", "own", "--set", f"voices={_inline(voices)}",
        "--reviewers", '["r"]', "--evaluator", "j", *options, "--out", folder / "run",
    )  # fmt: skip


def test_an_evaluator_that_cannot_be_read_is_told(tmp_path: Path, cast: Any) -> None:
    """Two further turns each, nothing read: all ties, which would look like a rate of 0 that somebody measured."""
    cast(own=answer_in_turn, reviewer=lambda request: "more", judge=lambda request: "both are nice",
         single=lambda request: "alone 6")  # fmt: skip
    done = ask_loop(tmp_path, "--baselines", '["alone"]', voices=VOICES)
    assert done.exit_code == 0, done.output
    scores = scores_of(tmp_path / "run")
    assert scores["loops"]["evaluator"] == {"value": 8, "not read": 8, "further turns": 16}
    assert scores["against alone"]["evaluator"] == {"value": 4, "not read": 4, "further turns": 8}
    assert "evaluator.not read" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("name", ["loop", "feedback"])
def test_a_baseline_may_have_any_name(name: str, tmp_path: Path, cast: Any) -> None:
    """The stages of the loop are its own, whatever voices are called."""
    made = cast(own=answer_in_turn, reviewer=lambda request: "more", judge=by_quality, single=lambda request: "alone 6")
    voices = {"r": VOICES["r"], "j": VOICES["j"], name: VOICES["alone"]}
    done = ask_loop(tmp_path, "--baselines", f'["{name}"]', "--feedback-samples", 2, voices=voices)
    assert done.exit_code == 0, done.output
    assert len(made["single"].asked) == 4
    assert scores_of(tmp_path / "run")[f"against {name}"]["wins"] == 2


def test_a_judge_may_be_called_as_another_one_swapped(tmp_path: Path, cast: Any) -> None:
    cast(own=by_quality, other=lambda request: form(9, 1))
    voices = _inline({"x": {"base": "own"}, "x-swapped": {"base": "other"}})
    done = run_pairs(tmp_path, "--judges", '["x", "x-swapped"]', "--order", "both", "--set", f"voices={voices}")
    assert done.exit_code == 0, done.output
    orders = scores_of(tmp_path / "run")["orders"]
    assert [orders[name]["inconsistent"]["value"] for name in ("x", "x-swapped")] == [0, 1]


VOICES = {"r": {"base": "reviewer"}, "j": {"base": "judge"}, "alone": {"base": "single"}}


@pytest.fixture
def finished(tmp_path: Path, cast: Any) -> tuple[Path, dict[str, ScriptedEngine]]:
    """A loop over 6 questions with a reviewer, an evaluator and a baseline."""
    made = cast(
        own=answer_in_turn, reviewer=lambda request: "### Overall Score: 5/10\n### Feedback: more",
        judge=by_quality, single=lambda request: "alone 6",
    )  # fmt: skip
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"question {n}"} for n in range(6)])
    done = invoke(
        "run", "fellowship", "--data", "", "--prompts", asked, "--model", "own", "--set", f"voices={_inline(VOICES)}",
        "--reviewers", '["r"]', "--evaluator", "j", "--baselines", '["alone"]', "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return tmp_path / "run", made


def _inline(values: dict[str, Any]) -> str:
    tables = [f'{name} = {{ {", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())} }}'
              for name, table in values.items()]  # fmt: skip
    return f"{{ {', '.join(tables)} }}"


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_loop_picks_wins_and_makes_preferences(finished: Any) -> None:
    """Even questions: x_3 (8) over x_1 (3), steps 3 < 5 < 8. Odd ones: x_1 (6) stays, and x_2, x_3 are level."""
    folder, made = finished
    assert (len(made["own"].asked), len(made["reviewer"].asked)) == (18, 12)
    assert len(made["judge"].asked) == 6 * 2 + 6
    scores = scores_of(folder)
    assert scores["loops"]["picked"] == {"response 1": 3, "response 3": 3}
    assert (scores["against alone"]["wins"], scores["against alone"]["ties"]) == (3, 3)
    assert scores["against alone"]["win_rate"]["value"] == 0.5
    single = lines_of(folder / "preferences" / "single.jsonl")
    assert [(row["chosen"][-1], row["rejected"][-1]) for row in single] == [("8", "3"), ("6", "4")] * 3
    assert (single[0]["score_chosen"], single[0]["score_rejected"]) == (8, 3)
    assert single[0]["source"] == {
        "generator": "model", "reviewers": "r", "judge": "j", "kind": "single",
        "chosen": "response 3", "rejected": "response 1",
    }  # fmt: skip
    steps = lines_of(folder / "preferences" / "multi.jsonl")
    assert [row["id"] for row in steps[:3]] == ["0 step 1", "0 step 2", "1 step 1"]
    assert len(steps) == 3 * 2 + 3
    assert [len(row["prompt"]) for row in steps[:3]] == [3, 5, 3]
    assert (steps[2]["chosen"][-1], steps[2]["rejected"][-1]) == ("6", "4")
    assert scores["preferences"]["multi"]["left out"] == {"equal scores": 3}
    lengths = scores["preferences"]["single"]["characters"]
    assert lengths["chosen minus rejected"]["value"] == 0
    page = (folder / "report.html").read_text()
    assert "Responses and feedback" in page
    assert "step 2 of question 0 8" in page
    assert "No systems were compared" in page
    assert "rejected: \n" not in page, "questions have no answers to show"


def test_files_for_trainers(finished: Any) -> None:
    """DPO, KTO and ranked files hold the same texts; TRL takes them for conversations."""
    from trl.data_utils import is_conversational

    folder, _ = finished
    dpo, kto = (lines_of(folder / "export" / "single" / f"{name}.jsonl") for name in ("dpo", "kto"))
    assert len(kto) == 2 * len(dpo) == 12
    assert [row["label"] for row in kto[:2]] == [True, False]
    assert kto[0]["completion"] == dpo[0]["chosen"] == [{"role": "assistant", "content": "step 2 of question 0 8"}]
    assert kto[1]["completion"] == dpo[0]["rejected"]
    assert all(map(is_conversational, [*dpo, *kto]))
    ranked = lines_of(folder / "export" / "ranked" / "ranked.jsonl")
    assert ranked[0]["scores"] == [8, 5, 3]
    assert [text[-1] for text in ranked[0]["responses"]] == ["8", "5", "3"]


def test_least_gap_leaves_out_and_says_so(tmp_path: Path, cast: Any) -> None:
    cast(own=lambda request: by_quality(request) if "[assistant A]" in text_of(request) else answer_in_turn(request)
         if "[answer]" not in text_of(request) else "more")  # fmt: skip
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"question {n}"} for n in range(4)])
    done = invoke("run", "fellowship", "--data", "", "--prompts", asked, "--model", "own", "--least-gap", 3,
                  "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = scores_of(tmp_path / "run")["preferences"]
    near = "scores that are too near to each other"
    assert (found["single"]["pairs"], found["single"]["left out"]) == (2, {near: 2})
    assert (found["multi"]["pairs"], found["multi"]["left out"]) == (2, {near: 4, "equal scores": 2})


def test_feedback_that_helps_more_is_preferred(tmp_path: Path, cast: Any) -> None:
    """Two feedbacks a response: after "good" the answer rises from 3 to 8, after "poor" to 4."""

    def answer(request: Request) -> str:
        text = text_of(request)
        return "x 8" if "good advice" in text else "x 4" if "poor advice" in text else "x 3"

    made = cast(
        own=answer, judge=by_quality,
        reviewer=lambda request: "good advice" if request.sample == 1 else "poor advice",
    )  # fmt: skip
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"question {n}"} for n in range(2)])
    done = invoke(
        "run", "fellowship", "--data", "", "--prompts", asked, "--model", "own", "--set", f"voices={_inline(VOICES)}",
        "--reviewers", '["r"]', "--evaluator", "j", "--feedback-samples", 2, "--iterations", 1,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = lines_of(tmp_path / "run" / "preferences" / "feedback.jsonl")
    assert [(row["chosen"], row["rejected"]) for row in found] == [("good advice", "poor advice")] * 2
    assert (found[0]["score_chosen"], found[0]["score_rejected"]) == (5, 1)
    assert [turn["role"] for turn in found[0]["prompt"]] == ["system", "user"]
    assert {one.sampling.temperature for one in made["reviewer"].asked} == {0.8}


def test_a_finished_run_asks_nobody_again(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = finished
    before = (folder / "scores.json").read_bytes()
    counts = {name: len(engine.asked) for name, engine in made.items()}
    manifest = json.loads((folder / "manifest.json").read_text())
    for stage in ("scores.preferences", "preferences/multi", "export/multi"):
        del manifest["stages"][stage]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert invoke("resume", folder).exit_code == 0
    assert (folder / "scores.json").read_bytes() == before
    assert {name: len(engine.asked) for name, engine in made.items()} == counts


class Failing(ScriptedEngine):
    """A scripted engine whose requests fail where `fails` holds of them, for a reason that stays."""

    fails: Callable[[Request], bool]

    def complete(self, requests: Sequence[Request]) -> Any:
        for index, completion in super().complete(requests):
            failed = Completion("", "failed", problem="refused")
            yield index, failed if self.fails(requests[index]) else completion


def test_what_failed_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluator refuses question 1, the generator question 2; the reviewer refuses 3, whose loop ends early."""
    refused = {"own": "question 2", "reviewer": "question 3", "judge": "question 1"}
    made = {name: Failing(script) for name, script in
            (("own", answer_in_turn), ("reviewer", lambda request: "more"), ("judge", by_quality))}  # fmt: skip
    for name, engine in made.items():
        engine.fails = lambda request, word=refused[name]: any(word in turn.content for turn in request.prompt)
    monkeypatch.setattr(engines, "open_engine", lambda engine, model, *more: made[str(model.base)])
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"question {n}"} for n in range(5)])
    done = invoke(
        "run", "fellowship", "--data", "", "--prompts", asked, "--model", "own", "--set", f"voices={_inline(VOICES)}",
        "--reviewers", '["r"]', "--evaluator", "j", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    loops = scores_of(tmp_path / "run")["loops"]
    assert loops["left out"] == {"refused": 1, "no verdict of the evaluator": 1}
    assert loops["ended early"] == {"no feedback": 1}
    assert loops["picked"] == {"response 1": 1, "response 3": 2}


# Files and fields that cannot be worked with


def write_judge(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    return write_jsonl(folder / f"{name}.jsonl", rows)


def judgements(count: int = 12, **more: Any) -> list[dict[str, Any]]:
    return [{"response": "", "score_1": n % 3, "score_2": 1.0, "turns_to_answer": 1, **more} for n in range(count)]


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "long": (judgements(13), "has 13 judgements, and there are 12 pairs"),
    "short": (judgements(11), "has 11 judgements, and there are 12 pairs"),
    "columns": ([{"response": "", "score": 1}] * 12, "has the columns response, score"),
    "half": ([{"response": "", "score_1": 1}] * 12, "has the columns response, score_1"),
    "text": (judgements(score_2="8"), "score_2 is text, not a number"),
    "null": (judgements(score_1=None), "score_1 is null, not a number"),
    "true": (judgements(score_1=True), "score_1 is true or false, not a number"),
    "infinite": (judgements(score_1=math.inf), "score_1 is not finite"),
    "below": (judgements(score_1=-2), "score_1 is below 0"),
    "pick": ([{"response": "", "pick": "D"}] * 12, "holds none of A, B and C"),
    "idx": ([row | {"idx": 11 - n} for n, row in enumerate(judgements())], "not in the order of their idx"),
    "id": ([row | {"id": str(n % 12 + 1)} for n, row in enumerate(judgements(), 3)], "not in the order of their id"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_of_judgements_is_refused(kind: str, tmp_path: Path) -> None:
    rows, words = BAD[kind]
    path = write_judge(tmp_path / "files", "judge-x", rows)
    done = run_pairs(tmp_path, "--annotations", path)
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.split())
    assert "fix: " in done.output
    assert not (tmp_path / "run").exists()


def test_files_of_judges_in_every_form(tmp_path: Path) -> None:
    """A folder with judge-* files beside others, a list of files, .json lists, picks; foreign files are left out."""
    folder = tmp_path / "files"
    write_judge(folder, "judge-one", judgements(note="x"))
    write_judge(folder, "testset", [{"instruction": "x"}])
    done = run_pairs(tmp_path, "--annotations", folder)
    assert done.exit_code == 0, done.output
    assert scores_of(tmp_path / "run")["judges"] == {"files": {"one": str(folder / "judge-one.jsonl")}, "left out": []}
    picks = tmp_path / "two.json"
    picks.write_text(json.dumps([{"response": "", "pick": "abc"[n % 3].upper()} for n in range(12)]))
    listed = json.dumps([str(folder / "judge-one.jsonl"), str(picks)])
    other = tmp_path / "other"
    other.mkdir()
    done = run_pairs(other, "--annotations", listed)
    assert done.exit_code == 0, done.output
    scores = scores_of(other / "run")
    assert set(scores["agreement"]["systems"]) == {"one", "two", "jury of all", "longer answer"}
    assert len(scores["juries"]["juries"]) == 3
    bare = tmp_path / "bare"
    write_judge(bare, "gpt", judgements())
    write_judge(bare, "notes", [{"instruction": "x"}])
    done = invoke("check", "fellowship", "--data", write_pairs(tmp_path), "--annotations", bare)
    assert done.exit_code == 0, done.output
    assert "notes.jsonl holds no judgements and is not read" in " ".join(done.output.split())


def test_other_numbers_of_rows_are_no_order(tmp_path: Path) -> None:
    """Numbers in order from 0 or 1, those of something else, and ids that are words are all let through."""
    for number, ids in enumerate(
        (range(12), range(1, 13), [7, 7, 5] * 4, [900 - n for n in range(12)], "lkjihgfedcba")
    ):
        rows = [row | {"id": each} for row, each in zip(judgements(), ids)]
        pairs = [contest(place) for place in range(12)]
        assert len(read_file(write_judge(tmp_path, f"judge-{number}", rows), pairs)) == 12


def test_failures_in_files_follow_the_policy(tmp_path: Path) -> None:
    """Row 0 lacks its second score: as it is A wins, tie makes it level, drop leaves it out and counts it."""
    rows = judgements()
    rows[0] |= {"score_1": 0.0, "score_2": -1}
    path = write_judge(tmp_path, "judge-x", rows)
    counted = {}
    for policy in ("as_is", "tie", "drop"):
        folder = tmp_path / policy
        folder.mkdir()
        done = run_pairs(folder, "--annotations", path, "--on-parse-failure", policy)
        assert done.exit_code == 0, done.output
        counted[policy] = scores_of(folder / "run")["agreement"]
        assert scores_of(folder / "run")["judgements"]["x"]["not read"] == 1
    assert {policy: found["rows"] for policy, found in counted.items()} == {"as_is": 12, "tie": 12, "drop": 11}
    confusions = {policy: found["systems"]["x"]["confusion"] for policy, found in counted.items()}
    assert confusions["as_is"][2][0] == confusions["tie"][2][0] + 1 == 1
    assert "x: no verdict" in (tmp_path / "drop" / "run" / "manifest.json").read_text()


def test_the_first_pairs_of_many(tmp_path: Path) -> None:
    """--items takes the first ones, and of stored judgements theirs; a file must still be of all pairs."""
    path = write_judge(tmp_path, "judge-x", judgements())
    done = run_pairs(tmp_path, "--annotations", path, "--items", 7)
    assert done.exit_code == 0, done.output
    assert scores_of(tmp_path / "run")["agreement"]["rows"] == 7
    short = write_judge(tmp_path, "judge-y", judgements(7))
    assert "there are 12 pairs" in run_pairs(tmp_path, "--annotations", short, "--items", 7).output


def test_a_judge_that_always_says_the_same_is_shown(tmp_path: Path) -> None:
    path = write_judge(tmp_path, "judge-x", [row | {"score_1": 9} for row in judgements()])
    done = run_pairs(tmp_path, "--annotations", path)
    assert done.exit_code == 0, done.output
    assert scores_of(tmp_path / "run")["agreement"]["systems"]["x"]["cohen_kappa"]["value"] == 0
    assert "x says first of every pair" in (tmp_path / "run" / "report.html").read_text()


def test_people_that_always_say_the_same_are_refused(tmp_path: Path) -> None:
    rows = [{"question": "q", "first": "a", "second": "b", "verdict": "C"}] * 5
    path = write_jsonl(tmp_path / "ties.jsonl", rows)
    done = invoke("check", "fellowship", "--data", path, "--judges", '["model"]')
    assert done.exit_code == 2
    assert "people said tie of all 5 pairs" in done.output


def test_the_first_pairs_must_differ_too(tmp_path: Path) -> None:
    """Before any judge is asked: of the first five pairs people said the same, of all twelve they did not."""
    rows = [{"question": "q", "first": "a", "second": "b", "verdict": "A" if n < 5 else "B"} for n in range(12)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    done = invoke("check", "fellowship", "--data", path, "--judges", '["model"]', "--items", 5)
    assert done.exit_code == 2
    assert "people said first of all 5 pairs" in done.output
    assert invoke("check", "fellowship", "--data", path, "--judges", '["model"]', "--items", 6).exit_code == 0


def test_files_of_one_s_own(tmp_path: Path) -> None:
    """Booleans and numbers are their words, empty answers stay, lists are turns, any words for verdicts."""
    rows = [
        {"q": "one", "x": True, "y": "", "p1": "A", "p2": 1},
        {"q": "two", "x": 5, "y": "b", "p1": "model_b", "p2": "2"},
        {"q": ["a", "b"], "x": ["c", "d"], "y": ["e", "f"], "p1": "tie", "p2": None},
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "own.jsonl", rows)
    options = {"data.train": str(path), "data.question": "q", "data.first": "x", "data.second": "y"}
    found = fellow.read_items(methods.resolve("fellowship", options | {"data.annotators": ["p1", "p2"]}))
    assert [(row.first, row.second) for row in found] == [
        (("True",), ("",)),
        (("5",), ("b",)),
        (("c", "d"), ("e", "f")),
    ]
    assert [settle_verdicts(row.verdicts) for row in found] == ["first", "second", "tie"]
    for change, words in (
        ({"y": None}, "no text in column 'y'"), ({"p1": "D"}, "holds none of A, B and C"),
        ({"p1": None, "p2": ""}, "no verdict in p1, p2"), ({"x": ["c"], "q": ["a", "b"]}, "different numbers of turns"),
        ({"p1": True}, "holds none of A, B and C"),
    ):  # fmt: skip
        write_jsonl(path, [rows[0] | change, *rows[1:]])
        with pytest.raises(Exception, match=words):
            fellow.read_items(methods.resolve("fellowship", options | {"data.annotators": ["p1", "p2"]}))


@pytest.mark.parametrize(("options", "words"), [
    (("--data", ""), "no rows are named"),
    ((), "no judge is named for the pairs"),
    (("--judges", '["gpt"]'), "judges names 'gpt', which is no voice"),
    (("--judges", '["model", "model"]'), "judges names two voices alike"),
    (("--referees", '["model", "model"]'), "referees are one voice for all three roles, or three"),
    (("--judges", '["model"]', "--generator", "x"), "generator names 'x'"),
    (("--judges", '["model"]', "--setup", "x"), "setup = 'x' is none of the set-ups"),
    (("--judges", '["model"]', "--strategy", "direct", "--out-of", 5), "out_of is of combined scores"),
    (("--annotations", "nowhere"), "there is no file or folder nowhere"),
    (("--judges", '["model"]', "--kind", "remote"), "engine.url is not the plain address"),
])  # fmt: skip
def test_fields_that_contradict_each_other(options: tuple[object, ...], words: str, tmp_path: Path) -> None:
    first = () if "--data" in options else ("--data", write_pairs(tmp_path))
    done = invoke("check", "fellowship", *first, *options)
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.split())


def test_rows_without_a_text_are_counted(tmp_path: Path, cast: Any) -> None:
    cast(own=by_quality)
    path = write_pairs(tmp_path)
    write_jsonl(path, [*lines_of(path), {"question": "q", "first": None, "second": "y 5", "verdict": "A"}])
    options = ("--data", path, "--model", "own", "--judges", '["model"]', "--missing", "drop")
    done = invoke("run", "fellowship", *options, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes"]["data"]
    assert notes["dropped"] == {"no text in column 'first'": 1}
    assert invoke("check", "fellowship", *options[:-2]).exit_code == 2


def test_check_tells_what_would_be_asked(tmp_path: Path) -> None:
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": f"question {n}"} for n in range(5)])
    done = invoke(
        "check", "fellowship", "--data", write_pairs(tmp_path), "--judges", '["model"]', "--referees", '["model"]',
        "--order", "both", "--prompts", asked, "--baselines", '["model"]', "--feedback-samples", 3,
    )  # fmt: skip
    told = " ".join(done.output.split())
    assert done.exit_code == 0, told
    assert "model 24 times, debate 216 times" in told
    assert "25 times, model to judge 15 times" in told
    assert "45 times" in told


def test_own_rows_of_pandalm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pandalm").mkdir()
    own = own_rows("pandalm")
    own[3] |= {"response1": "", "response2": False}
    own[7] |= {"instruction": "", "input": "What is two and two?"}
    write_jsonl(tmp_path / "pandalm" / "testset.jsonl", own)
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path))
    rows = data.read_rows("pandalm")
    buses = "Is the late bus faster than the early bus?\n\nEarly bus: 40 minutes. Late bus: 25 minutes."
    assert rows[4] == Contest(
        "4", "testset.jsonl line 5", (buses,), ("True",), (own[4]["response2"],),
        dict.fromkeys(("annotator1", "annotator2", "annotator3"), "second"),
    )  # fmt: skip
    assert (rows[3].first, rows[3].second, rows[7].questions) == (("",), ("False",), ("What is two and two?",))
    assert [settle_verdicts(row.verdicts) for row in rows] == [
        "first", "first", "first", "first", "second", "second", None, "second",
    ]  # fmt: skip
    assert convene([["first", "tie"], ["tie", "tie"]], "intended") == ["first", "tie"]


def test_two_steps_on_a_real_engine(tmp_path: Path, tiny_model: Path) -> None:
    """The tiny random model has no chat template, and that is said; it is no judge anyway."""
    done = run_pairs(tmp_path, "--judges", '["model"]', "--set", f"model.base={tiny_model}")
    assert done.exit_code == 2
    assert "has no chat template" in done.output


@pytest.mark.parametrize(
    ("cell", "verdict"),
    [("[[A]]", "first"), ("assistant_b", "second"), ("[C]", "tie"), (2.0, "second"), ("TIE", "tie")],
)
def test_picks_as_others_write_them(cell: Any, verdict: str) -> None:
    assert verdict_in({"pick": cell}, "pick") == verdict
