"""What is trained on a base: adapting, saving, rebuilding, merging.

A trained model is a folder with handle.json (base and its hash, adapter, head, settings): `load_handle` rebuilds it
without the method that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from camelid import bases, runs
from camelid.bases import Base, Precision
from camelid.errors import UserError
from camelid.heads import LabelModel, LanguageModel, TokenModel, ValueModel, build_head, load_head, save_head
from camelid.networks import FeatureModel
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.surgery.attention import take_gradients_in_float32
from camelid.surgery.depth import is_splittable
from camelid.surgery.low_rank import shorten_adapters
from camelid.surgery.norm import shorten_norms

# PEFT's own names for an adapter on a causal LM, so that PeftModel.from_pretrained loads what we save
PEFT_PREFIX = "base_model.model.model."


def label_model(
    base: Base, settings: dict[str, Any], plan: Plan, reading: Reading, start: Path | None = None
) -> LabelModel | TokenModel:
    """A label or token model ready to train: a seeded head in float32 on a frozen trunk with adapters, or all of it.

    `settings` are those of the head (`heads.build_head`). `start` is the folder of a language model trained on the same
    base with the same plan, whose adapter is gone on with. Frozen weights have the precision of the plan; everything
    trainable is float32, because a bfloat16 weight of 1.0 does not move under AdamW steps of 1e-4.
    """
    torch.manual_seed(plan.seed)
    trunk = bases.load_trunk(base, _precision_of_frozen(plan))
    model: Any = build_head(_packed(settings, plan), trunk).to(bases.device())
    _check_spans(model, base)
    make_trainable(model, base, plan, start)
    model.origin |= {"reading": asdict(reading)}
    return model


def language_model(base: Base, settings: dict[str, Any], plan: Plan, start: Path | None = None) -> LanguageModel:
    """A language model ready to train, as `label_model`; its head stays the base's own."""
    torch.manual_seed(plan.seed)
    lm = bases.load_lm(base, _precision_of_frozen(plan))
    model: Any = build_head({"kind": "language"} | _packed(settings, plan), lm)
    _check_spans(model, base)
    make_trainable(model, base, plan, start)
    return model


def value_model(base: Base, settings: dict[str, Any], plan: Plan | None, start: Path | None = None) -> ValueModel:
    """A model of rewards ready to train, as `label_model`; without a plan only its head is there to be fitted.

    `start` is the folder of a language model, whose adapter is gone on with, or of a value model, whose head is too.
    """
    torch.manual_seed(plan.seed if plan else 0)
    precision = _precision_of_frozen(plan) if plan else bases.resolve_precision("auto")
    model: Any = build_head({"kind": "value"} | settings, bases.load_trunk(base, precision)).to(bases.device())
    if plan:
        make_trainable(model, base, plan, start)
    else:
        model.origin = _origin_of(base, "head", precision)
    if start is not None and (start / "head.safetensors").is_file():
        load_head(model, start)
    return model


def make_trainable(model: Any, base: Base, plan: Plan, start: Path | None) -> None:
    """Give the frozen trunk of `model` adapters, or make all of it trainable, and note where it comes from."""
    if plan.tuning == "lora":
        _add_adapter(model, lora_config(plan, model.trunk, base.spec))
    else:
        model.body.requires_grad_(True)
    take_gradients_in_float32(model.trunk)
    shorten_norms(model.trunk)
    if start is not None:
        _load_weights(model, start, plan.tuning)
    model.origin = _origin_of(base, plan.tuning, bases.resolve_precision(plan.precision))


def _origin_of(base: Base, tuning: str, precision: str) -> dict[str, Any]:
    """What handle.json says of where a model comes from."""
    return {
        "base": base.spec,
        "revision": base.revision,
        "base_sha256": bases.fingerprint(base),
        "tuning": tuning,
        "precision": precision,
    }


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


def first_adapted_layer(plan: Plan, config: Any) -> int:
    """The lowest decoder layer that is trained; every layer below stays as it is."""
    if plan.tuning == "full":
        return 0
    shares = {"half": (1, 2), "two-thirds": (2, 3)}
    if isinstance(plan.adapt_from_layer, str):
        part, of = shares[plan.adapt_from_layer]
        return config.num_hidden_layers * part // of
    return plan.adapt_from_layer


def save(model: Any, folder: Path) -> None:
    """Write adapter (or trunk), head and handle.json of a model made by `label_model` or `language_model`."""
    if model.origin["tuning"] == "lora":
        _save_adapter(model, folder)
    elif model.origin["tuning"] == "full":
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
    if origin["settings"]["kind"] == "features":
        return _load_network(origin, folder, base)
    opened = bases.open_base(base or origin["base"], None if base else origin["revision"])
    _check_base(opened, origin, folder)
    config = LoraConfig.from_pretrained(str(folder)) if origin["tuning"] == "lora" else None
    model = _rebuild(origin, opened, config)
    if origin["tuning"] != "head":
        _load_weights(model, folder, origin["tuning"])
    load_head(model, folder)
    return model.eval(), opened


