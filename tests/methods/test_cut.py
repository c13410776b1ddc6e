"""Checks of CUT that a toy would fail: wrong sign, wrong context, a gradient too many, positions that do not meet."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from camelid import bases, data, methods, models, objectives, preferences, sides, training
from camelid.branches import Answered
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.heads import LanguageModel, Sight
from camelid.methods.align import cut
from camelid.metrics import SEED, Draws
from camelid.reading import pad_id
from camelid.recipe import Plan
from camelid.report import write_report
from camelid.rows import Critiqued, Marked, from_json, iterate_rows, to_json
from camelid.token_flags import cut_pieces, locate_fault, score_detection, score_flags
from conftest import CHAT_TEMPLATE, invoke, make_model, write_jsonl

# "a former American football player </s>" behind c(x, j) and behind c(x)
JUDGED = [0.82, 0.94, 0.76, 0.99, 0.02, 0.89]
PLAIN = [0.03, 0.94, 0.93, 0.99, 0.03, 0.85]
ROW = Critiqued("a", "f line 1", "Which queue is it?", "The late bus.", "A bus is no queue.")
GOOD = Critiqued("b", "f line 2", "Name a kettle.", "This kettle, or our landlord's.", "")


def log(values: Sequence[float], *, learns: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log().requires_grad_(learns)


def worked(threshold: float = 1.1, **values: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """(loss of the worked example, its log-probabilities, metrics) through the objective itself."""
    ids = list(range(10, 16))
    lines = tuple(Answered("a", [kind], (ids,), values=((float(kind),),)) for kind in (1, 2))
    batch = cut.collate_examples([cut.Example("a", lines)], 0)
    logprobs_N = log([*JUDGED, *PLAIN], learns=True)
    flag = values.pop("flag", lambda *pair: cut.find_inappropriate(threshold, *pair))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "token_logprobs", lambda *_: logprobs_N)
        terms, told = cut.contrast(flag, **values)(None, batch)
    return terms["loss"] / batch.counts["loss"], logprobs_N, told


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("cut") / "tiny", seed=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|end|>", tokenizer.eos_token)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(chat_model: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(chat_model)


@pytest.fixture(scope="module")
def model(chat_model: Path) -> LanguageModel:
    """Every weight can be trained, and is large enough for contexts to matter."""
    lm: Any = transformers.AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    return LanguageModel(lm.eval(), Sight())


@pytest.fixture(scope="module")
def judged_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 answers with a judgment, 9 that nothing is wrong with, one of them by its score."""
    rows = [
        {"instruction": f"Where is stall {n}?", "input": "", "output": f"Left of {n + 1}.", "judgment": f"It is {n}."}
        for n in range(12)
    ]
    rows += [{"instruction": f"Say {n}.", "input": "Now.", "output": f"{n}.", "judgment": None} for n in range(8)]
    rows.append({"instruction": "Wave.", "input": "", "output": "Hi.", "judgment": "Short.", "score": 8})
    return write_jsonl(tmp_path_factory.mktemp("rows") / "judged.jsonl", rows)


def values_of(chat_model: Path, rows: Path, **values: Any) -> dict[str, Any]:
    given = {
        "model.base": str(chat_model),
        "data.train": str(rows),
        "data.test_rows": 3,
        "plan.batch_rows": 4,
        "plan.lora_rank": 2,
        **values,
    }
    return {name.replace("__", "."): value for name, value in given.items()}


def recipe_of(*given: Any, **values: Any) -> cut.Recipe:
    return methods.resolve("cut", values_of(*given, **values))


# Check 1


def test_check_1_the_worked_example() -> None:
    """U is the first token alone: 0.02 / 0.03 is no fault, and 0.89 / 0.85 = 1.047 is below lambda."""
    flagged_N = cut.find_inappropriate(1.1, log(JUDGED), log(PLAIN))
    assert flagged_N.tolist() == [True, *[False] * 5]
    for gamma, expected in ((0.0, 0.640672), (1.0, 0.639758)):
        losses_N = cut.misalign_losses(log(JUDGED), log(PLAIN), flagged_N, 1.0, gamma)
        assert losses_N.mean().item() == pytest.approx(expected, abs=1e-6)
    assert -log(JUDGED).mean().item() == pytest.approx(0.762228, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"), [({"gamma": 1.0}, 1.401987), ({"gamma": 0.0, "halved": True}, 0.701450)]
)
def test_check_1_totals(values: dict[str, Any], expected: float) -> None:
    """L1 + L2 of the paper, and (L1 + L2) / 2 without the dynamic weight as in the authors' code."""
    loss, _, told = worked(alpha=1.0, **values)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert told["flagged"] == 1.0


