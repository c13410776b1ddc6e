"""GGUF files in llama.cpp itself: the same greedy text as the merged model in transformers, and the same tokens.

Needs llama-cpp-python (`pip install -e '.[llama-cpp]'`, which compiles llama.cpp for some minutes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, pre_tokenizers, trainers

from camelid import bases, export, gguf_file, models
from camelid.recipe import Plan
from conftest import labelled_rows

pytestmark = [pytest.mark.effects, pytest.mark.real]

llama_cpp: Any = pytest.importorskip("llama_cpp")

NEW_TOKENS = 40
PROMPTS = [
    "The capital of France is",
    "A recipe for two:  250 g of flour, 3 eggs,",
    "Il était une fois",
    [{"role": "user", "content": "Name three things one finds in a kitchen."}],
    [{"role": "user", "content": "What is 12 + 30?"}],
]
HARD = [
    "I'll say it's HE'S, we've 1234567 and 3.14 of 12,5",
    "a  12   b\t\tc \n\n d\r\n  e  ",
    "naïve Übermut 北京 123 ça va? 🙂👍🏽 ½ ²",
    "x=y+1;//!!! ...  (foo_bar) [baz]",
    " leading, trailing ",
]


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with an adapter whose B is not zero: it writes other text than its base, and still text."""
    base = bases.open_base("smollm2-135m")
    model = models.language_model(base, {}, Plan(precision="float32"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("real") / "handle"
    folder.mkdir()
    models.save(model, folder)
    return folder


def written_by_transformers(folder: Path, prompts: list[str]) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lm: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = []
    for prompt in prompts:
        ids_BT = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = lm.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), do_sample=False, max_new_tokens=NEW_TOKENS)
        texts.append(whole[0, ids_BT.shape[1] :].tolist())
    return texts


def written_by_llama_cpp(path: Path, prompts: list[str]) -> list[list[int]]:
    # keys and values in float32: by default they are rounded to float16, which may turn a near tie
    single = llama_cpp.GGML_TYPE_F32
    llama = llama_cpp.Llama(str(path), n_ctx=512, type_k=single, type_v=single, verbose=False)
    texts = []
    for prompt in prompts:
        ids = llama.tokenize(prompt.encode(), add_bos=True, special=True)
        written: list[int] = []
        for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
            written.append(token)
            if token == llama.token_eos() or len(written) == NEW_TOKENS:
                break
        texts.append(written)
    return texts


@pytest.mark.parametrize("form", ["gguf", "gguf-f16"])
def test_llama_cpp_writes_what_the_merged_model_writes(form: str, handle: Path, tmp_path: Path) -> None:
    """Token by token, greedily, for five prompts, two of them chats; and the base writes something else.

    The float16 file is compared with the merged model rounded likewise.
    """
    base = bases.open_base("smollm2-135m")
    prompts = [
        prompt
        if isinstance(prompt, str)
        else base.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        for prompt in PROMPTS
    ]
    export.export_run(handle, tmp_path / "real.gguf", form)
    export.export_run(handle, tmp_path / "plain")
    if form == "gguf-f16":
        lm: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
        gguf_file.round_to_half(lm)
        lm.save_pretrained(tmp_path / "plain")
    expected = written_by_transformers(tmp_path / "plain", prompts)
    found = written_by_llama_cpp(tmp_path / "real.gguf", prompts)
    for prompt, ours, theirs in zip(prompts, expected, found, strict=True):
        texts = [base.tokenizer.decode(ids) for ids in (ours, theirs)]
        print(f"\n{prompt!r}\n  transformers {texts[0]!r}\n  llama.cpp    {texts[1]!r}")
    assert found == expected
    assert written_by_transformers(Path(base.source), prompts) != expected


def byte_level(name: str, ignore_merges: bool) -> Any:
    """A tokenizer trained on our rows that splits its text as `name` says."""
    steps = {
        "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    }
    for split, digits in (("llama-bpe", "{1,3}"), ("qwen2", "")):
        regex = Regex(gguf_file.WORDS.replace("DIGITS", digits))
        steps[split] = [pre_tokenizers.Split(regex, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    bare = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    bare.pre_tokenizer = pre_tokenizers.Sequence(steps[name]) if len(steps[name]) > 1 else steps[name][0]
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator([row["text"] for row in labelled_rows()] + HARD * 4, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>")


@pytest.mark.parametrize("name", list(gguf_file.PRE_TOKENIZERS))
def test_llama_cpp_splits_text_as_the_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizer = byte_level(name, ignore_merges=name == "llama-bpe")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1
    )
    base = tmp_path / "base"
    transformers.LlamaForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    handle = tmp_path / "handle"
    handle.mkdir()
    models.save(models.language_model(bases.open_base(str(base)), {}, Plan(precision="float32")), handle)
    export.export_run(handle, tmp_path / "tiny.gguf", "gguf")
    llama = llama_cpp.Llama(str(tmp_path / "tiny.gguf"), vocab_only=True, verbose=False)
    assert llama.metadata["tokenizer.ggml.pre"] == name
    for text in [*HARD, "one<|end|>two"]:
        assert llama.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text)["input_ids"], text
