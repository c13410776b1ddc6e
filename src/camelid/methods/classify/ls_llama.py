"""Label supervision: a linear head on the final hidden states makes a LLaMA a classifier (LS-LLaMA, LS-unLLaMA).

Zongxi Li et al., "Label Supervised LLaMA Finetuning", 2023, arXiv 2310.01208.

Problem. Somebody has labelled texts, or sentences with a tag for each word, and one small machine. Prompting answers in
words and ignores the labels; here the labels train the model directly.

Algorithm. Batch B, tokens T, width D, classes C; input ids x_BT, mask m_BT.
 1. Encode the raw text, with no prompt, to H_BTD: the hidden states after the final norm. A text longer than the limit
    is cut, or read in windows whose answers are pooled.
 2. Attention. Causal (LS-LLaMA): token i reads j <= i. Bidirectional (LS-unLLaMA): every token reads every text token,
    in every layer or in a range of them; weights and positions stay as they are, only the mask differs.
 3. Answers for a text: z = H W^T with W_CD and no bias, pooled over the text's tokens (last, mean, or max per class),
    in float32. Loss by kind of label: one class, cross-entropy(z, label); any number of classes, binary cross-entropy
    of each; a number, (z - label)^2 with C = 1.
 4. One tag a word: z = W dropout(H) + c at each word's first sub-token; loss = mean cross-entropy over words.
 5. The base is frozen; low-rank adapters and the head are trained with AdamW and a decaying rate.
 6. Predict argmax z; ties go to the lowest class. Probabilities are softmax(z / t), with t fitted on dev rows.
 Optional, before 5: masked next-token prediction (LLM2Vec, BehnamGhader et al., 2024, arXiv 2404.05961): 20 % of the
 tokens are masked and each is predicted from the state before it, so that the weights learn to read both sides.

Differs from the paper in:
 - Padding is never read. The paper's code lets unmasked attention, mean and max run over padding; `paper_padding` too.
 - Adapters of rank 16 on all linear layers of the upper third, and a rate of 2e-3: 135M parameters need more than 5e-5
   on q and v, and layers that are not trained need to be run only once. `--scale paper` has the paper's values.
 - Adapters and head are float32 (the paper's scripts cast all to bfloat16, where small updates are lost).
 - Numbers are learned as (y - mean) / std over the training rows, so that the loss does not depend on their unit.
 - The last epoch is kept, and test rows choose nothing. The paper's scripts select by loss on the test set.
 - F1 of tags is over whole entities; the paper's OntoNotes files tag only the first word of each.
 - Temperature, windows, class weights, masked next-token prediction and ranges of layers are not in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from camelid import baselines, bases, data, forecast, labelling, models, prediction, recipe
from camelid.annotation import softmax
from camelid.batches import Tokens
from camelid.data import Splits
from camelid.engines import Question
from camelid.engines.local import LocalEngine
from camelid.errors import UserError
from camelid.evaluation import evaluate, evaluate_seeds
from camelid.objectives import cross_entropy
from camelid.reading import Reading, complain_of_reading, cut_texts, pad_id, tell_answer, tokenise_texts
from camelid.rows import Labelled, Predicted
from camelid.runs import Run, slug
from camelid.scoring import score
from camelid.training import train

OURS = "label supervision"
INSTRUCTED = "instruction tuning"


class Recipe(recipe.Recipe):
    """Values of a label-supervised run."""

    data: recipe.Data = Field(default_factory=recipe.Data)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    attention: Literal["causal", "bidirectional"] = Field(
        default="causal", description="causal is LS-LLaMA, bidirectional LS-unLLaMA"
    )
    unmask_layers: tuple[int, int] | None = Field(
        default=None, description="bidirectional attention only in layers first to last - 1, such as [10, 30]"
    )
    mntp_epochs: int = Field(
        default=0, ge=0, description="passes of masked next-token prediction over the training texts beforehand"
    )
    mntp_share: float = Field(default=0.2, gt=0, lt=1, description="share of tokens that are masked in them")
    pooling: Literal["last", "mean", "max"] = Field(
        default="last",
        description="how a text's tokens become one answer (paper: last when causal, mean when bidirectional)",
    )
    max_tokens: int = Field(default=256, ge=2, description="longer texts are cut at their end (paper: 64)")
    stride: int | None = Field(
        default=None, ge=1, description="read longer texts in windows of max_tokens that start every so many tokens"
    )
    paper_padding: bool = Field(
        default=False, description="let unmasked attention, mean and max read padding, as the paper's code does"
    )
    class_weights: Literal["equal", "balanced"] = Field(
        default="equal", description="balanced: rows of rare classes weigh more in the loss"
    )
    calibrate: bool = Field(default=True, description="fit a temperature on dev rows, for probabilities to believe")
    compare: bool = Field(default=False, description="also score what one would try first, on the same rows")
    shots: int = Field(default=2, ge=1, description="examples per class in the few-shot prompt of the comparison")
    instruct: bool = Field(
        default=False, description="also train the same model, with the same plan, to write the label after a prompt"
    )
    seeds: int = Field(default=1, ge=1, description="train so many times, with seeds plan.seed and up; one is reported")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    trainings = recipe.seeds * (1 + recipe.instruct + bool(recipe.mntp_epochs))
    lines = forecast.forecast_labelling(
        recipe.model, recipe.data, recipe.plan, reading_of(recipe), _complaints(recipe), trainings
    )
    if recipe.compare or recipe.instruct:
        _check_prompts(recipe, data.read_splits(recipe.data, recipe.plan.seed))
    return lines


def run(recipe: Recipe, run: Run) -> None:
    """Rows, baselines, the trained models, their predictions, scores."""
    rows = labelling.keep_splits(run, lambda: data.read_splits(recipe.data, recipe.plan.seed))
    task, classes, held_out = data.task_of(rows.train), data.labels_of(rows.train), rows.test or rows.dev

    systems = {
        name: run.rows(f"predictions/{slug(name)}", lambda predict=predict: predict(rows.train, held_out))
        for name, predict in (_baselines(recipe, task, classes) if recipe.compare else {}).items()
    }
    plans = [recipe.plan.model_copy(update={"seed": recipe.plan.seed + more}) for more in range(recipe.seeds)]
    instructed = [instruct(recipe, run, plan, rows, classes) for plan in plans] if recipe.instruct else []
    supervised = [supervise(recipe, run, plan, rows, classes) for plan in plans]

    trained = {INSTRUCTED: instructed, OURS: supervised} if instructed else {OURS: supervised}
    systems |= {name: found[0] for name, found in trained.items()}
    run.scores("held_out", lambda: {"split": rows.held_out, **evaluate(systems, classes, OURS, task, trained=trained)})
    if recipe.seeds > 1:
        run.scores("seeds", lambda: evaluate_seeds(trained, [plan.seed for plan in plans], classes, task))


def supervise(recipe: Recipe, run: Run, plan: recipe.Plan, rows: Splits, classes: Sequence[str]) -> list[Predicted]:
    """Steps 1 to 6 with one seed: predictions on the held-out rows."""
    suffix = _suffix(recipe, plan)
    start = None
    if recipe.mntp_epochs:
        start = run.model(
            f"adapted{suffix}",
            build=lambda: models.language_model(_base(recipe), {"sight": _sight(recipe)}, plan),
            fit=lambda model, folder: adapt(recipe, model, plan, folder, rows.train),
        )

    def fit(model: Any, folder: Path) -> None:
        tokenizer, balanced = _base(recipe).tokenizer, recipe.class_weights == "balanced"
        labelling.fit(model, tokenizer, rows.train, rows.dev, plan, folder, balanced=balanced)
        if recipe.calibrate:
            labelling.calibrate(model, tokenizer, rows.dev)

    task = data.task_of(rows.train)
    model = run.model(f"model{suffix}", build=lambda: build(recipe, plan, task, classes, start), fit=fit)
    held_out = rows.test or rows.dev
    return run.rows(f"predictions/{slug(OURS)}{suffix}", lambda: prediction.predict_with(model, held_out))


def build(recipe: Recipe, plan: recipe.Plan, task: str, classes: Sequence[str], start: Path | None = None) -> Any:
    """Steps 2, 3 or 4, and 5: frozen trunk, adapters, and a head for labels or tags."""
    sight = {**_sight(recipe), "reads_padding": recipe.paper_padding}
    settings: dict[str, Any] = {"classes": list(classes), "sight": sight}
    if task == "tags":
        settings |= {"kind": "token"}
    else:
        settings |= {"kind": "label", "pooling": recipe.pooling, "task": task}
    return models.label_model(_base(recipe), settings, plan, reading_of(recipe), start)


def adapt(recipe: Recipe, model: Any, plan: recipe.Plan, folder: Path, rows: Sequence[Any]) -> None:
    """Masked next-token prediction on the training texts; every pass masks anew."""
    tokenizer = _base(recipe).tokenizer
    texts = [ids for ids in tokenise_texts(tokenizer, rows, recipe.max_tokens) if len(ids) > 1]
    mask_id = tokenizer.mask_token_id
    if mask_id is None:  # decoders have none: LLM2Vec uses the underscore
        mask_id = tokenizer.convert_tokens_to_ids("_")
    draw = random.Random(f"{plan.seed} mntp")
    masked = [mask_tokens(ids, mask_id, recipe.mntp_share, draw) for _ in range(recipe.mntp_epochs) for ids in texts]
    once = plan.model_copy(update={"epochs": 1, "keep": "last", "patience": None, "groups": ()})
    pad = pad_id(tokenizer)
    train(model, labelling.over_epochs(masked, once, pad), cross_entropy, once, folder=folder)


def mask_tokens(ids: Sequence[int], mask_id: int, share: float, draw: random.Random) -> Tokens:
    """The text with `share` of its tokens (at least one, never the first) masked, each to be told at the one before."""
    chosen = sorted(draw.sample(range(1, len(ids)), max(1, round(share * (len(ids) - 1)))))
    masked = [mask_id if at in set(chosen) else token for at, token in enumerate(ids)]
    return Tokens("", masked, [ids[at] for at in chosen], [at - 1 for at in chosen])


def reading_of(recipe: Recipe) -> Reading:
    """How texts become tokens."""
    return Reading(recipe.max_tokens, recipe.stride, recipe.paper_padding)


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found = []
    if recipe.attention == "causal" and (recipe.unmask_layers or recipe.mntp_epochs):
        fix = "Add --attention bidirectional, or leave them out."
        found.append(("unmask_layers and mntp_epochs need bidirectional attention", fix))
    if recipe.stride and recipe.paper_padding:
        found.append(("stride and paper_padding cannot go together", "Choose one: the paper's code cuts long texts."))
    found += complain_of_reading(reading_of(recipe))
    tagged = bool(recipe.data.tokens or recipe.data.tags) or data.is_tagged(recipe.data.train)
    if recipe.instruct and (tagged or recipe.data.task != "labels"):
        found.append(("instruct needs one class a text", "Leave it out."))
    if recipe.paper_padding and recipe.plan.pack_tokens:
        found.append(("paper_padding and plan.pack_tokens cannot go together", "Packed rows have no padding to read."))
    if recipe.unmask_layers and recipe.attention == "bidirectional":
        with suppress(UserError):  # the forecast says that there is no such model
            found += filter(None, [models.complain_of_layers(recipe.unmask_layers, _base(recipe))])
    if recipe.paper_padding and tagged:
        found.append(("paper_padding is for labels of texts, and these rows have tags", "Leave it out."))
    return found


def _check_prompts(recipe: Recipe, rows: Splits) -> None:
    """Raise UserError where the longest prompt of the comparison does not fit into the model's context."""
    if data.task_of(rows.train) != "labels":
        return
    base, classes = _base(recipe), data.labels_of(rows.train)
    context = base.config.get_text_config().max_position_embeddings
    shown = exemplars(recipe, rows.train) if recipe.compare else []
    texts = cut_texts(base.tokenizer, rows.test or rows.dev, recipe.max_tokens)
    longest = max(texts, key=len)
    choices = max((f" {class_words(name)}" for name in classes), key=len)
    needed = len(
        base.tokenizer(few_shot_prefix(base, classes, shown) + PROMPT.format(text=longest) + choices)["input_ids"]
    )
    if needed > context:
        what = f"the longest prompt of the comparison has {needed:,} tokens, and the model reads {context:,}"
        raise UserError(what, "Lower --shots or --max-tokens, or leave out --compare.")


