"""What the tests share: a random LLaMA of 3 layers with its tokenizer, rows written for the purpose, one trained run.

Everything is made once per session in a temporary folder. No test needs the network: the hub's address is one where
nothing listens, so a test that asks it fails at once.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # before anything imports huggingface_hub

import pytest
from typer.testing import CliRunner, Result

ROWS = Path(__file__).parent / "rows"
SPLIT_NAMES = {
    "emotion": ("train", "val", "test"),
    "sst2": ("train", "dev"),
    "banking77": ("train", "test"),
    "wnut17": ("train", "dev"),
    "moderation": ("train", "dev"),
    "oral-history": ("annotated",),
    "hh-harmless": ("train", "dev"),
    "wildlife": ("sharks",),
    "tweets": ("stance-feminist-train", "stance-feminist-val", "stance-feminist-test"),
    "legalbench": ("train",),
    "gsm8k": ("train", "test"),
    "pubmedqa": ("labeled",),
    "pandalm": ("testset",),
    "judgments": ("iter1",),
}
OPENINGS = ("The queue", "My neighbour", "This kettle", "The late bus", "Our landlord")
ENDINGS = {
    "glad": (
        "made me smile all morning",
        "was a lovely surprise",
        "is the best thing today",
        "deserves warm thanks",
    ),
    "cross": (
        "drives me up the wall",
        "has ruined my evening again",
        "is a complete disgrace",
        "made me shout at a lamp",
    ),
    "plain": (
        "is near the town hall",
        "comes every second week",
        "has a number on the door",
        "was mentioned on page two",
    ),
}


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real sets are skipped without them, before a fixture of a whole module could ask for them."""
    if not os.environ.get("CAMELID_DATA"):
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(pytest.mark.skip("CAMELID_DATA is not set"))


@pytest.fixture(autouse=True)
def _no_data_of_the_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the real sets of CAMELID_DATA only when they are marked so."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("CAMELID_DATA", raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA (vocabulary 300, width 32, 3 layers, 4 heads, 2 key-value heads) with a byte-level tokenizer whose
    padding is its end-of-text token and that adds no first token."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` with other weights."""
    return make_model(tmp_path_factory.mktemp("model") / "other", seed=1)


def make_model(folder: Path, seed: int) -> Path:
    import torch
    import transformers

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# as a chat model's: the end of a turn is a token, and a line break behind it is not
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ '#' + turn['role'] + '\n' + turn['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '#assistant\n' }}{% endif %}"
)


def make_chat_model(folder: Path, seed: int = 0, template: str = CHAT_TEMPLATE) -> Path:
    """The tiny model with a chat template."""
    import transformers

    make_model(folder, seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def write_lower(model: Path, folder: Path) -> Path:
    """A copy of a model whose tokenizer reads small letters only."""
    shutil.copytree(model, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def tiny_trunk(architecture: str = "llama", implementation: str = "sdpa", **values: int) -> Any:
    """A random trunk of 3 layers, width 32, in evaluation mode."""
    import torch
    import transformers

    torch.manual_seed(7)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128} | values
    config = transformers.AutoConfig.for_model(architecture, **sizes)
    return transformers.AutoModel.from_config(config, attn_implementation=implementation).eval()


def batch_of(rows: list[list[int]], side: str = "right", width: int | None = None, pad: int = 5) -> Any:
    """Rows padded with an id that also occurs as text: padding must be told by the mask."""
    import torch

    from camelid.batches import Batch

    width = width or max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[number, where], mask[number, where] = torch.tensor(row), 1
    return Batch(ids, mask, labels_N=torch.zeros(len(rows), dtype=torch.long))


def make_tokenizer() -> Any:
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bare = tokenizers.Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator([row["text"] for row in labelled_rows()], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>", pad_token="<|end|>")


def labelled_rows() -> list[dict[str, str]]:
    """60 rows with the columns number, text and label: 3 classes of 20, each text once."""
    rows = [
        {"text": f"{opening} {ending}", "label": label}
        for opening in OPENINGS
        for label, endings in ENDINGS.items()
        for ending in endings
    ]
    return [{"number": str(number), **row} for number, row in enumerate(rows)]


def tagged_rows() -> list[dict[str, list[str]]]:
    """24 sentences with the columns tokens and tags: places and people, BIO."""
    people, places = ("Ada Byron", "Grace", "Alan Turing", "Emmy"), ("Oslo", "New Cairo", "Lima")
    rows = []
    for verb in ("left", "saw"):
        for person in people:
            for place in places:
                tokens = [*person.split(), verb, *place.split(), "today"]
                tags = [*bio(person, "person"), "O", *bio(place, "place"), "O"]
                rows.append({"tokens": tokens, "tags": tags})
    return rows


def bio(name: str, kind: str) -> list[str]:
    return [f"{'I' if number else 'B'}-{kind}" for number in range(len(name.split()))]


def write_csv(path: Path, rows: Sequence[dict[str, Any]], separator: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def own_rows(name: str) -> list[dict[str, Any]]:
    """The 8 rows of tests/rows/<name>.jsonl."""
    return [json.loads(line) for line in (ROWS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def tweets_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labelled_rows` as a csv file."""
    return write_csv(tmp_path_factory.mktemp("rows") / "tweets.csv", labelled_rows())


@pytest.fixture(scope="session")
def tagged_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tagged_rows` as a jsonl file."""
    return write_jsonl(tmp_path_factory.mktemp("rows") / "tagged.jsonl", tagged_rows())


@pytest.fixture
def named_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CAMELID_DATA with the layout of the named sets and our own rows in every split."""
    root = tmp_path / "named"
    for name, splits in SPLIT_NAMES.items():
        (root / name).mkdir(parents=True)
        for split in splits:
            shutil.copy(ROWS / f"{name}.jsonl", root / name / f"{split}.jsonl")
    monkeypatch.setenv("CAMELID_DATA", str(root))
    return root


Camelid = Callable[..., Result]


def invoke(*arguments: object) -> Result:
    """`camelid <arguments>` in this process; the result's `output` holds both streams. Any other exception than the
    exit itself is the test's failure."""
    from camelid.cli import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fields_of(output: str) -> dict[str, str]:
    """The lines that a command printed in two columns, by name."""
    return dict(re.findall(r"^ *([a-z][a-z _]+?)  (\S.*)$", output, re.MULTILINE))


@pytest.fixture(scope="session")
def camelid() -> Camelid:
    """`camelid(*arguments)` runs the command line in this process."""
    return invoke


def train_run(folder: Path, *options: object) -> Path:
    result = invoke("run", "ls-llama", *options, "--epochs", 1, "--adapt-from-layer", 0, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tweets_csv: Path) -> Path:
    """A finished run on `tweets_csv`. Read it only; `trained_copy` is there to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "tweets"
    return train_run(folder, "--data", tweets_csv, "--text", "text", "--label", "label", "--model", tiny_model)


@pytest.fixture(scope="session")
def trained_tags(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tagged_jsonl: Path) -> Path:
    """A finished run on `tagged_jsonl`."""
    folder = tmp_path_factory.mktemp("runs") / "tags"
    return train_run(folder, "--data", tagged_jsonl, "--tokens", "tokens", "--tags", "tags", "--model", tiny_model)


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "tweets-run"))
