"""Label supervision: a linear head on the final hidden states makes a LLaMA a classifier (LS-LLaMA, LS-unLLaMA).

Zongxi Li et al., "Label Supervised LLaMA Finetuning", 2023, arXiv 2310.01208.

Problem. Somebody has labelled texts, or sentences with a tag for each word, and one small machine. Prompting answers in
words and ignores the labels; here the labels train the model directly.

Algorithm. Batch B, tokens T, width D, classes C; input ids x_BT, mask m_BT.
 1. Encode the raw text, with no prompt, to H_BTD: the hidden states after the final norm.
 2. Attention. Causal (LS-LLaMA): token i reads j <= i. Bidirectional (LS-unLLaMA): every token reads every text token,
    in every layer; weights and positions stay as they are, only the mask differs.
 3. One label a text: z = H W^T with W_CD and no bias, pooled over the text's tokens (last, mean, or max per class);
    loss = cross-entropy(pooled z, label) in float32.
 4. One tag a word: z = W dropout(H) + c at each word's first sub-token; loss = mean cross-entropy over words.
 5. The base is frozen; low-rank adapters and the head are trained with AdamW and a decaying rate.
 6. Predict argmax z; ties go to the lowest class.

Differs from the paper in:
 - Padding is never read. The paper's code lets unmasked attention, mean and max run over padding.
 - Adapters of rank 16 on all linear layers of the upper half, and a rate of 1e-3: 135M parameters need more than 5e-5
   on q and v, and layers that are not trained need to be run only once. `--scale paper` has the paper's values.
 - Adapters and head are float32 (the paper's scripts cast all to bfloat16, where small updates are lost).
 - The last epoch is kept, and test rows choose nothing. The paper's scripts select by loss on the test set.
 - F1 of tags is over whole entities; the paper's OntoNotes files tag only the first word of each.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from camelid import baselines, data, forecast, labelling, models, recipe
from camelid.evaluation import curve_scores, evaluate
from camelid.objectives import cross_entropy
from camelid.rows import Labelled, Predicted
from camelid.runs import Run, slug
from camelid.scoring import choice_logprobs
from camelid.training import train

OURS = "label supervision"


class Recipe(recipe.Recipe):
    """Values of a label-supervised run."""

    data: recipe.Data = Field(default_factory=recipe.Data)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    attention: Literal["causal", "bidirectional"] = Field(
        default="causal", description="causal is LS-LLaMA, bidirectional LS-unLLaMA"
    )
    pooling: Literal["last", "mean", "max"] = Field(
        default="last",
        description="how a text's tokens become one answer (paper: last when causal, mean when bidirectional)",
    )
    max_tokens: int = Field(default=256, ge=2, description="longer texts are cut at their end (paper: 64)")
    compare: bool = Field(default=False, description="also score what one would try first, on the same rows")
    shots: int = Field(default=2, ge=1, description="examples per class in the few-shot prompt of the comparison")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    return forecast.forecast_labelling(recipe.model, recipe.data, recipe.plan, recipe.max_tokens)


def run(recipe: Recipe, run: Run) -> None:
    """Rows, baselines, the trained model, its predictions, scores."""
    splits = cache(lambda: data.read_splits(recipe.data, recipe.plan.seed))
    train_rows = run.rows("train", lambda: splits().train)
    dev_rows = run.rows("dev", lambda: splits().dev)
    test_rows = run.rows("test", lambda: splits().test)
    run.note("data", lambda: {"dropped": splits().dropped, "warnings": splits().warnings})
    classes = data.labels_of(train_rows)
    held_out = test_rows or dev_rows

    systems = {
        name: run.rows(f"predictions/{slug(name)}", lambda predict=predict: predict(train_rows, held_out))
        for name, predict in (_baselines(recipe, classes) if recipe.compare else {}).items()
    }
    model = run.model(
        "model",
        build=lambda: build(recipe, classes),
        fit=lambda model, folder: fit(recipe, model, folder, train_rows, dev_rows),
    )
    systems[OURS] = run.rows(f"predictions/{slug(OURS)}", lambda: labelling.predict_with(model, held_out))
    run.scores("held_out", lambda: {"split": "test" if test_rows else "dev", **evaluate(systems, classes, OURS)})


def build(recipe: Recipe, classes: Sequence[str]) -> Any:
    """Steps 2, 3 or 4, and 5: frozen trunk, adapters, and a head for labels or tags."""
    settings: dict[str, Any] = {"classes": list(classes), "attention": recipe.attention}
    tagged = bool(recipe.data.tokens) or data.is_tagged(recipe.data.train)
    settings |= {"kind": "token"} if tagged else {"kind": "label", "pooling": recipe.pooling}
    base = models.open_base(recipe.model.base, recipe.model.revision)
    return models.label_model(base, settings, recipe.plan, recipe.max_tokens)


def fit(recipe: Recipe, model: Any, folder: Path, train_rows: Sequence[Any], dev_rows: Sequence[Any]) -> None:
    """Step 5, with a dev score at each epoch's end."""
    tokenizer = models.open_base(recipe.model.base, recipe.model.revision).tokenizer
    tokens = labelling.tokenise(tokenizer, train_rows, model.classes, recipe.max_tokens)
    dev_tokens = labelling.tokenise(tokenizer, dev_rows, model.classes, recipe.max_tokens)
    pad = labelling.pad_id(tokenizer)

    def dev_scores(model: Any) -> dict[str, float]:
        return curve_scores(labelling.predict_tokens(model, dev_rows, dev_tokens, pad, "dev rows"), model.classes)

    train(
        model,
        labelling.over_epochs(tokens, recipe.plan, pad, labelling.freeze_states(model, tokens, recipe.plan, pad)),
        cross_entropy,
        recipe.plan,
        folder=folder,
        evaluate=dev_scores,
    )