def few_shot_prefix(base: bases.Base, classes: Sequence[str], examples: Sequence[Labelled]) -> str:
    """What stands before the text in a prompt: the classes, and examples with their labels."""
    texts = cut_texts(base.tokenizer, examples, EXAMPLE_TOKENS)
    return instruction(classes) + "".join(
        PROMPT.format(text=text) + f" {class_words(row.label)}\n\n" for row, text in zip(examples, texts, strict=True)
    )


def _base(recipe: Recipe) -> bases.Base:
    return bases.open_base(recipe.model.base, recipe.model.revision)


def _sight(recipe: Recipe) -> dict[str, Any]:
    return {"attention": recipe.attention, "unmasked": recipe.unmask_layers}


def _suffix(recipe: Recipe, plan: recipe.Plan) -> str:
    return "" if plan.seed == recipe.plan.seed else f"-seed-{plan.seed}"


def _baselines(recipe: Recipe, task: str, classes: Sequence[str]) -> dict[str, baselines.Baseline]:
    """What one would try first. Prompts that ask for a number, a set or one tag a word are no sensible first try."""
    seed = recipe.plan.seed
    if task == "tags":
        return {
            "majority class": baselines.predict_majority,
            "word features + logistic regression": lambda train, rows: baselines.predict_words(train, rows, seed),
        }
    if task == "regression":
        return {"mean": baselines.predict_mean, "TF-IDF + ridge regression": baselines.predict_ridge}
    found = baselines.simple_systems(seed)
    if task == "labels":
        found["zero-shot prompt"] = lambda train, rows: prompt_base(recipe, classes, [], rows)
        found["few-shot prompt"] = lambda train, rows: prompt_base(recipe, classes, exemplars(recipe, train), rows)
    return found


