"""Trained models for use without adapters or without camelid: merged handles, transformers folders, GGUF files.

Whatever is written is read back and compared with the trained model before it gets its name; a failure leaves nothing.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from camelid import bases, gguf_file, models, runs
from camelid.bases import Base
from camelid.batches import Batch, Tokens, collate_rows
from camelid.errors import UserError
from camelid.heads import LabelModel, LanguageModel, Sight, ValueModel
from camelid.reading import pad_id, reading_of

FORMATS = ("safetensors", "gguf", "gguf-f16")
TOLERANCE = 1e-4  # of a logit in float32, between a merged model and what is read back
ROUNDING = 1e-4  # share of the largest logit that merging may move one by: sums in another order, through every layer
PROBES = (
    "A kettle that sings is a friend in every kitchen.",
    "On 3 May 1957 they sold 1,204 loaves;  two were stale!",
    "Später naïve Frösche: «なぜ?» Nobody knew.\n",
)
AUTO = {
    "label": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "value": transformers.AutoModelForSequenceClassification,
    "language": transformers.AutoModelForCausalLM,
}
PROBLEMS = {
    "labels": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
    "reward": "regression",
}


def merge_run(folder: Path, out: Path, base: str | None = None) -> list[tuple[str, str]]:
    """Write the trained model of a run, or of a model folder, to the folder `out` with its adapter in its weights.

    `models.load_handle` opens `out` as a fully tuned model in float32; config and tokenizer still come from its base,
    which `base` names anew where it was moved. Returns (name, text) lines that say what was written. Raises UserError
    when there is no finished model in `folder`, `out` exists or cannot be written, or the logits of what was written
    are not those of the trained model: merging may move them by 1e-4 of the largest, and reading back by 1e-4.
    """
    with new_part(out) as part:
        model, opened = load_trained(folder, base)
        if model.trunk is None:
            raise UserError(
                f"the model in {folder} is a small network beside a frozen one", "There is nothing to merge."
            )
        batch = probe(opened.tokenizer)
        expected = merge_checked(model, batch)
        model.origin |= {"tuning": "full", "precision": "float32"}
        models.save(model, part)
        found = answers(models.load_handle(part, base)[0], batch)
        compare(answers(model, batch), found, TOLERANCE)
        runs.publish_folder(part, out)
    return [("merged", str(out)), _agreement(expected, found, batch)]


def export_run(
    folder: Path, out: Path, form: str = "safetensors", as_: str | None = None, base: str | None = None
) -> list[tuple[str, str]]:
    """Write the trained model of a run, or of a model folder, for programs that know nothing of camelid.

    `form` is "safetensors" (`out` becomes a folder for transformers), or "gguf" or "gguf-f16" (`out` becomes one file
    for llama.cpp, in float32, or with matrices rounded to float16 and compared after that). `as_` "language" leaves the
    trained head out and takes the base's own language-model head; a GGUF file always does. Returns and raises as
    `merge_run`, and raises UserError for a model that reads in ways the other programs do not.
    """
    _check_request(out, form)
    with new_part(out) as part:
        trained, opened = load_trained(folder, base)
        kind = kind_wanted(trained, form, as_, folder)
        check_reading(trained, kind, folder)
        if form != "safetensors":
            gguf_file.check_llama(opened)
        model = as_language(trained, opened) if kind == "language" else trained
        batch = probe(opened.tokenizer)
        expected = merge_checked(model, batch)
        if form == "gguf-f16":
            gguf_file.round_to_half(model.lm)
        merged = answers(model, batch)
        if form == "safetensors":
            written, found = write_folder(model, kind, opened, part)
            compare(merged, found, TOLERANCE)
            runs.publish_folder(part, out)
        else:
            written, found = write_file(model, opened, part / out.name, half=form == "gguf-f16")
            compare(merged, found, TOLERANCE)
            runs.publish_file(part / out.name, out)
    return [("exported", f"{out} ({written})"), _agreement(expected, found, batch), *_warnings(model, kind)]


def load_trained(folder: Path, base: str | None) -> tuple[Any, Base]:
    """The model of a finished run or a model folder in float32, and its base; UserError when there is none."""
    source = folder
    if not (folder / "handle.json").is_file():
        if not runs.read_manifest(folder).get("finished"):
            raise UserError(f"the run in {folder} is not finished", f"camelid resume {folder} finishes it.")
        source = folder / "model"
    model, opened = models.load_handle(source, base)
    return model.float(), opened


@contextmanager
def new_part(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, gone when the block ends. UserError where `out` exists or has no room."""
    if out.exists():
        raise UserError(f"{out} is already there", "Choose another --out, or remove it first.")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "Choose another --out.") from error
    try:
        yield part
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = runs.describe_disk_problem(error, part)
        if not problem:
            raise
        raise UserError(f"cannot write {out}: {problem}", "Make room, or choose another --out.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def kind_wanted(model: Any, form: str, as_: str | None, folder: Path) -> str:
    """What to export the model as: label, token or language; UserError when model or format cannot be that."""
    own = model.settings()["kind"]
    kind = as_ or (own if form == "safetensors" else "language")
    if kind not in (own, "language") or kind not in AUTO:
        choices = " or ".join(f"--as {name}" for name in dict.fromkeys((own, "language")) if name in AUTO)
        raise UserError(f"the model in {folder} cannot be exported as {kind}", f"Use {choices}.")
    if form != "safetensors" and kind != "language":
        raise UserError(
            f"a GGUF file holds a language model, and a {kind} head cannot go into it",
            "Use --format safetensors, or --as language, which leaves the trained head out.",
        )
    return kind


def check_reading(model: Any, kind: str, folder: Path) -> None:
    """Raise UserError for a model that reads or pools as neither transformers nor llama.cpp can."""
    fix = f"camelid merge {folder} --out FOLDER keeps it usable from camelid (camelid.predict_with)."
    if model.sight.attention != "causal":
        raise UserError(
            f"the model in {folder} reads its text in both directions, and LLaMA outside camelid reads forward only",
            fix,
        )
    if kind == "label" and model.pooling != "last":
        raise UserError(
            f"the model in {folder} pools by {model.pooling}; a classifier of transformers reads the last token only",
            fix,
        )


def as_language(model: Any, opened: Base) -> LanguageModel:
    """The decoder of `model` under the language-model head of its base."""
    if isinstance(model, LanguageModel):
        return model
    lm = bases.load_lm(opened, "float32")
    # not lm.set_decoder: for LLaMA it quietly does nothing (transformers 5.23)
    setattr(lm, lm.base_model_prefix, model.trunk)
    lm.tie_weights()
    return LanguageModel(lm, Sight()).eval()


# comparing


def probe(tokenizer: Any) -> Batch:
    """The probe texts as rows of unequal length, answered at each of their tokens."""
    ids = tokenizer(list(PROBES))["input_ids"]
    rows = [Tokens(str(number), row, [0] * len(row), words=list(range(len(row)))) for number, row in enumerate(ids)]
    return collate_rows(rows, pad_id(tokenizer)).to(bases.device())


def answers(model: Any, batch: Batch) -> Tensor:
    """logits_BC of a label model as probabilities are made of them, or logits_NC; in float32.

    Of a value model it is reward_B1 at each row's last token, without the constant that a classifier cannot hold.
    """
    with torch.no_grad():
        if isinstance(model, ValueModel):
            ends = torch.stack([torch.arange(len(batch.mask_BT)), batch.mask_BT.sum(dim=1).cpu() - 1])
            states_BD = model.states(replace(batch, row_N=ends[0], token_N=ends[1]))
            return states_BD.float() @ merged_head(model).T
        return model(batch) * factor_of(model)


def factor_of(model: Any) -> float:
    """What the head's outputs are multiplied by; only a label model's are."""
    return model.rescaling.factor if isinstance(model, LabelModel) else 1.0


def merged_head(model: ValueModel) -> Tensor:
    """weight_1D of the reward: the attributes' weights, added up and scaled."""
    return model.head.weight.new_tensor([model.weights]) @ model.head.weight.detach() / model.std


def plain_answers(plain: Any, tokenizer: Any, kind: str) -> Tensor:
    """`answers` by a module of transformers with its own tokenizer and padding."""
    batch = probe(tokenizer)
    with torch.no_grad():
        logits = plain.eval().to(bases.device())(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits
    return logits.float() if kind in ("label", "value") else logits.float()[batch.row_N, batch.token_N]


def merge_checked(model: Any, batch: Batch) -> Tensor:
    """Merge a model in place; its logits from before. UserError when they moved by more than rounding can."""
    before = answers(model, batch)
    models.merge(model)
    compare(before, answers(model, batch), ROUNDING * max(1.0, float(before.abs().max())))
    return before


def compare(expected: Tensor, found: Tensor, tolerance: float) -> None:
    """Raise UserError when two tensors of logits differ by more than `tolerance`."""
    same_shape = expected.shape == found.shape
    difference = float((expected - found).abs().max()) if same_shape else float("inf")
    if not difference <= tolerance:  # written so that NaN fails too
        raise UserError(
            f"what was written does not answer as the trained model does (a logit differs by {difference:.2g}), so it "
            f"was removed",
            "This is a fault of the export or an architecture it does not know. The run is as it was.",
        )


# a folder for transformers


def write_folder(model: Any, kind: str, opened: Base, part: Path) -> tuple[str, Tensor]:
    """Save a merged model so that transformers loads it alone; (its class there, its logits read back)."""
    tokenizer = copy.deepcopy(opened.tokenizer)
    if kind == "language":
        plain = model.lm
    else:
        tokenizer.pad_token = padding_token(tokenizer)
        if kind != "value":
            tokenizer.model_max_length = reading_of(model).max_tokens
        elif tokenizer.pad_token == tokenizer.eos_token:
            what = "an answer ends in the end-of-text token, and the tokenizer has no other token for padding"
            raise UserError(what, "camelid merge keeps the model usable from camelid (camelid.RewardModel).")
        plain = plain_classifier(model, kind, opened, tokenizer.pad_token_id)
    plain.save_pretrained(part)
    tokenizer.save_pretrained(part)
    again = AUTO[kind].from_pretrained(part, dtype=torch.float32)
    return type(again).__name__, plain_answers(again, transformers.AutoTokenizer.from_pretrained(part), kind)


def plain_classifier(model: Any, kind: str, opened: Base, pad: int) -> Any:
    """transformers' own classifier around the merged trunk; its head holds `factor_of` the model."""
    config = copy.deepcopy(opened.config)
    task = "reward" if kind == "value" else model.task
    names = {"regression": ["number"], "reward": ["reward"]}.get(task) or model.classes
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.pad_token_id = pad
    if kind in ("label", "value"):
        config.problem_type = PROBLEMS[task]
    if task == "regression":
        config.answer_mean = model.rescaling.mean  # read by nobody but people: the head has no bias to hold it
    try:
        with torch.device("meta"):
            plain: Any = AUTO[kind].from_config(config)
    except ValueError:
        plain = None
    if not isinstance(getattr(plain, "score", None), nn.Linear):
        raise UserError(
            f"transformers has no {kind} classifier for the architecture {config.model_type} that camelid can fill",
            "camelid merge keeps the model usable from camelid.",
        )
    setattr(plain, plain.base_model_prefix, model.trunk)
    if kind == "value":
        plain.score = nn.Linear(model.head.in_features, 1, bias=False)
        plain.score.weight.data = merged_head(model)
        return plain
    plain.score = copy.deepcopy(model.head)
    plain.score.weight.data *= factor_of(model)
    return plain


def padding_token(tokenizer: Any) -> str:
    """A token that no text ends with, for padding; UserError when the tokenizer has none.

    A classifier of transformers reads the rightmost token that is not padding, whatever the mask says. With the
    end-of-text token as padding (SmolLM2's tokenizer has it so) a text that ends in it would be read too early. So
    special tokens that stand in no text come first, the unknown and the end-of-text token last.
    """
    common = (tokenizer.bos_token, tokenizer.unk_token, tokenizer.eos_token)
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    rare = [token for token in special if token not in common]
    closing = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"][-1])
    for token in [tokenizer.pad_token] * (tokenizer.pad_token in rare) + rare + list(common[1:]):
        if token is not None and token != closing:
            return token
    raise UserError(
        f"every text ends in {closing}, and the tokenizer has no other token for padding",
        "A classifier of transformers needs one. camelid merge keeps the model usable from camelid.",
    )


# a file for llama.cpp


def write_file(model: LanguageModel, opened: Base, path: Path, *, half: bool) -> tuple[str, Tensor]:
    """Write a merged language model as GGUF; (what it is, its logits read back)."""
    gguf_file.write_gguf(path, model.lm, opened, half)
    again = gguf_file.read_gguf(path)
    return f"GGUF, {'float16' if half else 'float32'}", plain_answers(again, opened.tokenizer, "language")


# what the screen says


def _check_request(out: Path, form: str) -> None:
    if form not in FORMATS:
        raise UserError(f"there is no format {form!r}", f"Use --format {', '.join(FORMATS)}.")
    if form != "safetensors" and out.suffix != ".gguf":
        raise UserError(f"{out} does not end in .gguf, and programs go by the name", f"Use --out {out}.gguf")


def _agreement(expected: Tensor, found: Tensor, batch: Batch) -> tuple[str, str]:
    difference, largest = float((expected - found).abs().max()), float(expected.abs().max())
    return "verified", (
        f"read back; logits of up to {largest:.1f} differ from the trained model's by at most {difference:.1e} "
        f"({len(batch.ids_BT)} texts, {batch.tokens} tokens)"
    )


def _warnings(model: Any, kind: str) -> list[tuple[str, str]]:
    """What the exported classifier leaves to its user."""
    if kind == "language":
        return []
    if kind == "value":
        told = (
            "the reward lacks its constant, on which no comparison depends; it is read at the end of the answer's turn"
        )
        return [("note", told)]
    lines, reading = [], reading_of(model)
    if model.task == "regression":
        lines.append(("warning", f"the number is the logit plus {model.rescaling.mean:g} (answer_mean in config.json)"))
    if reading.stride is not None:
        tokens = reading.max_tokens
        lines.append(
            ("warning", f"camelid reads texts of more than {tokens} tokens in windows; transformers cuts them")
        )
    return lines
