"""The Hugging Face hub, asked once: being offline costs a second, not five retries with a growing wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 5.0  # seconds for the one question


@contextmanager
def reached() -> Iterator[None]:
    """In this block hub calls work as ever when the hub answers; when it does not, only what is cached is read.

    Whatever is in no cache then fails at once, with the library's own error. An HTTP status of any kind is an answer.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    import huggingface_hub
    from huggingface_hub import constants

    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # each transport has its own kinds of failure; any of them means no answer
        return False
    return True