def prompt_base(
    recipe: Recipe, classes: Sequence[str], examples: Sequence[Labelled], rows: Sequence[Labelled]
) -> list[Predicted]:
    """The same base model, not trained: the label whose words it finds most likely after the prompt."""
    base = _base(recipe)
    prefix = few_shot_prefix(base, classes, examples)
    lm = bases.load_lm(base, bases.resolve_precision(recipe.plan.precision))
    choices = [f" {class_words(name)}" for name in classes]
    return prompted(recipe, lm, base.tokenizer, prefix, choices, classes, rows, "few-shot" if examples else "zero-shot")


def prompted(
    recipe: Recipe,
    lm: Any,
    tokenizer: Any,
    prefix: str,
    choices: Sequence[str],
    classes: Sequence[str],
    rows: Sequence[Labelled],
    what: str,
) -> list[Predicted]:
    """For each row the class whose choice is most likely after prefix and prompt."""
    texts = cut_texts(tokenizer, rows, recipe.max_tokens)
    questions = [Question(prefix + PROMPT.format(text=text), tuple(choices)) for text in texts]
    predicted = []
    for row, found in zip(rows, score(LocalEngine(lm, tokenizer), questions, what), strict=True):
        if found.problem:
            raise UserError(f"the prompt for {row.origin} failed: {found.problem}", "Lower shots or max_tokens.")
        shares = dict(zip(classes, softmax(found.sums), strict=True))
        predicted.append(Predicted(row.id, row.label, max(shares, key=shares.__getitem__), shares))
    return predicted