def test_check_1_gradients() -> None:
    """d L1 / d log p+ is p- p+ / ((1 - p+) N) of the first token and -1/6 of every other one."""
    loss, logprobs_N, _ = worked(alpha=1.0, gamma=1.0)
    loss.backward()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad[6:].tolist() == pytest.approx([0.82 * 0.03 / (0.97 * 6), *[-1 / 6] * 5], abs=1e-9)
    assert logprobs_N.grad[6].item() == pytest.approx(0.004227, abs=1e-6)


def test_alpha_and_gamma_weigh_the_condemned_token_alone() -> None:
    """L1 moves by alpha (p-)^gamma 0.030459 / 6: -log(1 - 0.03) = 0.030459."""
    kept = -sum(map(math.log, PLAIN[1:])) / 6
    for alpha, gamma in ((0.5, 1.0), (0.25, 2.0)):
        _, _, told = worked(alpha=alpha, gamma=gamma)
        assert told["contrast"] == pytest.approx(kept + alpha * 0.82**gamma * 0.0304592 / 6, abs=1e-6)


# Check 2


def test_check_2_l1_does_not_reach_the_judged_context(model: LanguageModel, tokenizer: Any) -> None:
    """Its gradient in every weight is the one it has when the judged context is read without gradient."""
    example = cut.encode_example(tokenizer, ROW, "sections", None)
    assert example is not None
    batch = cut.collate_examples([example], 0)
    found = []
    for judged_learns in (True, False):
        model.zero_grad()
        logprobs_N = cut.token_logprobs(model, batch)
        judged_N, plain_N = logprobs_N.chunk(2)
        judged_N = judged_N if judged_learns else judged_N.detach()
        flagged_N = cut.find_inappropriate(1.01, judged_N, plain_N)
        assert 0 < flagged_N.sum() < len(flagged_N)
        cut.misalign_losses(judged_N, plain_N, flagged_N, 1.0, 1.0).mean().backward()
        found.append(
            {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        )
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=0, atol=0, msg=name)


def test_check_2_the_judged_context_learns_by_likelihood_alone() -> None:
    """-1/N at each of its tokens, also where the weight of L1 is taken from it."""
    loss, logprobs_N, _ = worked(alpha=1.0, gamma=2.0)
    loss.backward()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad[:6].tolist() == pytest.approx([-1 / 6] * 6, abs=1e-12)


# Check 3


def test_check_3_condemned_tokens_go_down_and_others_up() -> None:
    draw = torch.Generator().manual_seed(0)
    judged_N, plain_N = (torch.rand(200, generator=draw, dtype=torch.float64).log() for _ in range(2))
    plain_N.requires_grad_()
    flagged_N = cut.find_inappropriate(1.2, judged_N, plain_N)
    cut.misalign_losses(judged_N, plain_N, flagged_N, 0.5, 1.0).sum().backward()
    assert plain_N.grad is not None
    assert (plain_N.grad[flagged_N] > 0).all()
    assert (plain_N.grad[~flagged_N] == -1).all()
    assert flagged_N.any()
    assert (~flagged_N).any()


