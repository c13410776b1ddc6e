"""Merged handles, transformers folders and GGUF files: that they answer as the trained model, and what is refused.

The base is a random LLaMA whose weights are ten times the usual ones, so that attention is far from uniform and a wrong
order of rows, rotary base or epsilon moves logits by far more than the tolerance; its handles have random adapters.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import tokenizers
import torch
import transformers
from torch import Tensor

from camelid import bases, export, gguf_file, models
from camelid.errors import UserError
from camelid.prediction import predict_with
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.rows import Labelled
from conftest import Camelid, make_tokenizer

LABELS = {"kind": "label", "classes": ["no", "yes", "maybe"], "pooling": "last"}
TAGS = {"kind": "token", "classes": ["O", "B-x"]}
LANGUAGE = {"kind": "language"}
TEXTS = ["The queue was long", "a", "Our landlord made me shout at a lamp, and twice", "The end<|end|>"]


def make_base(folder: Path, *, special: tuple[str, ...] = ("<|spare|>",), **changes: Any) -> Path:
    """A random LLaMA with an odd rotary base and epsilon, and a head width that is not width / heads."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    torch.manual_seed(0)
    values = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**values | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_handle(base: Path, folder: Path, settings: dict[str, Any], **plan: Any) -> Path:
    """A trained model as `models.save` writes it, with adapters (or all weights) and head at random."""
    opened = bases.open_base(str(base))
    values = Plan(**{"lora_rank": 4, "precision": "float32"} | plan)
    if settings["kind"] == "language":
        model: Any = models.language_model(
            opened, {name: settings[name] for name in settings if name != "kind"}, values
        )
    else:
        model = models.label_model(opened, settings, values, Reading(16))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir(parents=True)
    models.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("export") / "base")


