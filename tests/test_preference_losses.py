"""Losses of pairs and of single answers: TRL's own trainers on the same batch, and sums worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from camelid import objectives
from camelid.branches import Answered, collate_answers, collate_ends
from camelid.errors import UserError
from camelid.heads import LanguageModel, Sight, ValueModel
from camelid.logprobs import answer_logprobs, token_logprobs
from camelid.preferences import mismatch, with_reference
from conftest import make_model

ROWS = [
    {"prompt": "The queue again", "chosen": " made me smile", "rejected": " is a complete disgrace, I think"},
    {"prompt": "This kettle", "chosen": " was a lovely surprise to all of us", "rejected": " shouted"},
    {"prompt": "The late bus of our landlord", "chosen": " is near", "rejected": " drives me up the wall"},
]
BETA = 0.3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy and a reference with other weights."""
    place = tmp_path_factory.mktemp("pair")
    return make_model(place / "policy", seed=0), make_model(place / "reference", seed=1)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def rows_of(batch: dict[str, Tensor], parts: int) -> list[Answered]:
    """What TRL laid into a batch, all first answers before all second ones, as prompts with their answers."""
    mask = batch["completion_mask"].bool()
    lines = [ids[seen.bool()] for ids, seen in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    whole = [(line[~told[: len(line)]].tolist(), line[told[: len(line)]].tolist()) for line, told in zip(lines, mask)]
    count = len(whole) // parts
    return [
        Answered(str(row), whole[row][0], tuple(whole[row + part * count][1] for part in range(parts)))
        for row in range(count)
    ]


def measured(lm: Any, rows: Sequence[Answered]) -> list[list[float]]:
    with torch.no_grad():
        values = answer_logprobs(LanguageModel(lm, Sight()), collate_answers(rows, 0)).tolist()
    width = len(rows[0].answers)
    return [values[start : start + width] for start in range(0, len(values), width)]


def assert_equal_to(theirs: Any, ours: Any, loss: Callable[[Any], Tensor], told: Callable[[], Tensor]) -> None:
    """The value and the gradient in every weight, to 1e-5."""
    expected = loss(theirs)
    expected.backward()
    found = told()
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6, msg=name)


def mean_of(terms: dict[str, Tensor], counts: dict[str, int]) -> Tensor:
    """As the loop adds terms up."""
    return torch.stack([term / counts[name] for name, term in terms.items()]).sum()


