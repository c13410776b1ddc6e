"""A two-worker Ray cluster on this machine: the answers of one process, also when a worker is killed.

Needs Ray: pip install 'camelid[ray]'.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from camelid.engines import Question, Sampling, open_engine
from camelid.recipe import Engine, Model
from camelid.sampling import sample
from camelid.scoring import score

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.effects]
PROMPTS = [f"Number {number} of many, and it is" for number in range(200)]
SAMPLING = Sampling(max_tokens=24, temperature=1.0)


def engines(tiny_model: Path) -> tuple[Any, Any]:
    values = Engine(batching="plain", precision="float32", cache=False)
    model = Model(base=str(tiny_model))
    return open_engine(values, model), open_engine(values.model_copy(update={"ray": "auto"}), model)


def kill_a_worker(killed: list[int], seconds: float) -> None:
    """Kill -9 one of the processes in which an engine answers, some seconds after it began."""
    while not killed:
        time.sleep(0.2)
        names = {one.pid: " ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])}
        if workers := [pid for pid, name in names.items() if "ray::" in name and "Map" in name]:
            time.sleep(seconds)
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])


def assert_same(found: Any, wanted: Any) -> None:
    """The same tokens in the same order; log-probabilities up to the rounding of other batches."""
    for one, other in zip(found, wanted, strict=True):
        assert [completion.token_ids for completion in one] == [completion.token_ids for completion in other]
        for left, right in zip(one, other, strict=True):
            assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)


def test_a_cluster_answers_as_one_process(tiny_model: Path) -> None:
    alone, cluster = engines(tiny_model)
    assert_same(sample(cluster, PROMPTS, SAMPLING, seed=3), sample(alone, PROMPTS, SAMPLING, seed=3))
    questions = [Question(prompt, (" odd", " even")) for prompt in PROMPTS]
    for one, other in zip(score(cluster, questions), score(alone, questions), strict=True):
        assert one.sums == pytest.approx(other.sums, abs=1e-4)


def test_a_killed_worker_loses_nothing(tiny_model: Path) -> None:
    alone, cluster = engines(tiny_model)
    many = [f"{prompt} {again}" for again in range(10) for prompt in PROMPTS]
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(killed, 2.0), daemon=True)
    killer.start()
    found = sample(cluster, many, SAMPLING, seed=3)
    assert killed, "the job ended before a worker was killed"
    assert_same(found, sample(alone, many, SAMPLING, seed=3))
