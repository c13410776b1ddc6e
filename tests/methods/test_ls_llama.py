"""Six checks of LS-LLaMA that a toy would fail: wrong mask, position, sign or alignment breaks at least one."""

from __future__ import annotations

import math
from pathlib import Path

import peft
import pytest
import torch
import transformers

from camelid import bases, models
from camelid.batches import Batch, Tokens, collate_rows
from camelid.heads import LabelModel, Sight, TokenModel, pool, run_trunk
from camelid.objectives import cross_entropy
from camelid.prediction import logits_by_row
from camelid.reading import Reading, first_subtokens, tokenise
from camelid.recipe import Plan
from camelid.rows import Tagged
from conftest import batch_of, tiny_trunk

ATTENTIONS = ("causal", "bidirectional")
ARCHITECTURES = ("llama", "mistral", "qwen2")


def states_of(trunk: torch.nn.Module, batch: Batch, attention: str) -> torch.Tensor:
    return run_trunk(trunk, Sight(attention), batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("width", [8, 12], ids=["no padding", "padding"])
def test_check_1_causality_probe(architecture: str, implementation: str, width: int) -> None:
    trunk = tiny_trunk(architecture, implementation)
    row = [3, 9, 5, 11, 4, 8, 2, 7]
    changed = [*row[:-1], 30]
    with torch.no_grad():
        states = {
            attention: [states_of(trunk, batch_of([ids], width=width), attention)[0] for ids in (row, changed)]
            for attention in ATTENTIONS
        }
    before, after = states["causal"]
    assert torch.equal(before[:7], after[:7])
    before, after = states["bidirectional"]
    assert (before[0] - after[0]).abs().max() > 1e-4


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_check_2_padding_changes_nothing(attention: str, pooling: str, side: str) -> None:
    torch.manual_seed(1)
    model = LabelModel(tiny_trunk(), ["a", "b", "c"], pooling, Sight(attention)).eval()  # type: ignore[arg-type]
    row, other = [3, 9, 5, 11, 4, 5], [8, 2, 7, 5, 1, 6, 12, 20, 33]
    with torch.no_grad():
        alone = model(batch_of([row]))
        padded = model(batch_of([row, other], side, width=2 * len(other)))
    torch.testing.assert_close(padded[:1], alone, atol=1e-5, rtol=0)


def test_check_2_would_notice_padding_that_is_read() -> None:
    """The paper's code pools and attends over padding; the same row then answers differently."""
    model = LabelModel(tiny_trunk(), ["a", "b"], "mean", Sight("bidirectional")).eval()
    with torch.no_grad():
        alone, padded = (model(batch_of([[3, 9, 11]], width=width)) for width in (3, 6))
        read = batch_of([[3, 9, 11]], width=6)
        as_text = model(Batch(read.ids_BT, torch.ones_like(read.mask_BT), read.labels_N))
    assert (padded - alone).abs().max() < 1e-5 < (as_text - alone).abs().max()


def test_check_3_pooling_and_loss_by_hand() -> None:
    """last [2, -1], mean [1.5, -0.5], max [2, 0]; -log softmax([2, -1])[1] = ln(1 + e^3) = 3.048587."""
    logits, mask = torch.tensor([[[1.0, 0.0], [2.0, -1.0], [0.0, 5.0]]]), torch.tensor([[1, 1, 0]])
    assert pool(logits, mask, "last").tolist() == [[2.0, -1.0]]
    assert pool(logits, mask, "mean").tolist() == [[1.5, -0.5]]
    assert pool(logits, mask, "max").tolist() == [[2.0, 0.0]]
    batch = Batch(torch.zeros(1, 3), mask, torch.tensor([1]), counts={"loss": 1})
    terms, metrics = cross_entropy(lambda _: pool(logits, mask, "last"), batch)
    assert terms["loss"].item() == pytest.approx(math.log(1 + math.e**3), abs=1e-6)
    assert terms["loss"].item() == pytest.approx(3.048587, abs=1e-6)
    assert metrics == {"accuracy": 0.0}


def test_check_4_first_subtoken_carries_the_tag() -> None:
    """Hong Kong as [BOS, Ho, ng, Kong]: tag 1 at position 1, tag 2 at position 3, nothing at 0 and 2."""
    assert first_subtokens(["Hong", "Kong"], [(0, 0), (0, 2), (2, 4), (4, 9)]) == [1, 3]
    assert first_subtokens(["Hong", "Kong"], [(0, 0), (0, 2), (2, 4), (5, 9)]) == [1, 3]
    assert first_subtokens(["Hong", "Kong"], [(0, 0), (0, 2)]) == [1], "words beyond the cut have no position"


def test_check_4_with_a_real_tokenizer(tiny_model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    row = Tagged("0", "here", ("Extraordinarily", "Kong", "!"), ("B-x", "I-x", "O"))
    model = TokenModel(tiny_trunk(), ["B-x", "I-x", "O"], Sight())
    (tokens,) = tokenise(tokenizer, [row], model, Reading(64))
    assert tokens.labels == [0, 1, 2]
    assert tokens.words is not None
    starts = [tokenizer.decode(tokens.ids[at:]).strip() for at in tokens.words]
    assert starts == ["Extraordinarily Kong !", "Kong !", "!"]


def test_a_token_model_reads_the_words_positions_only() -> None:
    torch.manual_seed(3)
    model = TokenModel(tiny_trunk(), ["O", "B-x"], Sight()).eval()
    rows = [Tokens("0", [3, 9, 5, 11], [0, 1], words=[1, 3]), Tokens("1", [8, 2], [1], words=[0])]
    batch = collate_rows(rows, pad_id=5)
    with torch.no_grad():
        states = run_trunk(model.trunk, model.sight, batch)
        expected = model.head(torch.stack([states[0, 1], states[0, 3], states[1, 0]]))
        torch.testing.assert_close(model(batch), expected)
    assert batch.labels_N.tolist() == [0, 1, 1]
    assert batch.counts == {"loss": 3}


def test_check_5_trainable_set_save_reload_merge(tiny_model: Path, tmp_path: Path) -> None:
    plan = Plan(lora_targets=("q_proj", "v_proj"), lora_rank=4, precision="float32")
    base = bases.open_base(str(tiny_model))
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "last"}
    model = models.label_model(base, settings, plan, Reading(16))
    layers = base.config.num_hidden_layers
    expected = {
        f"trunk.layers.{layer}.self_attn.{name}.lora_{side}.default.weight"
        for layer in range(layers)
        for name in ("q_proj", "v_proj")
        for side in "AB"
    } | {"head.weight"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == expected
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)

    with torch.no_grad():  # as after training: B is no longer zero
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    rows = [Tokens("0", [3, 9, 5, 11], [0]), Tokens("1", [8, 2], [1])]
    before = torch.stack(logits_by_row(model, rows, 0))
    models.save(model, tmp_path)
    reloaded, _ = models.load_handle(tmp_path)
    assert torch.equal(torch.stack(logits_by_row(reloaded, rows, 0)), before)
    merged = models.merge(reloaded)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(torch.stack(logits_by_row(merged, rows, 0)), before, atol=1e-5, rtol=0)

    # any tool that knows PEFT loads the adapter on the plain language model
    language_model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    by_peft = peft.PeftModel.from_pretrained(language_model, tmp_path).eval()
    ids = torch.tensor([[3, 9, 5, 11]])
    with torch.no_grad():
        theirs = by_peft(ids, output_hidden_states=True).hidden_states[-1]
        ours = run_trunk(model.eval().trunk, model.sight, batch_of([[3, 9, 5, 11]]))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def parity_accuracy(attention: str, steps: int) -> tuple[float, float]:
    """Accuracy after 100 steps and after `steps`: the label of token i is the parity of token i + 1."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    trunk = tiny_trunk(
        vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_key_value_heads=4
    ).train()
    model = TokenModel(trunk, ["even", "odd"], Sight(attention))  # type: ignore[arg-type]
    model.dropout.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    row_N, token_N = (grid.reshape(-1) for grid in torch.meshgrid(torch.arange(32), torch.arange(15), indexing="ij"))
    recent: list[float] = []
    at_100 = 0.0
    for step in range(1, steps + 1):
        ids = torch.randint(32, (32, 16), generator=draw)
        labels_N = (ids[:, 1:] % 2).reshape(-1)
        batch = Batch(ids, torch.ones_like(ids), labels_N, row_N, token_N, {"loss": len(labels_N)})
        terms, metrics = cross_entropy(model, batch)
        optimizer.zero_grad()
        (terms["loss"] / len(labels_N)).backward()
        optimizer.step()
        recent = [*recent[-9:], metrics["accuracy"] / len(labels_N)]
        at_100 = sum(recent) / len(recent) if step == 100 else at_100
    return at_100, sum(recent) / len(recent)


def test_check_6_the_mask_is_what_matters() -> None:
    """Only a token that sees its right neighbour can know its parity. The last token has no label."""
    at_100, at_200 = parity_accuracy("bidirectional", 200)
    assert at_100 > 0.95
    assert at_200 > 0.9999
    _, at_600 = parity_accuracy("causal", 600)
    assert abs(at_600 - 0.5) < 0.02