def test_check_3_certain_tokens_and_equal_contexts() -> None:
    """p+ = 1 outside of U, and p- = p+, leave U empty and nothing undefined; lambda itself is not above lambda."""
    plain_N = torch.tensor([0.0, -1e-8, math.log(0.5)], requires_grad=True)
    flagged_N = cut.find_inappropriate(1.1, plain_N, plain_N)
    assert not flagged_N.any()
    loss = cut.misalign_losses(plain_N, plain_N, flagged_N, 1.0, 1.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert plain_N.grad is not None
    assert plain_N.grad.tolist() == [-1.0, -1.0, -1.0]
    assert not cut.find_inappropriate(2.0, torch.tensor([0.0]), torch.tensor([-math.log(2.0)])).any()


def test_unlikelihood_of_a_certain_token_is_finite() -> None:
    """For the ablation, where p+ may be 1: at most -log 1e-5 = 11.513, with a gradient that is a number."""
    logprobs_N = torch.tensor([0.0, -1e-9, -1.0], requires_grad=True)
    losses_N = objectives.unlikelihood(logprobs_N, torch.ones(3, dtype=torch.bool), 2.0)
    losses_N.sum().backward()
    assert losses_N[:2].tolist() == pytest.approx([23.0259] * 2, abs=1e-2)
    assert losses_N[2].item() == pytest.approx(-2 * math.log(1 - math.exp(-1)), abs=1e-6)
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.isfinite().all()
    assert logprobs_N.grad[2].item() == pytest.approx(2 * math.exp(-1) / (1 - math.exp(-1)), abs=1e-5)


# Check 4


@pytest.mark.parametrize("layout", ["sections", "chat"])
def test_kinds_are_those_of_their_contexts(layout: Any, tokenizer: Any) -> None:
    """The judgment stands in the context of kind JUDGED, which comes first, and in no other."""
    bad, good = (cut.encode_example(tokenizer, row, layout, None) for row in (ROW, GOOD))
    assert bad is not None
    assert good is not None
    found = {line.values[0][0]: tokenizer.decode(line.prompt) for line in (*bad.lines, *good.lines)}
    assert list(found) == [cut.JUDGED, cut.PLAIN, cut.SATISFIED]
    assert [ROW.judgment in text for text in found.values()] == [True, False, False]
    assert [ROW.instruction in text for text in found.values()] == [True, True, False]


@pytest.mark.parametrize("layout", ["sections", "chat"])
def test_check_4_both_contexts_have_the_same_answer(layout: Any, tokenizer: Any) -> None:
    """Also where the contexts lose their beginnings; the answer ends with its token, and is never cut."""
    long = Critiqued("a", "f", "Which queue is it? " * 30, "The late bus.", "A bus is no queue. " * 20)
    whole = cut.encode_example(tokenizer, long, layout, None)
    short = cut.encode_example(tokenizer, long, layout, 60)
    assert whole is not None
    assert short is not None
    for example, is_cut in ((whole, False), (short, True)):
        judged, plain = example.lines
        assert judged.answers == plain.answers == whole.lines[0].answers
        assert judged.answers[0][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(judged.answers[0][:-1]) == "The late bus."
        assert (judged.cut > 0) is (plain.cut > 0) is is_cut
        batch = cut.collate_examples([example], 0)
        labels_SN = batch.labels_N.reshape(2, -1)
        assert torch.equal(labels_SN[0], labels_SN[1])
        assert batch.counts == {"loss": 1, "contrast": 1, "flagged": len(plain.answers[0])}
    assert all(line.size == 60 for line in short.lines)
    assert [len(line.prompt) + line.cut for line in short.lines] == [len(line.prompt) for line in whole.lines]
    assert cut.encode_example(tokenizer, long, layout, 16) is None


def test_check_4_the_answer_is_read_behind_its_own_context(model: LanguageModel, tokenizer: Any) -> None:
    """Log-probabilities in the batch are those of each context with its answer alone, by transformers itself."""
    example = cut.encode_example(tokenizer, ROW, "sections", None)
    assert example is not None
    with torch.no_grad():
        logprobs_N = cut.token_logprobs(model, cut.collate_examples([example], 0))
        for line, found_N in zip(example.lines, logprobs_N.chunk(2), strict=True):
            ids = torch.tensor([[*line.prompt, *line.answers[0]]])
            every_TV = model.lm(ids).logits[0].log_softmax(dim=-1)
            count = len(line.answers[0])
            expected_N = every_TV[-count - 1 : -1].gather(1, ids[0, -count:, None])[:, 0]
            torch.testing.assert_close(found_N, expected_N, rtol=1e-4, atol=1e-5)


def test_check_4_a_template_that_changes_answers_is_noticed(tokenizer: Any) -> None:
    shouting = transformers.AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    is_changed = "turn['role'] == 'assistant' and 'judgment' in messages[0]['content']"
    content = f"(turn['content'] | upper if {is_changed} else turn['content'])"
    shouting.chat_template = tokenizer.chat_template.replace("turn['content']", content)
    with pytest.raises(AssertionError, match="contexts change the tokens"):
        cut.encode_example(shouting, ROW, "chat", None)
    lines = tuple(Answered("a", [1], ([kind, 7],), values=((float(kind),),)) for kind in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "token_logprobs", lambda *_: torch.zeros(4))
        with pytest.raises(AssertionError, match="different answers"):
            cut.contrast(lambda judged_N, plain_N: plain_N > 0, 1.0, 1.0)(
                None, cut.collate_examples([cut.Example("a", lines)], 0)
            )


# Check 5


def sft(model: LanguageModel, lines: Sequence[Answered]) -> Tensor:
    """transformers' own loss of each line alone, its prompt masked."""
    losses = []
    for line in lines:
        ids = torch.tensor([[*line.prompt, *line.answers[0]]])
        labels = ids.clone()
        labels[0, : len(line.prompt)] = -100
        losses.append(model.lm(input_ids=ids, labels=labels).loss)
    return torch.stack(losses)


def encoded(tokenizer: Any, *rows: Critiqued) -> list[cut.Example]:
    found = [cut.encode_example(tokenizer, row, "sections", None) for row in rows]
    assert None not in found
    return [example for example in found if example]


@pytest.mark.parametrize("halved", [False, True])
def test_check_5_without_u_it_is_sft_behind_both_contexts(halved: bool, model: LanguageModel, tokenizer: Any) -> None:
    """The sum of both losses as in the paper, their mean as in the release; gradients too."""
    examples = encoded(tokenizer, ROW)
    batch = cut.collate_examples(examples, 0)
    loss = cut.contrast(lambda *pair: cut.find_inappropriate(1e9, *pair), 0.5, 1.0, halved=halved)
    model.zero_grad()
    found = loss(model, batch)[0]["loss"]
    found.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    expected = sft(model, examples[0].lines).sum() * (0.5 if halved else 1.0)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("halved", [False, True])
def test_check_5_good_answers_have_the_mean_of_their_sft_losses(
    halved: bool, model: LanguageModel, tokenizer: Any
) -> None:
    """A mean over examples and not over tokens, undivided in either mode; lengths differ."""
    examples = encoded(tokenizer, GOOD, Critiqued("c", "f", "Nod.", "Yes", ""))
    batch = cut.collate_examples(examples, 0)
    terms, told = cut.contrast(lambda *pair: cut.find_inappropriate(1.2, *pair), 0.5, 1.0, halved=halved)(model, batch)
    expected = sft(model, [example.lines[0] for example in examples])
    assert batch.counts == {"loss": 2, "contrast": 0, "flagged": 0}
    assert terms["loss"].item() / 2 == pytest.approx(expected.mean().item(), rel=1e-5)
    assert told == {"contrast": 0.0, "flagged": 0.0}


def test_check_5_a_mixed_batch_is_the_mean_of_its_examples(model: LanguageModel, tokenizer: Any) -> None:
    """Kinds and lengths mixed, in any order."""
    rows = [ROW, GOOD, Critiqued("c", "f", "Nod.", "Yes", "It is No, as the late bus is near the town hall.")]
    loss = cut.contrast(lambda *pair: cut.find_inappropriate(1.01, *pair), 0.5, 1.0, halved=True)
    with torch.no_grad():
        alone = [loss(model, cut.collate_examples(encoded(tokenizer, row), 0))[0]["loss"].item() for row in rows]
        both = cut.collate_examples(encoded(tokenizer, *rows), 0)
        together = loss(model, both)[0]["loss"].item() / both.counts["loss"]
    assert together == pytest.approx(sum(alone) / 3, rel=1e-5)


def test_accumulation_changes_only_rounding(model: LanguageModel, tokenizer: Any, tmp_path: Path) -> None:
    """In the loop: 4 examples of both kinds at once, and in micro-batches of one."""
    examples = encoded(tokenizer, ROW, GOOD, *(Critiqued(f"{n}", "f", "Nod.", "Yes " * n, "No.") for n in (1, 9)))
    loss = cut.contrast(lambda *pair: cut.find_inappropriate(1.01, *pair), 0.5, 1.0)
    found = []
    for accumulate in (1, 4):
        plan = Plan(epochs=1, batch_rows=4, accumulate=accumulate, tuning="full", precision="float32")
        lm = transformers.AutoModelForCausalLM.from_pretrained(tokenizer.name_or_path, dtype=torch.float32)
        folder = tmp_path / str(accumulate)
        training.train(
            LanguageModel(lm, Sight()),
            preferences.over_answers(examples, plan, 0, cut.collate_examples),
            loss,
            plan,
            folder=folder,
        )
        found.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-4), name


def test_rivals_differ_in_u_alone(chat_model: Path, judged_rows: Path) -> None:
    """No token, every token, and those of the threshold; the release has neither gamma nor the whole sum."""
    recipe = recipe_of(chat_model, judged_rows, threshold=1.1, alpha=1.0)
    lines = tuple(Answered("a", [kind], (list(range(6)),), values=((float(kind),),)) for kind in (1, 2))
    batch = cut.collate_examples([cut.Example("a", lines)], 0)
    condemned = sum(p * -math.log(1 - q) for p, q in zip(JUDGED, PLAIN, strict=True)) / 6
    sure, told = -sum(map(math.log, JUDGED)) / 6, -sum(map(math.log, PLAIN)) / 6
    expected = {cut.OURS: 1.401987, "mle": sure + told, "all": sure + condemned}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "token_logprobs", lambda *_: log([*JUDGED, *PLAIN]))
        for kind, value in expected.items():
            assert cut.objective_of(recipe, kind)(None, batch)[0]["loss"].item() == pytest.approx(value, abs=1e-5)
        released = recipe.model_copy(update={"loss_mode": "release"})
        assert cut.objective_of(released, cut.OURS)(None, batch)[0]["loss"].item() == pytest.approx(0.701450, abs=1e-5)