@pytest.fixture(scope="module")
def handles(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Handles by kind; read them only."""
    root = tmp_path_factory.mktemp("handles")
    kinds = {"label": LABELS | {"rescaling": {"temperature": 2.0}}, "token": TAGS, "language": LANGUAGE}
    return {name: make_handle(base, root / name, settings) for name, settings in kinds.items()}


def tokens_of(base: Path) -> Tensor:
    """One row of ids, special ones and those without a token included."""
    return torch.arange(bases.open_base(str(base)).config.vocab_size)[None, ::3]


def peft_logits(base: Path, handle: Path, ids_BT: Tensor) -> Tensor:
    """The reference: PEFT's own model on transformers' own language model."""
    lm = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return peft.PeftModel.from_pretrained(lm, str(handle)).eval()(input_ids=ids_BT).logits


def lm_logits(lm: Any, ids_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return lm.eval()(input_ids=ids_BT).logits


def names_beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


# merge


@pytest.mark.parametrize("kind", ["label", "token", "language"])
def test_merged_handle_answers_as_the_adapter(kind: str, handles: dict[str, Path], tmp_path: Path) -> None:
    export.merge_run(handles[kind], tmp_path / "merged")
    origin = json.loads((tmp_path / "merged" / "handle.json").read_text())
    assert (origin["tuning"], origin["precision"]) == ("full", "float32")
    assert not list((tmp_path / "merged").rglob("adapter*"))
    assert names_beside(tmp_path / "merged") == ["merged"]
    adapted, opened = models.load_handle(handles[kind])
    merged, _ = models.load_handle(tmp_path / "merged")
    batch = export.probe(opened.tokenizer)
    torch.testing.assert_close(export.answers(merged, batch), export.answers(adapted, batch), atol=1e-4, rtol=0)


def test_adapter_in_bfloat16_is_merged_in_float32(base: Path, tmp_path: Path) -> None:
    """bfloat16(W) + scale B A without further rounding; a sum in bfloat16 would lose most of the adapter."""
    handle = make_handle(base, tmp_path / "handle", LABELS, precision="bfloat16")
    export.merge_run(handle, tmp_path / "merged")
    name = "layers.1.self_attn.q_proj"
    adapter = models.load_file(handle / "adapter_model.safetensors")
    a, b = (adapter[f"{models.PEFT_PREFIX}{name}.lora_{letter}.weight"] for letter in "AB")
    weight = models.load_file(base / "model.safetensors")[f"model.{name}.weight"].bfloat16().float()
    merged = models.load_file(tmp_path / "merged" / "trunk" / "model.safetensors")[f"{name}.weight"]
    torch.testing.assert_close(merged, weight + 16.0 / 4 * b @ a, atol=1e-6, rtol=1e-6)


def test_fully_tuned_models_merge_and_export(base: Path, tmp_path: Path) -> None:
    handle = make_handle(base, tmp_path / "handle", LABELS, tuning="full")
    export.merge_run(handle, tmp_path / "merged")
    export.export_run(tmp_path / "merged", tmp_path / "plain")
    rows = [Labelled(str(number), "", text, "") for number, text in enumerate(TEXTS)]
    assert predict_with(handle, rows) == predict_with(tmp_path / "merged", rows)
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    own, _ = models.load_handle(handle)
    torch.testing.assert_close(found.model.state_dict(), own.trunk.state_dict(), atol=0, rtol=0)


# transformers folders


@pytest.mark.parametrize("side", ["left", "right"])
def test_classifier_in_plain_transformers(side: str, handles: dict[str, Path], tmp_path: Path) -> None:
    """Batched, padded on either side, in a text that ends in the base's padding token: camelid's probabilities."""
    lines = export.export_run(handles["label"], tmp_path / "plain")
    assert [name for name, _ in lines] == ["exported", "verified"]
    assert "LlamaForSequenceClassification" in lines[0][1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain", padding_side=side)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert tokenizer.pad_token == "<|spare|>"
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 16, "the reading's limit is the tokenizer's"
    assert inputs["input_ids"][3].tolist().count(tokenizer.eos_token_id) == 1
    with torch.no_grad():
        found = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.softmax(dim=-1)
    rows = [Labelled(str(number), "", text, "") for number, text in enumerate(TEXTS)]
    expected = [list(row.probabilities.values()) for row in predict_with(handles["label"], rows)]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), atol=1e-5, rtol=0)


def test_tagger_in_plain_transformers(handles: dict[str, Path], tmp_path: Path) -> None:
    export.export_run(handles["token"], tmp_path / "plain")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    model: Any = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "plain")
    assert model.config.id2label == {0: "O", 1: "B-x"}
    trained, opened = models.load_handle(handles["token"])
    assert trained.head.bias.abs().min() > 0
    found = export.plain_answers(model, tokenizer, "token")
    torch.testing.assert_close(found, export.answers(trained, export.probe(opened.tokenizer)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("task", "problem"), [("multi-label", "multi_label_classification"), ("regression", "regression")]
)
def test_other_tasks_of_a_classifier(task: str, problem: str, base: Path, tmp_path: Path) -> None:
    """A regression's unit goes into the head; its mean does not fit there and is told."""
    handle = make_handle(base, tmp_path / "handle", LABELS | {"task": task, "rescaling": {"mean": 3.5, "std": 2.0}})
    lines = export.export_run(handle, tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["problem_type"] == problem
    assert len(config["id2label"]) == (1 if task == "regression" else 3)
    if task == "multi-label":
        assert "warning" not in dict(lines)
        return
    assert "the logit plus 3.5" in dict(lines)["warning"]
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    found = model(**tokenizer("a", return_tensors="pt")).logits.item() + config["answer_mean"]
    assert predict_with(handle, [Labelled("0", "", "a", 0.0)])[0].predicted == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("kind", ["label", "language"])
def test_language_model_in_plain_transformers(kind: str, base: Path, handles: dict[str, Path], tmp_path: Path) -> None:
    """A label model's decoder under the base's own head, and a language model by itself, equal PEFT's model."""
    export.export_run(handles[kind], tmp_path / "plain", as_=None if kind == "language" else "language")
    lm = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    ids_BT = tokens_of(base)
    expected = peft_logits(base, handles[kind], ids_BT)
    torch.testing.assert_close(lm_logits(lm, ids_BT), expected, atol=1e-4, rtol=0)
    bare = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert (lm_logits(bare, ids_BT) - expected).abs().max() > 0.1, "the adapter does something"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer(TEXTS)["input_ids"] == bases.open_base(str(base)).tokenizer(TEXTS)["input_ids"]


def test_padding_is_a_token_no_text_ends_with() -> None:
    def tokenizer_with(template: str | None, **tokens: str) -> Any:
        made = make_tokenizer()
        made.add_special_tokens(tokens)
        if template:
            ends = [(token, made.convert_tokens_to_ids(token)) for token in ("<|end|>",)]
            made.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(template, None, ends)
        return made

    assert export.padding_token(tokenizer_with(None)) == "<|end|>", "there is no other"
    assert export.padding_token(tokenizer_with(None, unk_token="<unk>")) == "<unk>"
    assert export.padding_token(tokenizer_with("$A <|end|>", unk_token="<unk>")) == "<unk>"
    assert (
        export.padding_token(tokenizer_with(None, pad_token="<pad>", unk_token="<unk>", sep_token="<sep>")) == "<pad>"
    )
    assert export.padding_token(tokenizer_with(None, unk_token="<unk>", sep_token="<sep>")) == "<sep>"
    with pytest.raises(UserError, match="every text ends in"):
        export.padding_token(tokenizer_with("$A <|end|>"))


# GGUF

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
}


@pytest.mark.parametrize(("rope", "tied"), [("default", False), ("default", True), ("llama3", True), ("linear", False)])
def test_gguf_answers_as_the_trained_model(rope: str, tied: bool, tmp_path: Path) -> None:
    """transformers' own reader gives the logits of PEFT's model; it knows no frequency factors, so they are put in.

    transformers scales each frequency; llama.cpp divides by the file's factors: 4 everywhere for a linear factor of 4.
    """
    base = make_base(tmp_path / "base", rope_parameters=ROPES[rope], tie_word_embeddings=tied)
    handle = make_handle(base, tmp_path / "handle", LANGUAGE)
    out = tmp_path / "out" / "tiny.gguf"
    export.export_run(handle, out, "gguf")
    assert names_beside(out) == ["tiny.gguf"]
    lm = transformers.AutoModelForCausalLM.from_pretrained(out.parent, gguf_file=out.name, dtype=torch.float32)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    assert ("output.weight" in tensors) is not tied
    assert ("rope_freqs.weight" in tensors) is (rope != "default")
    if rope == "linear":
        assert tensors["rope_freqs.weight"].data.tolist() == pytest.approx([4.0] * 5)
    if rope == "llama3":
        assert tensors["rope_freqs.weight"].data[0] == pytest.approx(1.0), "short waves stay"
        assert tensors["rope_freqs.weight"].data[-1] == pytest.approx(8.0), "long ones are stretched by the factor"
    if rope != "default":
        lm.get_decoder().rotary_emb.inv_freq /= torch.tensor(tensors["rope_freqs.weight"].data)
    ids_BT = tokens_of(base)
    torch.testing.assert_close(lm_logits(lm, ids_BT), peft_logits(base, handle, ids_BT), atol=1e-4, rtol=0)


def test_gguf_holds_rows_in_llama_cpp_order(base: Path, handles: dict[str, Path], tmp_path: Path) -> None:
    """By hand, for a head of width 10: file rows 0, 1, 2, 3 are rows 0, 5, 1, 6; the second head starts at row 10."""
    out = tmp_path / "tiny.gguf"
    export.export_run(handles["language"], out, "gguf")
    export.export_run(handles["language"], tmp_path / "plain")
    weights = models.load_file(tmp_path / "plain" / "model.safetensors")
    written = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(out).tensors}
    query, key = (weights[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qk")
    assert torch.equal(written["blk.1.attn_q.weight"][:4], query[[0, 5, 1, 6]])
    assert torch.equal(written["blk.1.attn_k.weight"][10:14], key[[10, 15, 11, 16]])
    assert torch.equal(written["blk.1.attn_v.weight"], weights["model.layers.1.self_attn.v_proj.weight"])


def test_gguf_holds_config_and_tokenizer(base: Path, handles: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    export.export_run(handles["label"], out, "gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.context_length": 512,
        "llama.embedding_length": 24,
        "llama.feed_forward_length": 48,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 10,
        "llama.attention.value_length": 10,
        "llama.rope.dimension_count": 10,
        "llama.rope.freq_base": 500.0,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-3),
        "llama.vocab_size": 304,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {name: fields.get(name) for name in expected} == expected
    assert not {"tokenizer.ggml.bos_token_id", "tokenizer.chat_template"} & set(fields)
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    tokenizer = bases.open_base(str(base)).tokenizer
    assert tokens == [*tokenizer.convert_ids_to_tokens(range(301)), "[PAD301]", "[PAD302]", "[PAD303]"]
    control, normal, unused = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    assert kinds == [control, *[normal] * 299, control, *[unused] * 3]
    again = transformers.AutoTokenizer.from_pretrained(out.parent, gguf_file=out.name)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_gguf_keeps_template_and_first_token(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.bos_token = "<|spare|>"
    number = tokenizer.bos_token_id
    template = tokenizers.processors.TemplateProcessing("<|spare|> $A", None, [("<|spare|>", number)])
    tokenizer.backend_tokenizer.post_processor = template
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.add_tokens(["user-word"])
    tokenizer.save_pretrained(base)
    export.export_run(make_handle(base, tmp_path / "handle", LANGUAGE), tmp_path / "tiny.gguf", "gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "tiny.gguf").fields.items()}
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.add_eos_token"] is False
    assert fields["tokenizer.ggml.bos_token_id"] == number
    assert fields["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"
    assert fields["tokenizer.ggml.token_type"][301] == gguf.TokenType.USER_DEFINED


def test_float16_file_is_the_rounded_model(base: Path, handles: dict[str, Path], tmp_path: Path) -> None:
    """Half the size, matrices rounded and norms not, and logits near the unrounded ones but not equal to them."""
    sizes = {}
    for form in ("gguf", "gguf-f16"):
        out = tmp_path / f"{form}.gguf"
        export.export_run(handles["language"], out, form)
        sizes[form] = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(out).tensors}
        if form == "gguf-f16":
            lm = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=out.name, dtype=torch.float32)
            difference = lm_logits(lm, tokens_of(base)) - peft_logits(base, handles["language"], tokens_of(base))
            assert 1e-4 < difference.abs().max() < 0.1
    single, half = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16
    assert set(sizes["gguf"].values()) == {single}
    assert {name for name, kind in sizes["gguf-f16"].items() if kind == single} == {
        name for name in sizes["gguf"] if "norm" in name
    }
    assert {kind for name, kind in sizes["gguf-f16"].items() if "norm" not in name} == {half}


def test_weights_beyond_float16_are_refused(base: Path, tmp_path: Path) -> None:
    handle = make_handle(base, tmp_path / "handle", LANGUAGE, tuning="full")
    model, _ = models.load_handle(handle)
    with torch.no_grad():
        model.trunk.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    models.save(model, handle)
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj\.weight holds values beyond float16"):
        export.export_run(handle, tmp_path / "tiny.gguf", "gguf-f16")
    assert names_beside(tmp_path / "tiny.gguf") == ["handle"]


# refusals


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (LABELS | {"sight": {"attention": "bidirectional"}}, "reads its text in both directions"),
        (LABELS | {"pooling": "mean"}, "pools by mean"),
        (TAGS | {"sight": {"attention": "bidirectional"}}, "reads its text in both directions"),
    ],
)
def test_what_transformers_cannot_express(settings: dict[str, Any], said: str, base: Path, tmp_path: Path) -> None:
    handle = make_handle(base, tmp_path / "handle", settings)
    with pytest.raises(UserError, match=said) as caught:
        export.export_run(handle, tmp_path / "out" / "plain")
    assert f"camelid merge {handle} --out" in caught.value.fix
    assert names_beside(tmp_path / "out" / "plain") == []
    export.merge_run(handle, tmp_path / "out" / "merged")
    rows = [Labelled(str(number), "", text, "") for number, text in enumerate(TEXTS)]
    if settings["kind"] == "label":
        kept = [row.probabilities for row in predict_with(tmp_path / "out" / "merged", rows)]
        for found, own in zip(kept, predict_with(handle, rows), strict=True):
            assert found == pytest.approx(own.probabilities, abs=1e-6)


def test_wrong_requests(handles: dict[str, Path], tmp_path: Path) -> None:
    label, language = handles["label"], handles["language"]
    taken = tmp_path / "taken.gguf"
    taken.write_text("mine")
    for arguments, said, fix in (
        ((label, tmp_path / "x", "onnx"), "no format 'onnx'", "safetensors, gguf, gguf-f16"),
        ((label, tmp_path / "x", "gguf"), "does not end in .gguf", "x.gguf"),
        ((label, taken, "gguf"), "already there", "another --out"),
        ((label, tmp_path, "safetensors"), "already there", "another --out"),
        ((label, taken / "x", "safetensors"), "cannot write", "another --out"),
        ((label, tmp_path / "x.gguf", "gguf", "label"), "a label head cannot go into it", "--as language"),
        ((label, tmp_path / "x", "safetensors", "token"), "cannot be exported as token", "--as label or --as language"),
        ((language, tmp_path / "x", "safetensors", "label"), "cannot be exported as label", "--as language"),
        ((tmp_path / "none", tmp_path / "x"), "there is no", "--out"),
    ):
        with pytest.raises(UserError) as caught:
            export.export_run(*arguments)
        assert said in caught.value.what
        assert fix in caught.value.fix
    with pytest.raises(UserError, match="already there"):
        export.merge_run(label, tmp_path)
    assert names_beside(taken) == ["taken.gguf"]
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    "fault", ["rows in another order", "forgotten merge", "another weight", "another weight merged"]
)
def test_what_answers_differently_is_not_kept(
    fault: str, handles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparisons before and after writing are real ones."""
    if fault == "rows in another order":
        monkeypatch.setattr(gguf_file, "in_neighbours", lambda weight_XD, heads: weight_XD)
    elif fault == "forgotten merge":
        monkeypatch.setattr(models, "merge", _drop_adapters)
    else:
        monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", _save_another_weight)
    out = tmp_path / "out" / "tiny.gguf"
    write: Any = export.merge_run if fault == "another weight merged" else export.export_run
    form = ["gguf"] if fault == "rows in another order" else []
    with pytest.raises(UserError, match="does not answer as the trained model does"):
        write(handles["label"], out, *form)
    assert names_beside(out) == []


SAVE = transformers.PreTrainedModel.save_pretrained


def _save_another_weight(model: Any, folder: Path, **options: Any) -> None:
    """As transformers saves, with one weight moved by a hundredth."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_decoder().layers[1].mlp.down_proj.weight[0, 0] += 0.01
    SAVE(changed, folder, **options)


def _drop_adapters(model: Any) -> Any:
    """A merge that takes the adapters away without adding them."""
    for name, module in list(model.trunk.named_modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            parent = model.trunk.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    return model


def test_a_full_disk_leaves_nothing(handles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(model: Any, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "save", write_half)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        export.merge_run(handles["label"], tmp_path / "out" / "merged")
    assert names_beside(tmp_path / "out" / "merged") == []


# the commands


def test_commands_on_a_run(camelid: Camelid, trained_copy: Path, tmp_path: Path) -> None:
    merged = camelid("merge", trained_copy, "--out", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert re.search(
        r"verified  read back; logits of up to \d+\.\d differ from the trained model's by at most \d\.\de-\d\d",
        merged.output,
    )
    exported = camelid("export", trained_copy, "--out", tmp_path / "plain", "--format", "safetensors")
    assert exported.exit_code == 0, exported.output
    assert "LlamaForSequenceClassification" in exported.output
    model = camelid("export", trained_copy / "model", "--out", tmp_path / "m.gguf", "--format", "gguf")
    assert model.exit_code == 0, model.output
    assert (tmp_path / "m.gguf").read_bytes()[:4] == b"GGUF"
    again = camelid("export", trained_copy, "--out", tmp_path / "plain", "--as", "language")
    assert again.exit_code == 2
    assert "already there" in again.output


def test_unfinished_runs_name_resume(camelid: Camelid, trained_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((trained_copy / "manifest.json").read_text())
    (trained_copy / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    for command in ("merge", "export"):
        result = camelid(command, trained_copy, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert f"camelid resume {trained_copy}" in result.output.replace("\n", "")
    assert not (tmp_path / "out").exists()


def test_a_moved_base_is_named(handles: dict[str, Path], base: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / "moved")
    handle = shutil.copytree(handles["label"], tmp_path / "handle")
    origin = json.loads((handle / "handle.json").read_text())
    (handle / "handle.json").write_text(json.dumps(origin | {"base": str(tmp_path / "gone")}))
    with pytest.raises(UserError):
        export.merge_run(handle, tmp_path / "merged")
    export.merge_run(handle, tmp_path / "merged", str(moved))
    export.export_run(handle, tmp_path / "m.gguf", "gguf", base=str(moved))