def _rebuild(origin: dict[str, Any], opened: Base, config: Any) -> Any:
    """The module that handle.json describes, around its base's weights, with an empty adapter of the `config`."""
    load = bases.load_lm if origin["settings"]["kind"] == "language" else bases.load_trunk
    model: Any = build_head(origin["settings"], load(opened, origin["precision"])).to(bases.device())
    if config is not None:
        _add_adapter(model, config)
    elif origin["tuning"] == "full":
        model.body.float()
    model.origin = {name: value for name, value in origin.items() if name != "settings"}
    return model


def with_adapter(folder: Path, config: Any, tensors: dict[str, Any]) -> Any:
    """The trained model in `folder`, with another adapter in place of its own."""
    origin = json.loads((folder / "handle.json").read_text(encoding="utf-8"))
    model = _rebuild(origin, bases.open_base(origin["base"], origin["revision"]), config)
    _fill_adapter(model, tensors)
    load_head(model, folder)
    return model


def _load_network(origin: dict[str, Any], folder: Path, base: str | None) -> tuple[Any, Any]:
    """A network on features, and the base whose states they are (None for numbers of a table)."""
    settings = origin.pop("settings")
    model = FeatureModel(**{name: value for name, value in settings.items() if name != "kind"})
    load_head(model, folder)
    model.origin = origin
    opened = None
    if "base" in origin:
        opened = bases.open_base(base or origin["base"], None if base else origin["revision"])
        _check_base(opened, origin, folder)
    return model.eval(), opened


def _check_base(opened: Base, origin: dict[str, Any], folder: Path) -> None:
    if bases.fingerprint(opened) != origin["base_sha256"]:
        raise UserError(
            f"the model in {folder} was trained on another base than {opened.spec}: their weights differ",
            f"It needs {origin['base']} with sha256 {origin['base_sha256'][:12]}…; name it with --base.",
        )


def merge(model: Any) -> Any:
    """Add the adapters' products to the weights they stand beside, in place; logits change only by rounding."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.trunk.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent = model.trunk.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    return model


def _packed(settings: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The settings with the plan's packing, where they name none of their own."""
    return settings | {"sight": {"pack_tokens": plan.pack_tokens} | settings.get("sight", {})}


def _precision_of_frozen(plan: Plan) -> Precision:
    return bases.resolve_precision(plan.precision) if plan.tuning == "lora" else "float32"


def _check_spans(model: Any, base: Base) -> None:
    """Layers read in different ways are run in slices, which not every architecture allows."""
    layers = base.config.num_hidden_layers
    if model.sight.unmasked is None:
        return
    first, last = model.sight.unmasked
    if complaint := complain_of_layers((first, last), base):
        raise UserError(*complaint)
    if not all(is_splittable(model.trunk, cut) for cut in (first, last) if 0 < cut < layers):
        raise UserError(f"the layers of {base.spec} cannot be read in different ways", "Leave unmask_layers out.")


def complain_of_layers(unmasked: Sequence[int], base: Base) -> tuple[str, str] | None:
    """What is wrong with a range of layers to be read in both directions, and the remedy; None where nothing is."""
    first, last = unmasked
    layers = base.config.num_hidden_layers
    if 0 <= first < last <= layers:
        return None
    return f"unmask_layers = [{first}, {last}] is no range of layers", f"{base.spec} has layers 0 to {layers - 1}."


def _layer_of(name: str) -> int:
    """Number of the decoder layer a module belongs to, -1 outside the layers."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else -1


def _add_adapter(model: Any, config: LoraConfig) -> None:
    inject_adapter_in_model(config, model.trunk)
    shorten_adapters(model.trunk)
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
    _fill_adapter(model, load_file(folder / "adapter_model.safetensors", device=str(bases.device())))


def _fill_adapter(model: Any, saved: dict[str, Any]) -> None:
    saved = dict(saved)
    with torch.no_grad():
        for name, parameter in model.trunk.named_parameters():
            if "lora_" in name:
                parameter.copy_(saved.pop(PEFT_PREFIX + name.replace(".default.", ".")))
    assert not saved, f"adapter tensors without a place: {sorted(saved)[:3]}"


def _load_weights(model: Any, folder: Path, tuning: str) -> None:
    """The adapter's weights into the trunk, or all weights into the body."""
    if tuning == "lora":
        _load_adapter(model, folder)
        return
    saved = {}
    for file in sorted((folder / "trunk").glob("*.safetensors")):
        saved |= load_file(file, device=str(bases.device()))
    inside = f"{model.body.base_model_prefix}."  # a decoder's weights inside the language model that was adapted first
    with torch.no_grad():
        for name, parameter in model.body.named_parameters():
            parameter.copy_(saved[name] if name in saved else saved[inside + name])