Baseline = Callable[[Sequence[Any], Sequence[Any]], list[Predicted]]


def _baselines(recipe: Recipe, classes: Sequence[str]) -> dict[str, Baseline]:
    """What one would try first. Prompts that ask for one tag a word are no sensible first try, so tags have none."""
    seed = recipe.plan.seed
    if "O" in classes or recipe.data.tokens or data.is_tagged(recipe.data.train):
        return {
            "majority class": baselines.predict_majority,
            "word features + logistic regression": lambda train, rows: baselines.predict_words(train, rows, seed),
        }
    return {
        "majority class": baselines.predict_majority,
        "TF-IDF + logistic regression": lambda train, rows: baselines.predict_tfidf(train, rows, seed),
        "zero-shot prompt": lambda train, rows: prompted(recipe, classes, [], rows),
        "few-shot prompt": lambda train, rows: prompted(recipe, classes, exemplars(recipe, train), rows),
    }


def prompted(
    recipe: Recipe, classes: Sequence[str], examples: Sequence[Labelled], rows: Sequence[Labelled]
) -> list[Predicted]:
    """The same base model, not trained: the label whose words it finds most likely after the prompt."""
    base = models.open_base(recipe.model.base, recipe.model.revision)
    language_model = models.load_lm(base, models.resolve_precision(recipe.plan.precision))
    names = [class_words(name) for name in classes]
    prefix = instruction(names) + "".join(
        PROMPT.format(text=text) + f" {class_words(row.label)}\n\n"
        for row, text in zip(examples, labelling.cut_texts(base.tokenizer, examples, EXAMPLE_TOKENS), strict=True)
    )
    prompts = [PROMPT.format(text=text) for text in labelling.cut_texts(base.tokenizer, rows, recipe.max_tokens)]
    what = f"{'few' if examples else 'zero'}-shot"
    logprobs_BK = choice_logprobs(language_model, base.tokenizer, prefix, prompts, [f" {name}" for name in names], what)
    return [
        Predicted(row.id, row.label, classes[int(scores.argmax())], dict(zip(classes, scores.tolist(), strict=True)))
        for row, scores in zip(rows, logprobs_BK.double().softmax(dim=-1), strict=True)
    ]


def exemplars(recipe: Recipe, train_rows: Sequence[Labelled]) -> list[Labelled]:
    """`shots` training rows of each class in random order, drawn with the seed."""
    draw = random.Random(f"{recipe.plan.seed} exemplars")
    by_class = [[row for row in train_rows if row.label == name] for name in data.labels_of(train_rows)]
    chosen = [row for rows in by_class for row in draw.sample(rows, min(recipe.shots, len(rows)))]
    return draw.sample(chosen, len(chosen))


def class_words(name: str) -> str:
    """A class name as words: card_arrival -> card arrival."""
    return name.replace("_", " ").strip()


def instruction(names: Sequence[str]) -> str:
    """The first line of the prompt; it lists the classes where there are few enough to read."""
    return f"Choose the label of each text: {', '.join(names)}.\n\n" if len(names) <= LISTED else ""


LISTED = 20
EXAMPLE_TOKENS = 64
PROMPT = "Text: {text}\nLabel:"
