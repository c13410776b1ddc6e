"""Hidden states of texts under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camelid.batches import Tokens, collate_rows, sorted_batches
from camelid.heads import pool
from camelid.progress import track
from camelid.reading import pad_id

BATCH_TOKENS = 1024


def hidden_states(
    trunk: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int = 256, what: str = "hidden states"
) -> NDArray[np.float32]:
    """The mean state after the final norm of each text's tokens, scaled to length 1, as (texts, width).

    A text longer than `max_tokens` is cut at its end.
    """
    encoded = tokenizer(list(texts), verbose=False)["input_ids"]
    rows = [Tokens(str(number), ids[:max_tokens], []) for number, ids in enumerate(encoded)]
    found = np.zeros((len(rows), trunk.config.hidden_size), dtype=np.float32)
    with torch.inference_mode(), track(what, len(rows)) as advance:
        for indices in sorted_batches([row.size for row in rows], BATCH_TOKENS):
            batch = collate_rows([rows[index] for index in indices], pad_id(tokenizer)).to(trunk.device)
            hidden_BTD = trunk(input_ids=batch.ids_BT, use_cache=False).last_hidden_state  # right padding needs no mask
            mean_BD = torch.nn.functional.normalize(pool(hidden_BTD.float(), batch.mask_BT, "mean"), dim=-1)
            found[indices] = mean_BD.cpu().numpy()
            advance(len(indices))
    return found