# Check 6, without training


@pytest.mark.data
@pytest.mark.real
def test_check_6_the_judgment_finds_the_wrong_number() -> None:
    """24 answers of GSM8K with one wrong number on the untrained 135M model. Seen: ROC-AUC 0.719, and 0.626 where each
    has the judgment of another; wrong numbers gain 0.93 nats by their own judgment and 0.24 by another's."""
    rows = data.read_rows("wrong-numbers")[:24]
    swapped = [replace(row, judgment=other.judgment) for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]
    base = bases.open_base("smollm2-135m")
    model, pad = models.language_model(base, {}, Plan()), pad_id(base.tokenizer)

    def measure(rows: Sequence[Critiqued], line: int) -> list[Any]:
        lines = [example.lines[line] for example in encoded(base.tokenizer, *rows)]
        return [np.array(answer) for (answer,) in preferences.measure_tokens(model, lines, pad, "")]

    plain, judged, of_others = measure(rows, 1), measure(rows, 0), measure(swapped, 0)
    told = encoded(base.tokenizer, *rows)
    faults = [
        locate_fault(base.tokenizer, row.answer, row.fault, example.lines[0].answers[0])
        for row, example in zip(rows, told, strict=True)
    ]
    assert all(fault is not None for fault in faults)

    def ratios(judged: Sequence[Any]) -> list[Any]:
        return [one - other for one, other in zip(judged, plain, strict=True)]

    own, others = (score_detection(ratios(each), faults, math.log(1.2)) for each in (judged, of_others))
    assert own["auroc"]["value"] > 0.6
    assert own["auroc"]["value"] > others["auroc"]["value"] + 0.04
    assert own["flagged of faults"] > own["flagged of others"] + 0.2
    moved = score_detection([np.roll(ratio, 3) for ratio in ratios(judged)], faults, math.log(1.2))
    assert moved["auroc"]["value"] < 0.58, "positions that do not meet find nothing"
    wrong = np.concatenate(faults)  # type: ignore[arg-type]
    gains = [float(np.concatenate(ratios(each))[wrong].mean()) for each in (judged, of_others)]
    assert gains[0] > 0.5 > gains[1]