def instruct(recipe: Recipe, run: Run, plan: recipe.Plan, rows: Splits, classes: Sequence[str]) -> list[Predicted]:
    """The rival: the same model and plan, trained to write the label (and its end) after the zero-shot prompt.

    It answers with the class it finds most likely, so unlike free writing it never answers anything else.
    """
    suffix, base = _suffix(recipe, plan), _base(recipe)
    answers = [f" {class_words(name)}{base.tokenizer.eos_token}" for name in classes]

    def fit(model: Any, folder: Path) -> None:
        texts = cut_texts(base.tokenizer, rows.train, recipe.max_tokens)
        prompts = [instruction(classes) + PROMPT.format(text=text) for text in texts]
        chosen = [answers[classes.index(row.label)] for row in rows.train]
        tokens = [tell_answer(base.tokenizer, *pair, ended=False) for pair in zip(prompts, chosen, strict=True)]
        batches = labelling.over_unvaried(model, tokens, plan, pad_id(base.tokenizer))
        unwatched = plan.model_copy(update={"keep": "last", "patience": None, "groups": ()})  # there is no head either
        train(model, batches, cross_entropy, unwatched, folder=folder)

    model = run.model(f"{slug(INSTRUCTED)}{suffix}", build=lambda: models.language_model(base, {}, plan), fit=fit)

    def predict() -> list[Predicted]:
        trained = models.merge(models.load_handle(model)[0])
        held_out = rows.test or rows.dev
        prefix = instruction(classes)
        return prompted(recipe, trained.lm, base.tokenizer, prefix, answers, classes, held_out, INSTRUCTED)

    return run.rows(f"predictions/{slug(INSTRUCTED)}{suffix}", predict)


def exemplars(recipe: Recipe, train_rows: Sequence[Labelled]) -> list[Labelled]:
    """`shots` training rows of each class in random order, drawn with the seed."""
    draw = random.Random(f"{recipe.plan.seed} exemplars")
    by_class = [[row for row in train_rows if row.label == name] for name in data.labels_of(train_rows)]
    chosen = [row for rows in by_class for row in draw.sample(rows, min(recipe.shots, len(rows)))]
    return draw.sample(chosen, len(chosen))


def class_words(name: Any) -> str:
    """A class name as words: card_arrival -> card arrival."""
    return name.replace("_", " ").strip()


def instruction(classes: Sequence[str]) -> str:
    """The first line of the prompt; it lists the classes where there are few enough to read."""
    names = ", ".join(map(class_words, classes))
    return f"Choose the label of each text: {names}.\n\n" if len(classes) <= LISTED else ""


LISTED = 20
EXAMPLE_TOKENS = 64
PROMPT = "Text: {text}\nLabel:"