def trained_by(
    kind: str, folders: tuple[Path, Path], tmp_path: Path, **options: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """(trainer, its model, its first batch) of one of TRL's trainers on ROWS."""
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer

    home = trl if hasattr(trl, f"{kind}Trainer") else __import__(f"trl.experimental.{kind.lower()}", fromlist=["*"])
    config = getattr(home, f"{kind}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(ROWS) * (2 if kind == "KTO" else 1),
        report_to=[],
        use_cpu=True,
        bf16=False,
        remove_unused_columns=False,
        **options,
    )
    model = load(folders[0])
    given = {"ref_model": load(folders[1])} if kind in ("DPO", "KTO") else {}
    trainer = getattr(home, f"{kind}Trainer")(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(folders[0]),
        **given,
    )
    model.eval()
    return trainer, model, next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("shares_prompt", [True, False])
@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("sigmoid", objectives.dpo(BETA)),
        ("ipo", objectives.ipo(BETA)),
        ("sigmoid_norm", objectives.dpo(BETA, normalised=True)),
    ],
)
def test_dpo_is_trl_s(
    kind: str, objective: Any, shares_prompt: bool, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    trainer, theirs, batch = trained_by("DPO", folders, tmp_path, beta=BETA, loss_type=[kind])
    ours = load(folders[0])
    rows = rows_of(batch, parts=2)
    rows = with_reference(rows, measured(load(folders[1]), rows))
    laid = collate_answers(rows, 0, shares_prompt=shares_prompt)
    assert_equal_to(
        theirs,
        ours,
        lambda model: trainer.compute_loss(model, batch),
        lambda: mean_of(objective(LanguageModel(ours, Sight()), laid)[0], laid.counts),
    )


@pytest.mark.parametrize("shares_prompt", [True, False])
def test_kto_is_trl_s(shares_prompt: bool, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """TRL turns pairs into single answers, and compares each with the answer of the row before it."""
    trainer, theirs, batch = trained_by("KTO", folders, tmp_path, beta=BETA, desirable_weight=1.3)
    ours = load(folders[0])
    own = rows_of(batch, parts=1)
    others = rows_of({name.removeprefix("KL_"): batch[name] for name in batch if name.startswith("KL_")}, parts=1)
    assert [row.prompt for row in own] == [row.prompt for row in others]
    rows = [
        Answered(row.id, row.prompt, (row.answers[0], other.answers[0]), strength=1.0 if wanted else -1.0)
        for row, other, wanted in zip(own, others, batch["label"], strict=True)
    ]
    rows = with_reference(rows, measured(load(folders[1]), rows))
    laid = collate_answers(rows, 0, shares_prompt=shares_prompt)
    objective = objectives.kto(BETA, desirable=1.3)
    assert_equal_to(
        theirs,
        ours,
        lambda model: trainer.compute_loss(model, batch),
        lambda: mean_of(objective(LanguageModel(ours, Sight()), laid)[0], laid.counts),
    )


def split_rows(batch: dict[str, Tensor]) -> list[Answered]:
    """What TRL's older trainers laid out, chosen and rejected apart; the prompts are one token where told so."""
    rows = []
    for number in range(len(ROWS)):
        answers, prompt = [], []
        for side in ("chosen", "rejected"):
            seen = batch[f"{side}_attention_mask"][number].bool()
            ids, labels = (batch[f"{side}_{name}"][number][seen] for name in ("input_ids", "labels"))
            prompt = ids[labels == -100].tolist()
            answers.append(ids[labels != -100].tolist())
        rows.append(Answered(str(number), prompt, tuple(answers)))
    return rows


@pytest.mark.parametrize("shares_prompt", [True, False])
def test_simpo_is_trl_s(shares_prompt: bool, folders: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"beta": 2.0, "simpo_gamma": 0.7, "loss_type": "simpo", "cpo_alpha": 0.0}
    trainer, theirs, batch = trained_by("CPO", folders, tmp_path, **options)
    ours = load(folders[0])
    laid = collate_answers(split_rows(batch), 0, shares_prompt=shares_prompt)
    objective = objectives.simpo(2.0, 0.7)
    assert_equal_to(
        theirs,
        ours,
        lambda model: trainer.compute_loss(model, batch),
        lambda: mean_of(objective(LanguageModel(ours, Sight()), laid)[0], laid.counts),
    )


@pytest.mark.parametrize("shares_prompt", [True, False])
def test_orpo_is_trl_s(
    shares_prompt: bool, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL also tells the prompts' tokens, which eq. 6 does not: they are taken out of its labels here."""
    trainer, theirs, batch = trained_by("ORPO", folders, tmp_path, beta=BETA)
    ours = load(folders[0])
    rows = split_rows(batch)
    laid = collate_answers(rows, 0, shares_prompt=shares_prompt)
    forward = trainer.concatenated_forward

    def without_prompts(model: Any, given: dict[str, Any]) -> Any:
        chosen, rejected, chosen_logits, *rest = forward(model, given)
        labels = given["chosen_labels"]
        width = labels.shape[1]
        told = torch.nn.functional.cross_entropy(
            chosen_logits[:, : width - 1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        return chosen, rejected, chosen_logits, rest[0], told

    monkeypatch.setattr(trainer, "concatenated_forward", without_prompts)
    objective = objectives.orpo(BETA)
    assert_equal_to(
        theirs,
        ours,
        lambda model: trainer.compute_loss(model, batch),
        lambda: mean_of(objective(LanguageModel(ours, Sight()), laid)[0], laid.counts),
    )


@pytest.mark.parametrize("shares_prompt", [True, False])
def test_bradley_terry_is_trl_s(shares_prompt: bool, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """TRL's reward trainer on a classifier of one output, whose head has no bias.

    Its padding must be a token of its own: transformers takes the last token that is not padding for the end, which
    would be the one before the end of text where that is the padding.
    """
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    theirs = AutoModelForSequenceClassification.from_pretrained(folders[0], num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(299)
    theirs.config.pad_token_id = 299
    trainer = RewardTrainer(
        model=theirs,
        args=RewardConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False
        ),
        train_dataset=Dataset.from_list([row | {"margin": 1.0 + number} for number, row in enumerate(ROWS)]),
        processing_class=tokenizer,
    )
    theirs.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    lines = [ids[seen.bool()].tolist() for ids, seen in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    rows = []
    for number in range(3):
        chosen, rejected = lines[number], lines[number + 3]
        shared = next(place for place, pair in enumerate(zip(chosen, rejected)) if pair[0] != pair[1])
        strength = float(batch["margin"][number])
        rows.append(Answered(str(number), chosen[:shared], (chosen[shared:], rejected[shared:]), strength))
    ours = ValueModel(load(folders[0]).model, ["reward"], Sight())
    ours.head.weight.data.copy_(theirs.score.weight.data)
    laid = collate_ends(rows, 0, shares_prompt=shares_prompt)
    expected: Any = trainer.compute_loss(theirs, batch)
    expected.backward()
    found = objectives.rewards(objectives.margin_bradley_terry)(ours, laid)[0]["loss"] / 3
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in theirs.model.named_parameters()}
    for name, parameter in ours.trunk.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(ours.head.weight.grad, theirs.score.weight.grad, rtol=1e-5, atol=1e-6)
    assert ours.head.bias.grad is not None
    assert ours.head.bias.grad.abs().max() < 1e-6  # a constant does not move a difference


@pytest.mark.parametrize(
    ("chosen", "rejected", "strength", "values"),
    [
        (1.2, 0.4, 2.0, (0.371101, 1.463282, 0.742201)),
        (1.2, 0.4, 3.0, (0.371101, 2.305083, 1.113302)),
        (-0.5, 0.7, 3.0, (1.463282, 4.214884, 4.389847)),
    ],
)
def test_forms_of_bradley_terry(chosen: float, rejected: float, strength: float, values: Sequence[float]) -> None:
    """With d = r_c - r_r: -log sigmoid(d), -log sigmoid(d - m), -m log sigmoid(d); d is 0.8 and -1.2."""
    numbers = [torch.tensor([value]) for value in (chosen, rejected, strength)]
    found = [loss(*numbers).item() for loss in objectives.BRADLEY_TERRY.values()]
    assert found == pytest.approx(values, abs=2e-6)


@pytest.mark.parametrize(
    ("numbers", "slopes"),
    [
        ((1.2, 0.4, 2.0), (-0.310026, -0.768525, -0.620051)),
        ((-0.5, 0.7, 3.0), (-0.768525, -0.985226, -2.305574)),
    ],
)
def test_slopes_of_bradley_terry(numbers: Sequence[float], slopes: Sequence[float]) -> None:
    """In r_c: sigmoid(d) - 1, sigmoid(d - m) - 1, m (sigmoid(d) - 1)."""
    for loss, slope in zip(objectives.BRADLEY_TERRY.values(), slopes, strict=True):
        chosen = torch.tensor([numbers[0]], requires_grad=True)
        loss(chosen, torch.tensor([numbers[1]]), torch.tensor([numbers[2]])).backward()
        assert chosen.grad is not None
        assert chosen.grad.item() == pytest.approx(slope, abs=2e-6)


def test_a_scaled_pair_counts_as_so_many_pairs() -> None:
    chosen, rejected = torch.tensor([0.3, -0.2, 1.0]), torch.tensor([0.1, 0.4, 0.9])
    strength = torch.tensor([1.0, 3.0, 2.0])
    times = strength.long()
    scaled = objectives.scaled_bradley_terry(chosen, rejected, strength).sum()
    repeated = objectives.bradley_terry(
        chosen.repeat_interleave(times), rejected.repeat_interleave(times), torch.ones(6)
    )
    torch.testing.assert_close(scaled, repeated.sum())


def test_kto_worked_by_hand() -> None:
    """beta 0.5; log-ratios 1.0 (wanted) and -0.4 (not); those of others 0.6 and 0.2, so z = 0.4.

    1 - sigmoid(0.5 * 0.6) = 0.425557 and 1.5 (1 - sigmoid(0.5 * 0.8)) = 0.601968.
    """

    class Ratios:
        def __call__(self, *_: Any) -> Tensor:
            return torch.tensor([1.0, 0.6, -0.4, 0.2])

    batch = collate_answers([Answered("a", [1], ([2], [3]), 1.0), Answered("b", [1], ([4], [5]), -1.0)], 0)
    batch = replace(batch, values_SK=torch.zeros(4, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "answer_logprobs", Ratios())
        terms, told = objectives.kto(0.5, 1.0, 1.5)(None, batch)
    assert terms["loss"].item() == pytest.approx(0.425557 + 0.601968, abs=1e-5)
    assert told["point"] == pytest.approx(2 * 0.4)


def test_a_negative_point_is_zero() -> None:
    """Log-ratios of others below 0 on average say nothing of the divergence, which is at least 0."""
    batch = collate_answers([Answered("a", [1], ([2], [3]), 1.0)], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "_log_ratios", lambda *_: torch.tensor([1.0, -2.0]))
        terms, _ = objectives.kto(0.5)(None, batch)
    assert terms["loss"].item() == pytest.approx(1 - 1 / (1 + math.exp(-0.5)), abs=1e-6)


def test_log_complement_at_both_ends() -> None:
    """log(1 - p): 1e-30 is -1e-30, near 1 it is the log of what is missing; no gradient is NaN."""
    logprobs = torch.tensor([-69.0775527898, -1e-6, -0.6931471806, -3.0], dtype=torch.float64, requires_grad=True)
    found = objectives.log_complement(logprobs)
    expected = [-1e-30, math.log(-math.expm1(-1e-6)), math.log(0.5), math.log1p(-math.exp(-3))]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    found.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1e-30, -1e6, -1.0, -math.exp(-3) / (1 - math.exp(-3))], rel=1e-5)


def test_masked_ratings_do_not_count() -> None:
    """What is predicted where no rating is known changes neither loss nor gradient; counts are the known ones."""
    nan = math.nan
    known = ((2.0, nan, nan, 1.0, nan), (nan, nan, 3.0, 0.0, nan))
    rows = [Answered(name, [1, 2], ([3],), values=(values,)) for name, values in zip("ab", known, strict=True)]
    batch = collate_ends(rows, 0)
    assert batch.counts["rated"] == 4
    results = []
    for other in (0.0, 50.0):
        values = torch.tensor([[1.0, other, other, 1.5, other], [other, other, 2.0, 1.0, other]], requires_grad=True)
        terms, _ = objectives.ratings(lambda _, values=values: values, batch)
        terms["rated"].backward()
        assert terms["rated"].item() == pytest.approx(1.0 + 0.25 + 1.0 + 1.0)
        results.append(values.grad)
    torch.testing.assert_close(results[0], results[1])
    blank = collate_ends([Answered("a", [1], ([3],), values=((nan,),))], 0)
    with pytest.raises(UserError, match="no rating"):
        objectives.ratings(lambda _: torch.zeros(1, 1), blank)


def test_token_logprobs_of_a_frozen_head(folders: tuple[Path, Path]) -> None:
    """Value and gradient are those of logits and log-softmax, over several chunks."""
    rows = [Answered(str(n), list(range(5 + n)), (list(range(20, 80 + n)), list(range(90, 130)))) for n in range(3)]
    batch = collate_answers(rows, 0)
    assert len(batch.labels_N) > 2 * 128
    gradients, values = [], []
    for frozen in (False, True):
        lm = load(folders[0])
        lm.get_output_embeddings().weight.requires_grad_(not frozen)
        found = token_logprobs(LanguageModel(lm, Sight()), batch)
        (found * torch.linspace(-1, 1, len(found))).sum().backward()
        values.append(found.detach())
        gradients.append({name: p.grad for name, p in lm.model.layers.named_parameters()})
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_another_answer_changes_nothing(folders: tuple[Path, Path]) -> None:
    """An answer's log-probability does not depend on what else stands behind its prompt, on order, or on padding."""
    model = LanguageModel(load(folders[0]), Sight())
    answers = ([5, 6, 7], [8], [9, 10, 11, 12, 13])
    with torch.no_grad():
        rows = [[Answered("a", [1, 2, 3], (one,))] for one in answers]
        alone = [answer_logprobs(model, collate_answers(row, 0)).item() for row in rows]
        row, long = Answered("a", [1, 2, 3], answers), Answered("b", [4] * 30, ([5] * 9,))
        turned = Answered("c", [1, 2, 3], answers[::-1])
        found = answer_logprobs(model, collate_answers([row, long, turned], 0)).tolist()
    assert found[:3] == pytest.approx(alone, abs=1e-5)
    assert found[4:] == pytest.approx(alone[::-1], abs=1e-5)


def test_mismatch_takes_the_next_answer() -> None:
    rows = [Answered(str(n), [n], ([10 + n],), strength=float(n)) for n in range(3)]
    assert [row.answers for row in mismatch(rows)] == [([10], [11]), ([11], [12]), ([12], [10])]
    assert [row.prompt for row in mismatch(rows)] == [[0], [1], [2]]