# Step 1: rows


def test_kinds_are_kept_by_their_share() -> None:
    """At most floor(0.25 * judged) good answers, drawn with the seed; judged ones are all kept, in their order."""
    rows = [Critiqued(str(n), "f", f"{n}?", "a", "bad" if n % 3 else "") for n in range(40)]
    count = sum(bool(row.judgment) for row in rows)
    assert count == 26
    found = [cut.choose_kinds(rows, 0.25, None, random.Random(seed)) for seed in (0, 0, 1)]
    for chosen in found:
        assert Counter(bool(row.judgment) for row in chosen) == {True: 26, False: 6}
        assert [int(row.id) for row in chosen] == sorted(int(row.id) for row in chosen)
    assert found[0] == found[1] != found[2]
    few = cut.choose_kinds(rows, 0.25, 10, random.Random(0))
    assert Counter(bool(row.judgment) for row in few) == {True: 10, False: 2}
    assert all(row.judgment for row in cut.choose_kinds(rows, 0.0, None, random.Random(0)))
    assert len(cut.choose_kinds(rows, 9.0, None, random.Random(0))) == 40


def test_no_instruction_is_trained_and_measured_on(chat_model: Path, judged_rows: Path, tmp_path: Path) -> None:
    """And every row is in a split, or counted among those left out."""
    split = cut.read_split(recipe_of(chat_model, judged_rows))
    assert len(split.test) == 3
    assert all(row.judgment for row in split.test)
    assert not {row.instruction for row in split.train} & {row.instruction for row in split.test}
    assert len(split.train) == 9 + 2
    assert sum(split.dropped.values()) + len(split.train) + len(split.test) == 21
    twice = [json.loads(line) for line in judged_rows.read_text().splitlines()]
    twice += [row | {"output": "Right."} for row in twice[:12]]
    both = write_jsonl(tmp_path / "twice.jsonl", twice)
    split = cut.read_split(recipe_of(chat_model, both, data__test=str(judged_rows), data__test_rows=4))
    assert not {row.instruction for row in split.train} & {row.instruction for row in split.test}
    assert split.dropped["train: answers to an instruction that is measured on"] == 8
    assert split.dropped["test: answers that are not measured on"] == 17
    assert sum(split.dropped.values()) + len(split.train) + len(split.test) == 33 + 21


