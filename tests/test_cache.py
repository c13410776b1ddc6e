"""The cache of answers: what was written is found, by whoever asks, however its writer ended."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.engines import Completion, Question, Request, Scored, key_of
from camelid.engines import cache as cache_module
from camelid.engines.cache import Cache, EngineUse, cache_path
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.sampling import sample

YES = Completion("yes", "end", (3, 4), (-0.1, -1 / 3), 7, 2, 1e-17)
SCORED = Scored(((-0.5, -1e-300), (), (-2.0,)), 9, 0.25)
WRITER = """
import sys
from pathlib import Path
from camelid.engines import Completion
from camelid.engines.cache import Cache

cache = Cache(Path(sys.argv[1]))
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    cache.put(f"key {number}", Completion(f"{number} " + "x" * 2000, "end"), sys.argv[2])
    print(number, flush=True)
"""

floats = st.floats(allow_nan=False)
answers = st.one_of(
    st.builds(
        Completion,
        st.text(),
        st.sampled_from(["end", "string", "length"]),
        st.lists(st.integers(0), max_size=3).map(tuple),
        st.lists(floats, max_size=3).map(tuple),
        st.integers(0),
        st.integers(0),
        floats,
    ),
    st.builds(Scored, st.lists(st.lists(floats, max_size=3).map(tuple), max_size=3).map(tuple), st.integers(0), floats),
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache" / "answers.sqlite")


def writer(path: Path, engine: str, first: int, last: int) -> subprocess.Popen[str]:
    """A process that writes `key <number>` for these numbers and prints each number once it is written."""
    command = [sys.executable, "-c", WRITER, str(path), engine, str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# what is kept


@pytest.mark.parametrize("answer", [YES, SCORED, Completion("\ud800\x00 é 😀\u2028", "length"), Scored(())])
def test_an_answer_comes_back_equal_in_another_process_or_object(cache: Cache, answer: Any) -> None:
    cache.put("k", answer, "e")
    assert cache.get(["k"]) == {"k": answer}
    cache.close()
    assert Cache(cache.path).get(["k"]) == {"k": answer}
    assert cache.get(["k"]) == {"k": answer}, "a closed cache opens again"


@settings(deadline=None, max_examples=50)
@given(answers)
def test_any_answer_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, answer: Any) -> None:
    cache = Cache(tmp_path_factory.getbasetemp() / "any.sqlite")
    key = repr(answer).encode("utf-8", "surrogatepass").hex()
    cache.put(key, answer, "e")
    assert cache.get([key]) == {key: answer}
    cache.close()


def test_what_is_not_there_is_not_found(cache: Cache) -> None:
    assert cache.get(["k"]) == {}
    assert cache.get([]) == {}
    cache.put("k", YES, "e")
    assert cache.get(["j", "k", "K"]) == {"k": YES}


def test_more_keys_than_one_query_takes(cache: Cache) -> None:
    most = sqlite3.connect(":memory:").getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    answers = {f"k{number}": Completion(str(number), "end") for number in (0, 499, 500, most)}
    for key, answer in answers.items():
        cache.put(key, answer, "e")
    assert cache.get([f"k{number}" for number in range(most + 1)]) == answers


@pytest.mark.parametrize("answer", [Completion("half", "failed", problem="timeout"), Completion("", "failed"),
    Completion("a", "end", problem="budget"), Scored((), problem="refused")])  # fmt: skip
def test_failed_answers_are_not_kept(cache: Cache, answer: Any) -> None:
    cache.put("k", answer, "e")
    assert cache.get(["k"]) == {}
    assert cache.statistics().entries == 0


def test_the_first_answer_stays(cache: Cache) -> None:
    cache.put("k", YES, "e")
    cache.put("k", Completion("no", "end"), "e")
    assert cache.get(["k"]) == {"k": YES}


def test_the_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "mine"))
    assert Cache().path == cache_path() == tmp_path / "mine" / "answers.sqlite"
    monkeypatch.delenv("CAMELID_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path() == tmp_path / ".cache" / "camelid" / "answers.sqlite"
    assert not (tmp_path / ".cache").exists(), "to name it is not to make it"


def test_an_engine_with_it_is_not_asked_again(cache: Cache) -> None:
    engine: Any = ScriptedEngine(lambda request: f"{request.prompt}!")
    engine.cache = cache
    first = sample(engine, ["a", "b", "a"])
    assert sample(engine, ["a", "b", "a"]) == first
    assert engine.asked == [Request("a"), Request("b")]
    assert set(cache.get([key_of(engine, Request("a")), key_of(engine, Question("a", ("b",)))])) == {
        key_of(engine, Request("a"))
    }


# what is known of it


def test_statistics(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of engine e: two answers made and three found (k twice); of f: one made, none found."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    cache.put("k", YES, "e")
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    cache.put("l", SCORED, "e")
    cache.put("m", YES, "f")
    cache.get(["k", "l", "k", "missing"])
    for _ in range(2):  # also when opened anew
        found = cache.statistics()
        assert (found.path, found.entries, found.hits, found.misses) == (cache.path, 3, 3, 3)
        assert (found.oldest, found.newest) == (1000.0, 2000.0)
        assert {name: (use.entries, use.hits, use.misses) for name, use in found.engines.items()} == {
            "e": (2, 3, 2),
            "f": (1, 0, 1),
        }
        size = len(json.dumps({"kind": "Completion", **dataclasses.asdict(YES)}))
        assert found.engines["f"] == EngineUse(1, size, 0, 1)
        assert found.bytes == size_of(cache.path, "") + size_of(cache.path, "-wal")
        cache.close()


def size_of(path: Path, end: str) -> int:
    file = path.with_name(path.name + end)
    return file.stat().st_size if file.exists() else 0


def test_statistics_of_nothing(cache: Cache) -> None:
    found = cache.statistics()
    assert (found.entries, found.hits, found.misses, found.oldest, found.newest, found.engines) == (
        0,
        0,
        0,
        None,
        None,
        {},
    )


# what goes


def filled(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """100 answers of 5 kB, one a day, the newest of today; even days by engine e, odd ones by f."""
    now = time.time()
    for days in range(100):
        monkeypatch.setattr(time, "time", lambda days=days: now - days * 86400)
        cache.put(f"day {days}", Completion("x" * 5000, "end"), "f" if days % 2 else "e")
    monkeypatch.setattr(time, "time", lambda: now + 60)
    return cache


def left(cache: Cache) -> list[int]:
    return [days for days in range(100) if f"day {days}" in cache.get([f"day {days}"])]


@pytest.mark.parametrize(("limits", "stays"), [
    ({}, list(range(100))),
    ({"older_than_days": 30}, list(range(30))),
    ({"older_than_days": 0}, []),
    ({"engine": "e"}, list(range(1, 100, 2))),
    ({"engine": "nobody"}, list(range(100))),
    ({"older_than_days": 10.5, "engine": "f"}, [days for days in range(100) if days <= 10 or days % 2 == 0]),
    ({"most_bytes": 1 << 30}, list(range(100))),
    ({"most_bytes": 0}, []),
])  # fmt: skip
def test_pruning(cache: Cache, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], stays: list[int]) -> None:
    filled(cache, monkeypatch)
    before = cache.statistics()
    assert cache.prune(**limits) == 100 - len(stays)
    after = cache.statistics()
    assert left(cache) == stays
    assert after.entries == len(stays)
    assert after.misses == before.misses, "how it was used is not forgotten"
    assert after.bytes < len(stays) * 8192 + 40_000, "the disk has its room back"


def test_pruning_to_a_size_takes_the_oldest_and_no_more(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(cache, monkeypatch)
    assert cache.prune() == 0
    most = cache.statistics().bytes // 2
    removed = cache.prune(most_bytes=most)
    assert most - 3 * 8192 < cache.statistics().bytes <= most
    assert left(cache) == list(range(100 - removed)), "the newest stay"


def test_others_go_on_after_pruning(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Cache(filled(cache, monkeypatch).path)
    assert left(other) == list(range(100))
    cache.prune(older_than_days=30)
    assert left(other) == list(range(30))
    other.put("new", YES, "e")
    assert cache.get(["new"]) == {"new": YES}


# several at once


def test_processes_that_start_and_write_at_once(cache: Cache) -> None:
    """Four open a file that is not there yet; their numbers overlap by half."""
    writers = [writer(cache.path, f"engine {number % 2}", number * 50, number * 50 + 100) for number in range(4)]
    for process in writers:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors, len(output.split())) == (0, "", 100)
    assert len(cache.get([f"key {number}" for number in range(250)])) == 250
    found = cache.statistics()
    assert (found.entries, found.hits, found.misses) == (250, 250, 400)


def test_threads_of_one_cache(cache: Cache) -> None:
    def work(number: int) -> bool:
        cache.put(f"k{number}", Completion(str(number), "end"), "e")
        return cache.get([f"k{number}"]) == {f"k{number}": Completion(str(number), "end")}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert cache.statistics().hits == 200


def _use_in_child(cache: Cache, done: Any) -> None:
    inherited = cache._connection
    cache.put("child", YES, "e")
    done.put((sorted(cache.get(["parent", "child"])), cache._connection is inherited))
    cache.close()


def test_a_forked_process_has_a_connection_of_its_own(cache: Cache) -> None:
    cache.put("parent", YES, "e")
    context = multiprocessing.get_context("fork")
    done: Any = context.Queue()
    child = context.Process(target=_use_in_child, args=(cache, done))
    child.start()
    assert done.get(timeout=60) == (["child", "parent"], False)
    child.join(60)
    assert child.exitcode == 0
    assert sorted(cache.get(["parent", "child"])) == ["child", "parent"]


def test_killed_in_the_middle_of_writing(cache: Cache) -> None:
    """Five processes, each killed at a random moment: every write that had returned is there, and whole."""
    draw = random.Random(0)
    written: set[int] = set()
    for number in range(5):
        process = writer(cache.path, "e", number * 10_000, (number + 1) * 10_000)
        assert process.stdout is not None
        written |= {int(process.stdout.readline()) for _ in range(draw.randint(1, 150))}
        time.sleep(draw.random() / 100)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()  # not communicate, which would pass by what readline has read ahead
        process.wait()
        written |= {int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")}
        assert process.returncode == -signal.SIGKILL, "it was still writing"
    found = cache.get([f"key {number}" for number in written])
    assert len(found) == len(written) >= 5
    assert all(
        answer.text == f"{key.split()[1]} " + "x" * 2000
        for key, answer in found.items()
        if isinstance(answer, Completion)
    )
    with sqlite3.connect(cache.path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_lock_that_is_not_let_go(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("k", YES, "e")
    cache.close()
    monkeypatch.setattr(cache_module, "BUSY_SECONDS", 0.2)
    holder = sqlite3.connect(cache.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked"):
        cache.put("l", YES, "e")
    holder.execute("ROLLBACK")
    cache.put("l", YES, "e")
    assert set(cache.get(["k", "l"])) == {"k", "l"}
    holder.close()


def test_a_reader_is_not_held_up_by_a_writer(cache: Cache) -> None:
    cache.put("k", YES, "e")
    assert sqlite3.connect(cache.path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_lock_on_a_new_file_is_waited_for(cache: Cache) -> None:
    """What another process does that makes the same file a cache at this moment."""
    cache.path.parent.mkdir()
    holder = sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: holder.execute("ROLLBACK")).start()
    cache.put("k", YES, "e")
    assert cache.get(["k"]) == {"k": YES}
    holder.close()


def test_a_short_lock_is_waited_for(cache: Cache) -> None:
    cache.put("k", YES, "e")
    holder = sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: holder.execute("COMMIT")).start()
    cache.put("l", YES, "e")
    assert set(cache.get(["k", "l"])) == {"k", "l"}
    holder.close()


# what can be wrong with the file


def use_all(cache: Cache) -> list[Any]:
    return [
        lambda: cache.get(["k"]),
        lambda: cache.put("k", YES, "e"),
        lambda: cache.statistics(),
        lambda: cache.prune(older_than_days=1),
    ]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_text("id,text\n1,hello\n" * 100)
    for use in use_all(Cache(path)):
        with pytest.raises(UserError, match="no cache of answers") as raised:
            use()
        assert "Move it away" in raised.value.fix
    assert path.read_text().startswith("id,text"), "it is not touched"


def test_the_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE answers (question TEXT)")
    database.close()
    for use in use_all(Cache(path)):
        with pytest.raises(UserError, match="another program"):
            use()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("answers",)]
    database.close()


def test_a_damaged_cache(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(cache, monkeypatch).close()
    content = bytearray(cache.path.read_bytes())
    content[8192:-4096] = b"\x5a" * (len(content) - 12288)
    cache.path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        cache.get([f"day {days}" for days in range(100)])


@pytest.mark.parametrize("value", ["no json", "[]", '{"kind": "Nothing"}', '{"kind": "Completion", "color": 1}'])
def test_a_damaged_entry(cache: Cache, value: str) -> None:
    cache.put("k", YES, "e")
    with sqlite3.connect(cache.path) as database:
        database.execute("UPDATE answers SET value = ?", (value,))
    database.close()
    with pytest.raises(UserError, match="cannot be read"):
        cache.get(["k"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in use_all(Cache(tmp_path / "file" / "answers.sqlite")):
        with pytest.raises(UserError, match="cannot write to") as raised:
            use()
        assert "CAMELID_CACHE" in raised.value.fix


def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read or write"):
        Cache(tmp_path).get(["k"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_only_be_read(cache: Cache) -> None:
    cache.put("k", YES, "e")
    cache.close()
    cache.path.chmod(0o444)
    with pytest.raises(UserError, match="cannot read or write"):
        cache.put("l", YES, "e")


def test_a_full_disk(cache: Cache) -> None:
    """No file may grow beyond 1 MB: the writer ends with the sentence, and what it had written is there."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(cache.path), "e", "0", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "UserError: cannot read or write" in errors
    assert "Make room" in errors
    written = output.split()
    assert 10 < len(written) < 1000
    assert len(cache.get([f"key {number}" for number in written])) == len(written)
    cache.put("more", YES, "e")
    assert cache.get(["more"]) == {"more": YES}


def test_a_key_that_is_no_text_is_the_callers_mistake(cache: Cache) -> None:
    with pytest.raises(sqlite3.ProgrammingError):
        cache.get([object()])  # type: ignore[list-item]
