"""Several processes of one run, started by `accelerate launch` or torchrun: who writes, and waiting for each other.

Outside a launcher there is one process, which leads, and nothing here costs anything.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
# while one process scores or reads data the others wait, longer than the half hour after which gloo gives up
PATIENCE = timedelta(days=7)


def count_processes() -> int:
    """How many processes work on this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_leader() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if count_processes() > 1:
        _state().wait_for_everyone()


def share_from_leader(value: T) -> T:
    """The leader's value, in every process."""
    if count_processes() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _state()
    return broadcast_object_list([value])[0]


def _state() -> Any:
    import torch
    from accelerate import PartialState

    # without being told so, accelerate takes two processes without an accelerator for two runs
    return PartialState(cpu=torch.accelerator.current_accelerator() is None, timeout=PATIENCE)