def test_contexts() -> None:
    """Both end alike, the judgment stands in one of them alone, and nothing of it is left at inference."""
    judged, plain = (cut.write_context("sections", "Add.\n1 and 2", said) for said in ("It is 3.", ""))
    assert isinstance(judged, str)
    assert isinstance(plain, str)
    assert judged.endswith("### Response:\n")
    assert plain.endswith("### Response:\n")
    assert "It is 3." in judged
    assert "judgment" not in plain.lower()
    assert plain.count("Add.\n1 and 2") == judged.count("Add.\n1 and 2") == 1
    asked = cut.write_context("chat", "Add.", "It is 3.")
    assert [turn.role for turn in asked if not isinstance(turn, str)] == ["user"]
    assert cut.write_context("chat", "Add.", "") == (cut.chat.converse("Add."))


# Flags


def test_scores_of_flags_worked_by_hand() -> None:
    """Two rows, three flagged tokens of probability 0.5, 0.1 and 0.3, three others of 1, 0.5 and 0.25."""
    rows = [np.log([0.5, 1.0, 0.1]), np.log([0.5, 0.25, 0.3])]
    flags = [np.array([True, False, True]), np.array([False, False, True])]
    scores = score_flags(flags)(rows, (), Draws(2, SEED)).scores
    kept, flagged = math.log(0.125) / 3, math.log(0.015) / 3
    assert scores["flagged_probability"]["value"] == pytest.approx(0.3)
    assert scores["kept_logprob"]["value"] == pytest.approx(kept)
    assert scores["contrast"]["value"] == pytest.approx(kept - flagged)
    assert scores["nll"]["value"] == pytest.approx(-(kept + flagged) / 2)


def test_faults_are_found_in_tokens_and_scored() -> None:
    """Offsets are characters; an end token is no fault; the area is over tokens, and by row."""
    base = bases_tokenizer()
    ids = [*base("The queue has 14 rolls")["input_ids"], base.eos_token_id]
    fault = locate_fault(base, "The queue has 14 rolls", (14, 16), ids)
    assert fault is not None
    assert base.decode([token for token, wrong in zip(ids, fault, strict=True) if wrong]) == "14"
    assert not fault[-1]
    assert locate_fault(base, "The queue has 14 rolls", (), ids) is None
    assert locate_fault(base, "Another text", (0, 2), ids) is None
    scores = [np.array([0.0, 3.0, 1.0]), np.array([5.0, 2.0])]
    known = [np.array([False, True, False]), None]
    found = score_detection(scores, known, 1.5, {"its opposite": [-score for score in scores]})
    assert found["auroc of its opposite"]["value"] == 0.0
    assert (found["rows"], found["rows with a known fault"], found["tokens of faults"]) == (2, 1, 1)
    assert found["flagged"] == pytest.approx(3 / 5)
    assert found["auroc"]["value"] == found["auroc by row"]["value"] == 1.0
    assert (found["flagged of faults"], found["flagged of others"]) == (1.0, 0.0)
    pieces, marks = cut_pieces(base, ids, fault)
    assert "".join(pieces).startswith("The queue has 14 rolls")
    assert sum(marks) == 1
    row = Marked("a", "f", pieces, marks, "No.")
    assert from_json(to_json(row)) == row


def bases_tokenizer() -> Any:
    from conftest import make_tokenizer

    return make_tokenizer()


# Runs


