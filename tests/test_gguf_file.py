"""Which tokenizers and architectures a GGUF file can hold. That it answers as the trained model is in test_export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import Regex, normalizers, pre_tokenizers

from camelid import bases, gguf_file
from camelid.errors import UserError
from conftest import make_tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(*steps: Any, normalizer: Any = None, whole_words: bool = False) -> Any:
    """A byte-level tokenizer with these pre-tokenizers."""
    made = make_tokenizer()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps)) if len(steps) > 1 else steps[0]
    if normalizer:
        made.backend_tokenizer.normalizer = normalizer
    made.backend_tokenizer.model.ignore_merges = whole_words
    return made


def test_pre_tokenizers_by_name() -> None:
    """As the tokenizer.json of SmolLM2, LLaMA 3, Qwen 2 and GPT-2 have them."""
    level, bare = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel(False, use_regex=False)
    llama3 = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    qwen2 = pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated")
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert gguf_file.pre_tokenizer(split_by(level)) == "gpt-2"
    assert gguf_file.pre_tokenizer(split_by(digits, level)) == "smollm"
    assert gguf_file.pre_tokenizer(split_by(llama3, bare, whole_words=True)) == "llama-bpe"
    assert gguf_file.pre_tokenizer(split_by(qwen2, bare, normalizer=normalizers.NFC())) == "qwen2"
    unknown = [
        split_by(pre_tokenizers.Whitespace()),
        split_by(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        split_by(pre_tokenizers.Digits(individual_digits=False), level),
        split_by(llama3, bare),
        split_by(qwen2, bare, whole_words=True),
        split_by(llama3, level, whole_words=True),
        split_by(level, normalizer=normalizers.Lowercase()),
    ]
    for tokenizer in unknown:
        with pytest.raises(UserError, match="none of the ways GGUF export knows"):
            gguf_file.pre_tokenizer(tokenizer)


def test_sentencepiece_is_refused() -> None:
    """LLaMA 2's tokenizer: BPE over characters with bytes to fall back on, and no pre-tokenizer."""
    pieces = {"<unk>": 0, "▁": 1, "a": 2}
    bare = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, [], byte_fallback=True, unk_token="<unk>"))
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    with pytest.raises(UserError, match="no SentencePiece"):
        gguf_file.pre_tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=bare))


def test_architectures_and_positions_that_are_refused(tiny_model: Path) -> None:
    opened = bases.open_base(str(tiny_model))
    gguf_file.check_llama(opened)
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    for config, said in (
        (transformers.MistralConfig(), "is a mistral model"),
        (transformers.LlamaConfig(rope_parameters=yarn), "scales its positions by 'yarn'"),
        (transformers.LlamaConfig(attention_bias=True), "has biases"),
        (transformers.LlamaConfig(hidden_act="gelu"), "activation"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            gguf_file.check_llama(replace(opened, config=config))
        assert "convert_hf_to_gguf.py" in caught.value.fix
