"""The folder in which camelid keeps what it need not make twice; no run depends on what is in it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$CAMELID_CACHE, else ~/.cache/camelid."""
    return Path(os.environ.get("CAMELID_CACHE") or Path.home() / ".cache" / "camelid")