def test_a_run(chat_model: Path, judged_rows: Path, tmp_path: Path) -> None:
    """Offline, through the command line: model, rivals, flags, scores on both splits, report; nothing twice."""
    folder = tmp_path / "run"
    options = [
        part
        for name, value in values_of(chat_model, judged_rows).items()
        for part in ("--set", f"{name}={json.dumps(value)}")
    ]
    assert invoke("check", "cut", *options).exit_code == 0
    result = invoke("run", "cut", *options, "--set", 'compare=["mle", "all"]', "--out", folder)
    assert result.exit_code == 0, result.output
    scores = json.loads((folder / "scores.json").read_text())
    assert list(scores["held_out"]["systems"]) == ["CUT", "likelihood alone", "unlikelihood of all tokens", "untrained"]
    assert scores["held_out"]["rows"] == 3
    assert scores["held_out"]["best_baseline"] != cut.BEFORE
    assert scores["trained_rows"]["rows"] == 9
    assert scores["detection"]["rows"] == 12
    marked: list[Any] = list(iterate_rows(folder / "marked" / "test.jsonl"))
    answers = {row.id: row.answer for row in iterate_rows(folder / "test.jsonl")}  # type: ignore[union-attr]
    assert {row.id: "".join(row.pieces).removesuffix("<|end|>") for row in marked} == answers
    model, _ = models.load_handle(folder / "model")
    assert isinstance(model, LanguageModel)
    page = write_report(folder).read_text()
    assert "What the judgments speak of" in page
    assert marked[0].said in page


def test_a_killed_run_ends_as_one_that_was_not(
    chat_model: Path, judged_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(chat_model, judged_rows, plan__checkpoint_seconds=0, plan__lora_dropout=0.1)
    methods.run("cut", values, out=tmp_path / "whole")
    saved = training._Checkpoints.save

    def killed(self: Any, step: int) -> None:
        saved(self, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            methods.run("cut", values, out=tmp_path / "killed")
    methods.resume(tmp_path / "killed")
    for name in ("scores.json", "model/adapter_model.safetensors", "model/metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def scripted(monkeypatch: pytest.MonkeyPatch, judge: Any) -> list[Path | None]:
    """Answers and judgments by script; the folders of the models that answered, in order."""
    folders: list[Path | None] = []

    def open_side(side: Any, model: Any, engine: Any, adapted: Path | None = None, *, scores: bool) -> ScriptedEngine:
        assert not scores
        if side.name:
            return ScriptedEngine(judge)
        folders.append(adapted)
        return ScriptedEngine(lambda request: f"Left of {len(str(request.prompt)) % 7}.")

    monkeypatch.setattr(sides, "open_side", open_side)
    return folders


def praise_some(request: Any) -> str:
    """Perfect where the stall has an even number."""
    number = int(request.prompt[-1].content.split("stall ")[1].split("?")[0])
    return "Perfect." if number % 2 == 0 else "It is on the right."


ONLINE = {"rounds": 2, "round_rows": 4, "judge__url": "http://127.0.0.1:9/v1", "judge__name": "judge", "compare": []}


def test_online_rounds_go_on_from_the_model_of_the_round_before(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New instructions each round; the last model is `model`; the judge has the last word; nothing is done twice."""
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"instruction": f"Where is stall {n}?"} for n in range(12)])
    folders = scripted(monkeypatch, praise_some)
    values = values_of(chat_model, asked, data__instructions=str(asked), satisfied_share=1.0, **ONLINE)
    del values["data.train"]
    folder = tmp_path / "run"
    methods.run("cut", {**values, "data.train": ""}, out=folder)
    assert folders == [None, folder / "round-1/model", folder / "model"]
    rounds = [[row.instruction for row in iterate_rows(folder / f"round-{n}/instructions.jsonl")] for n in (1, 2, 3)]  # type: ignore[union-attr]
    assert len({text for texts in rounds for text in texts}) == 12
    scores = json.loads((folder / "scores.json").read_text())
    even = [sum(int(text.split()[-1][:-1]) % 2 == 0 for text in texts) / 4 for texts in rounds]
    assert scores["curves"]["lines"]["CUT"] == [[0, even[0]], [1, even[1]], [2, even[2]]]
    for number in (1, 2):
        chosen: list[Any] = list(iterate_rows(folder / f"round-{number}/chosen.jsonl"))
        assert {bool(row.judgment) for row in chosen} <= {True, False}
        assert scores[f"round-{number}"]["trained on"] == len(chosen)
        assert all(row.answer.startswith("Left of") for row in chosen)
        wrong = [row for row in chosen if row.judgment]
        assert len(wrong) == 4 - 4 * even[number - 1]
        assert {row.judgment for row in wrong} == {"It is on the right."}
    first, second = (folder / name / "adapter_model.safetensors" for name in ("round-1/model", "model"))
    assert first.read_bytes() != second.read_bytes()
    calls = len(folders)
    methods.resume(folder)
    assert len(folders) == calls
    assert "judged perfect" in write_report(folder).read_text()


def test_online_after_offline_and_from_the_base(
    chat_model: Path, judged_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round answers with the offline model; `start_at` base trains each round's from the base."""
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"instruction": f"Where is stall {n}?"} for n in range(40, 60)])
    starts: list[Path | None] = []
    language_model = models.language_model
    folders = scripted(monkeypatch, praise_some)
    monkeypatch.setattr(
        models,
        "language_model",
        lambda base, settings, plan, start=None: starts.append(start) or language_model(base, settings, plan, start),
    )
    for start_at in ("current", "base"):
        folder = tmp_path / start_at
        values = values_of(
            chat_model, judged_rows, data__instructions=str(asked), start_at=start_at, **(ONLINE | {"rounds": 1})
        )
        folders.clear()
        starts.clear()
        methods.run("cut", values, out=folder)
        assert folders == [folder / "offline", folder / "model"]
        assert starts[-1] == (folder / "offline" if start_at == "current" else None)


def test_a_judge_that_finds_nothing_ends_the_rounds(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"instruction": f"Where is stall {n}?"} for n in range(12)])
    values = values_of(chat_model, asked, data__instructions=str(asked), **ONLINE) | {"data.train": ""}
    scripted(monkeypatch, lambda request: "perfect!")
    with pytest.raises(UserError, match="nothing wrong with any answer of round 1"):
        methods.run("cut", values, out=tmp_path / "kind")
    scripted(monkeypatch, lambda request: "I'm sorry, but I cannot help with that.")
    with pytest.raises(UserError, match="the judge said nothing"):
        methods.run("cut", values, out=tmp_path / "mute")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Perfect", ""),
        ("  **perfect**, nothing to add", ""),
        ("PERFECT!", ""),
        ("Not perfect: it is 3.", "Not perfect: it is 3."),
        ("The answer is imperfect.", "The answer is imperfect."),
        ("  It is 3.\n", "It is 3."),
    ],
)
def test_judgments_are_read(reply: str, value: str) -> None:
    found = cut.parse_judgment(reply)
    assert (found.outcome, found.value) == ("value", value)


