"""LLaMA language models as GGUF files for llama.cpp: what can be written, writing it, reading it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from torch import Tensor, nn

from camelid.bases import Base
from camelid.errors import UserError

CONVERT = "Use --format safetensors --as language, and llama.cpp's own convert_hf_to_gguf.py on that folder."

# Pre-tokenizers of tokenizer.json by their names in GGUF. llama.cpp knows each by its name and has its code built in.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
BYTES_ONLY = BYTES | {"use_regex": False}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
PRE_TOKENIZERS = {
    "gpt-2": [BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTES],
    "llama-bpe": [SPLIT | {"pattern": {"Regex": WORDS.replace("DIGITS", "{1,3}")}}, BYTES_ONLY],
    "qwen2": [SPLIT | {"pattern": {"Regex": WORDS.replace("DIGITS", "")}}, BYTES_ONLY],
}
NORMAL = (None, "NFC")  # llama.cpp does not normalise; NFC leaves nearly all text as it is


def check_llama(opened: Base) -> None:
    """Raise UserError for a base whose architecture or tokenizer we do not write as GGUF."""
    config = opened.config
    if config.model_type != "llama":
        raise UserError(f"{opened.spec} is a {config.model_type} model; GGUF export writes LLaMA only", CONVERT)
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "linear", "llama3"):
        raise UserError(f"{opened.spec} scales its positions by {rope!r}, which GGUF export does not write", CONVERT)
    if config.hidden_act != "silu" or config.attention_bias or config.mlp_bias:
        raise UserError(f"{opened.spec} has biases or an activation that GGUF export does not write", CONVERT)
    pre_tokenizer(opened.tokenizer)
    added_ends(opened.tokenizer)


def write_gguf(path: Path, lm: Any, opened: Base, half: bool) -> None:
    """One GGUF file with config, tokenizer and weights (matrices in float16 if `half`) of a LLaMA language model."""
    config, writer = lm.config, gguf.GGUFWriter(path, "llama")
    writer.add_name(Path(opened.spec).name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, opened.tokenizer, config.vocab_size)
    for name, weight in gguf_weights(lm):
        writer.add_tensor(name, (weight.half() if half and weight.dim() > 1 else weight).cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path) -> Any:
    """The language model in a GGUF file as transformers reads it, with the frequency factors that it leaves out."""
    lm: Any = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "rope_freqs.weight":
            lm.get_decoder().rotary_emb.inv_freq /= torch.tensor(tensor.data)
    return lm


def round_to_half(lm: nn.Module) -> None:
    """Round the matrices of a model to float16 values, in place; UserError where one is too large for it."""
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if weight.dim() > 1:
                weight.copy_(weight.half())
                if not weight.isfinite().all():
                    raise UserError(f"{name} holds values beyond float16", "Use --format gguf, which is float32.")


def gguf_weights(lm: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in GGUF, weight) of every parameter; a head tied to the embedding is left out, as llama.cpp expects it."""
    config = lm.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in lm.named_parameters():  # names a tied parameter once, and the embedding comes first
        place, _, ending = name.rpartition(".")
        leaf = place.rpartition(".")[2]
        weight = weight.detach()
        yield f"{names.get_name(place)}.{ending}", in_neighbours(weight, heads[leaf]) if leaf in heads else weight
    rotary = lm.get_decoder().rotary_emb
    plain, _ = rotary.compute_default_rope_parameters(config)
    if config.rope_parameters["rope_type"] != "default":  # llama.cpp divides its plain frequencies by these
        yield "rope_freqs.weight", plain.to(rotary.inv_freq.device) / rotary.inv_freq


def in_neighbours(weight_XD: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection in the order of llama.cpp.

    Rotary embedding turns pairs of rows of a head: row i with i + d/2 in transformers, 2i with 2i + 1 in llama.cpp.
    """
    return weight_XD.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, size: int) -> None:
    """A byte-level BPE tokenizer in the words of GGUF, for an embedding of `size` rows."""
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    kinds = {
        number: gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    kinds |= {number: gguf.TokenType.UNUSED for number in range(size) if number not in vocabulary}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list([vocabulary.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types([kinds.get(number, gguf.TokenType.NORMAL) for number in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in backend_of(tokenizer)["model"]["merges"]])
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    at_front, at_end = added_ends(tokenizer)
    writer.add_add_bos_token(at_front)
    writer.add_add_eos_token(at_end)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def pre_tokenizer(tokenizer: Any) -> str:
    """The name in GGUF of how a tokenizer splits text before its merges; UserError when we know none."""
    backend = backend_of(tokenizer)
    model, normalizer, steps = backend["model"], backend["normalizer"], backend["pre_tokenizer"]
    steps = [steps] if (steps or {}).get("type") != "Sequence" else steps["pretokenizers"]
    steps = [{name: value for name, value in (step or {}).items() if name != "trim_offsets"} for step in steps]
    is_byte_level = model["type"] == "BPE" and not model["byte_fallback"] and (normalizer or {}).get("type") in NORMAL
    for name, known in PRE_TOKENIZERS.items():
        # llama.cpp looks whole words up before it merges for this one and for no other
        if is_byte_level and steps == known and model["ignore_merges"] == (name == "llama-bpe"):
            return name
    raise UserError(
        "the tokenizer splits its text in none of the ways GGUF export knows "
        f"({', '.join(PRE_TOKENIZERS)}; no SentencePiece)",
        CONVERT,
    )


def added_ends(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer puts its bos in front of a text, and its eos behind; UserError for anything else."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    at = next((start for start in range(len(whole)) if whole[start : start + len(bare)] == bare), 0)
    front, end = whole[:at], whole[at + len(bare) :]
    if front not in ([], [tokenizer.bos_token_id]) or end not in ([], [tokenizer.eos_token_id]):
        raise UserError("the tokenizer adds other tokens to a text than its bos and eos", CONVERT)
    return bool(front), bool(end)


def backend_of(tokenizer: Any) -> dict[str, Any]:
    """tokenizer.json of the tokenizer as it is in use, which need not be the file it came from."""
    return json.loads(tokenizer.backend_tokenizer.to_str())
