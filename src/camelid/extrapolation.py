"""Weights beyond a trained model, on the line from where its training began (ExPO: Zheng 2024, arXiv 2404.16792)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from camelid import models
from camelid.errors import UserError


def extrapolate(weak: Mapping[str, Tensor], strong: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """weak + alpha (strong - weak) of every tensor, in float32 and cast back to strong's format.

    0 gives weak, 1 strong, more goes beyond it. Raises UserError when names or shapes differ.
    """
    if odd := sorted(set(weak) ^ set(strong)):
        raise UserError(f"the two models do not have the same weights: {odd[0]}", "Both must be of one architecture.")
    for name, tensor in weak.items():
        if tensor.shape != strong[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(strong[name].shape)}"
            raise UserError(f"{name} has the shapes {shapes}", "Both models must be of one architecture.")
    return {
        name: torch.lerp(tensor.float(), strong[name].float(), alpha).to(strong[name].dtype)
        for name, tensor in weak.items()
    }


def extrapolate_models(weak: Path, strong: Path, alpha: float) -> Any:
    """The model on the line through two trained ones of one base and one plan, in evaluation mode, to be saved.

    With adapters it is their products B A that are extrapolated: (1 - alpha) B_w A_w + alpha B_s A_s is one adapter of
    both ranks together, while B and A taken apart would not lie on the line.
    """
    model, _ = models.load_handle(strong)
    heads = [load_file(folder / "head.safetensors") for folder in (weak, strong)]
    model.head.load_state_dict(extrapolate(heads[0], heads[1], alpha))
    if model.origin["tuning"] == "full":
        other, _ = models.load_handle(weak)
        model.body.load_state_dict(extrapolate(other.body.state_dict(), model.body.state_dict(), alpha))
    elif model.origin["tuning"] == "lora":
        adapters = [load_file(folder / "adapter_model.safetensors") for folder in (weak, strong)]
        model = models.with_adapter(strong, joined_config(strong), join_adapters(adapters[0], adapters[1], alpha))
        model.head.load_state_dict(extrapolate(heads[0], heads[1], alpha))
    return model.eval()


def join_adapters(weak: Mapping[str, Tensor], strong: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A and B of the joined rank: A stacked, B side by side and scaled. Raises UserError when layers differ."""
    if set(weak) != set(strong):
        odd = sorted(set(weak) ^ set(strong))[0]
        raise UserError(f"the two adapters are not on the same layers: {odd}", "Both need one plan.")
    joined = {}
    for name, tensor in weak.items():
        parts = (tensor, strong[name]) if ".lora_A." in name else ((1 - alpha) * tensor, alpha * strong[name])
        joined[name] = torch.cat(parts, dim=0 if ".lora_A." in name else 1)
    return joined


def joined_config(folder: Path) -> LoraConfig:
    """The adapter's config with twice the rank and the same scale."""
    config: Any = LoraConfig.from_pretrained(str(folder))
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    return config
