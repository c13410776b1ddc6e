"""Hidden states of texts under a model, and edits of the states inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camelid.batches import Tokens, collate_rows, sorted_batches
from camelid.errors import UserError
from camelid.heads import pool
from camelid.progress import track
from camelid.reading import pad_id

BATCH_TOKENS = 1024

Edit = Callable[[Tensor, Tensor, Tensor], Tensor]  # (hidden_ND, row_N, position_N) -> hidden_ND, N flat tokens


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


@contextmanager
def edit_layers(trunk: Any, edits: Mapping[str, Edit], rows: Sequence[int] | None = None) -> Iterator[None]:
    """Within, what each named layer of the trunk gives is what its edit makes of it: steering, ablation, a controller.

    `edits` is by the names of `trunk.named_modules()`, such as "layers.12". An edit gets the states of all tokens of a
    batch, padding too, with the row and the position in it of each. `rows` numbers the lines of the batch; else they
    are 0, 1, 2 ... Gradients flow through an edit; with gradient checkpointing the backward pass belongs inside too,
    because it runs the layers again. Raises UserError for a layer that the trunk does not have.
    """
    if not edits:
        yield
        return
    layers = {name: _layer(trunk, name) for name in edits}
    row_N = position_N = torch.empty(0, dtype=torch.long)

    def place(_: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        nonlocal row_N, position_N
        given = inputs.get("input_ids", args[0] if args else None)
        lines, tokens = (inputs["inputs_embeds"] if given is None else given).shape[:2]
        position_ids = inputs.get("position_ids")
        if position_ids is None:
            past = inputs.get("past_key_values")
            position_ids = torch.arange(tokens)[None] + (past.get_seq_length() if past is not None else 0)
        position_N = position_ids.expand(lines, tokens).reshape(-1)
        row_N = torch.tensor(range(lines) if rows is None else rows).repeat_interleave(tokens)

    def hook_of(edit: Edit) -> Callable[[Any, Any, Any], Any]:
        def change(_: Any, __: Any, output: Any) -> Any:
            hidden_BTD = output[0] if isinstance(output, tuple) else output
            flat = edit(hidden_BTD.flatten(0, 1), row_N.to(hidden_BTD.device), position_N.to(hidden_BTD.device))
            edited_BTD = flat.view_as(hidden_BTD)
            return (edited_BTD, *output[1:]) if isinstance(output, tuple) else edited_BTD

        return change

    hooks = [layers[name].register_forward_hook(hook_of(edit)) for name, edit in edits.items()]
    hooks.append(trunk.register_forward_pre_hook(place, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layer(trunk: Any, name: str) -> Any:
    named = dict(trunk.named_modules())
    if name not in named or not name:
        near = get_close_matches(name, named, n=1) or [next((one for one in named if one.endswith(".0")), "layers.0")]
        raise UserError(f"the model has no layer {name!r}", f"Name one as it does, such as {near[0]!r}.")
    return named[name]