def test_a_judge_that_says_nothing_is_not_guessed_at() -> None:
    for reply in ("", "  \n", "I'm sorry, but I can't assist with that request."):
        assert cut.parse_judgment(reply).outcome == "malformed"


# Mistakes of users


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data__train": ""}, "nothing to learn from"),
        ({"rounds": 2}, "go together"),
        ({"data__instructions": "judgments"}, "go together"),
        ({"plan__keep": "best"}, "need dev rows"),
        ({"judge__url": "http://127.0.0.1:9/v1"}, "go together"),
        ({"data__judgment": "critique"}, "no column 'critique'"),
        ({"data__test_rows": 3, "data__good": -1.0, "data__score": "output"}, "not a number"),
    ],
)
def test_mistakes_are_told_before_a_model_loads(
    values: dict[str, Any], message: str, chat_model: Path, judged_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "load_lm", None)
    with pytest.raises(UserError) as raised:
        cut.check(recipe_of(chat_model, judged_rows, **values))
    assert any(message in problem.what for problem in raised.value.all())


def test_too_few_rows_are_told(chat_model: Path, judged_rows: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "Nod.", "output": "Yes", "judgment": None} for _ in range(5)]
    with pytest.raises(UserError, match="too few answers with a judgment: 0"):
        cut.check(recipe_of(chat_model, write_jsonl(tmp_path / "good.jsonl", rows)))
    with pytest.raises(UserError, match="18 different instructions, and 300 are needed"):
        cut.check(recipe_of(chat_model, judged_rows, data__instructions=str(judged_rows), rounds=2, round_rows=100))


def test_check_says_what_a_run_would_do(chat_model: Path, judged_rows: Path) -> None:
    """And tells how coarse the precision is beside the threshold."""
    lines = dict(cut.check(recipe_of(chat_model, judged_rows, plan__precision="bfloat16")))
    assert lines["rows"] == "train 9 with a judgment and 2 without, test 3"
    assert "where log lambda is 0.18" in lines["precision"]
    assert lines["steps"] == "3 of 4 answers, in each of 2 trainings"
    assert "precision" not in dict(cut.check(recipe_of(chat_model, judged_rows, plan__precision="float32")))
    with pytest.raises(UserError, match="none of 3 answers fits with its judgment into 16 tokens"):
        cut.check(recipe_of(chat_model, judged_rows, max_tokens=16))
