"""Log-probabilities of given text under a model.

`choice_logprobs` answers "which of these continuations does the model find likely" without computing anything twice:
the prefix all prompts share is run once, each prompt once, and a choice costs its tokens after the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camelid.batches import sorted_batches
from camelid.progress import track
from camelid.surgery.attention_mask import choices_mask

BATCH_TOKENS = 1024


def choice_logprobs(
    model: Any, tokenizer: Any, prefix: str, prompts: Sequence[str], choices: Sequence[str], what: str = "scoring"
) -> Tensor:
    """logprobs_BK: log p(choice k | prefix + prompt b), summed over the choice's tokens, in float32 on the CPU.

    Prefix, prompt and choices are tokenised apart and joined, so that the same tokens are scored whichever text they
    follow; special tokens of the tokenizer stand once, at the front. Equal to scoring each full sequence on its own.
    """
    prefix_ids = tokenizer(prefix)["input_ids"] if prefix else tokenizer("")["input_ids"]
    bodies = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    endings = tokenizer(list(choices), add_special_tokens=False)["input_ids"]
    tail = sum(len(ending) - 1 for ending in endings)
    past = _run_prefix(model, prefix_ids)
    result = torch.empty(len(prompts), len(choices))
    with torch.inference_mode(), track(what, len(prompts)) as advance:
        for indices in sorted_batches([len(body) + tail for body in bodies], BATCH_TOKENS):
            rows = [bodies[index] for index in indices]
            result[indices] = _score_batch(model, past, len(prefix_ids), rows, endings)
            advance(len(indices))
    return result


def _run_prefix(model: Any, ids: list[int]) -> Any:
    if not ids:
        return None
    with torch.inference_mode():
        tokens = torch.tensor([ids], device=model.device)
        return model.get_decoder()(input_ids=tokens, use_cache=True).past_key_values


def _score_batch(model: Any, past: Any, prefix: int, bodies: list[list[int]], endings: list[list[int]]) -> Tensor:
    """One forward over rows that hold a body followed by each choice without its last token.

    The logits after the body score every choice's first token; those after a choice's token its next one.
    """
    ids_BT, position_BT, choice_BT = _lay_out(bodies, endings)
    mask = choices_mask(prefix, choice_BT)
    hidden_BTD = model.get_decoder()(
        input_ids=ids_BT.to(model.device),
        position_ids=(position_BT + prefix).to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=_repeated(past, len(bodies), model.config),
        use_cache=past is not None,
    ).last_hidden_state
    rows = torch.arange(len(bodies))
    starts = torch.tensor([len(body) for body in bodies])
    first_BV = _logprobs(model, hidden_BTD[rows, starts - 1])
    scores_BK = first_BV[:, [ending[0] for ending in endings]].clone()
    offset = starts.clone()
    for number, ending in enumerate(endings):
        for token in ending[1:]:
            scores_BK[:, number] += _logprobs(model, hidden_BTD[rows, offset])[:, token]
            offset += 1
    return scores_BK


def _lay_out(bodies: list[list[int]], endings: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """ids_BT, position_BT and choice_BT (0 body, k for choice k, -1 padding); a choice starts where its body ends."""
    tail = sum(len(ending) - 1 for ending in endings)
    longest = max(map(len, bodies)) + tail
    ids_BT = torch.zeros(len(bodies), longest, dtype=torch.long)
    position_BT = torch.zeros_like(ids_BT)
    choice_BT = torch.full_like(ids_BT, -1)
    for row, body in enumerate(bodies):
        ids, positions, owners = list(body), list(range(len(body))), [0] * len(body)
        for number, ending in enumerate(endings, 1):
            ids += ending[:-1]
            positions += range(len(body), len(body) + len(ending) - 1)
            owners += [number] * (len(ending) - 1)
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        position_BT[row, : len(ids)] = torch.tensor(positions)
        choice_BT[row, : len(ids)] = torch.tensor(owners)
    return ids_BT, position_BT, choice_BT


def _repeated(past: Any, rows: int, config: Any) -> Any:
    """A cache of its own for this batch: transformers appends to the cache it is given."""
    if past is None:
        return None
    from transformers import DynamicCache

    copy = DynamicCache(config=config)
    for number, layer in enumerate(past.layers):
        copy.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
    return copy


def _logprobs(model: Any, hidden_BD: Tensor) -> Tensor:
    """log-softmax over the vocabulary, in float32."""
    return model.get_output_embeddings()(hidden_BD).float().log_softmax(dim=-1).cpu()
