"""The remote engine and a real server: `transformers serve` on loopback with the embedded model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from camelid import bases, recipe
from camelid.chat import converse
from camelid.engines import Request, Sampling
from camelid.engines.local import LocalEngine
from camelid.engines.remote import RemoteEngine
from camelid.errors import UserError

pytestmark = pytest.mark.real

STARTS_WITHIN = 120.0  # seconds
QUESTIONS = [converse(f"What is the capital of {country}?") for country in ("France", "Italy", "Spain", "Peru")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and model name of a server that lives as long as the tests of this file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log: Path = tmp_path_factory.mktemp("server") / "log"
    source = bases.open_base("smollm2-135m").source
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", source, "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(int(STARTS_WITHIN / 0.2)):
            if server.poll() is not None or is_up(port):
                break
            time.sleep(0.2)
        assert server.poll() is None, log.read_text()
        assert is_up(port), log.read_text()
        yield f"http://127.0.0.1:{port}/v1", source
    finally:
        server.terminate()
        server.wait(timeout=30)


def is_up(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=1.0).status_code == 200
    except httpx2.TransportError:
        return False


def remote(served: tuple[str, str], **values: object) -> RemoteEngine:
    url, name = served
    given = {"kind": "remote", "url": url, "name": name, "concurrency": 2} | values
    return RemoteEngine(recipe.Engine.model_validate(given))


def test_it_says_what_the_local_model_says(served: tuple[str, str]) -> None:
    """Greedy, in float32: chats through the server's template and raw text, and the tokens that the server counts."""
    base = bases.open_base("smollm2-135m")
    local = LocalEngine(bases.load_lm(base, "float32"), base.tokenizer)
    requests = [Request(question, Sampling(max_tokens=12)) for question in QUESTIONS]
    requests.append(Request("The capital of France is", Sampling(max_tokens=8)))
    there = remote(served)
    found, wanted = dict(there.complete(requests)), dict(local.complete(requests))
    for place in range(len(requests)):
        assert found[place].problem == ""
        assert found[place].text.strip() == wanted[place].text.strip()
        assert found[place].prompt_tokens == wanted[place].prompt_tokens
    assert there.ledger.requests == len(requests)
    assert there.ledger.guessed == 0


def test_an_address_without_the_interface_ends_the_run(served: tuple[str, str]) -> None:
    wrong = served[0].removesuffix("/v1") + "/v2", served[1]
    with pytest.raises(UserError, match="does not exist or has no model"):
        list(remote(wrong).complete([Request(QUESTIONS[0], Sampling(max_tokens=4))]))


def test_it_cannot_score_and_says_so(served: tuple[str, str]) -> None:
    assert remote(served, api="completions").probe() == frozenset(("sample",))
