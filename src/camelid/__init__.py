"""camelid: adapt a LLaMA-family model with published methods, each one readable file over a small set of verbs.

Public names load on first use, so that `import camelid` and `camelid list` cost no torch import.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# nothing a user adapts or reads is reported to anybody, unless they say so themselves
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_HOMES = {
    "UserError": "camelid.errors",
    "Recipe": "camelid.recipe",
    "Plan": "camelid.recipe",
    "Run": "camelid.runs",
    "read_rows": "camelid.data",
    "train": "camelid.training",
    "evaluate": "camelid.evaluation",
    "score": "camelid.scoring",
    "sample": "camelid.sampling",
    "annotate": "camelid.annotation",
    "open_engine": "camelid.engines",
    "load_handle": "camelid.models",
    "predict": "camelid.prediction",
    "predict_with": "camelid.prediction",
    "Guard": "camelid.guard",
    "RewardModel": "camelid.reward_model",
    "run": "camelid.methods",
    "LabelClassifier": "camelid.estimators",
    "TokenClassifier": "camelid.estimators",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'camelid' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
