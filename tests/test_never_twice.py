"""A job of many calls to a counting server, killed at random moments: each row once, no finished call sent again."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from camelid.rows import iterate_rows

JOB = """
import sys
from pathlib import Path
from camelid import annotation, recipe, runs
from camelid.engines.cache import Cache
from camelid.engines.remote import RemoteEngine
from camelid.parsing import parse_number
from camelid.rows import Labelled

folder, url, cache, count = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
values = recipe.Engine(kind="remote", url=url, name="counting", api="completions", concurrency=4)
engine = RemoteEngine(values, cache=Cache(cache))
rows = (Labelled(str(n), f"line {n}", f"Say {n}.", "") for n in range(count))
judge = lambda taken: annotation.annotate(engine, taken, lambda row: row.text, parse_number(0, count), what="")
opened = runs.reopen_run(folder) if (folder / "manifest.json").exists() else runs.open_run(
    folder, recipe=recipe.Recipe(), method="ls-llama", command=["test"]
)
with opened as run:
    run.map("judged", rows, judge, chunk=16)
"""


class Server(ThreadingHTTPServer):
    """Answers "Say 7." with "7" and counts how often it was asked what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.asked[body["prompt"]] += 1
        time.sleep(0.01)
        text = body["prompt"].removeprefix("Say ").removesuffix(".")
        choices = [{"text": text, "finish_reason": "stop"}]
        reply = json.dumps({"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *values: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def finished(cache: Path) -> int:
    """Answers that are kept."""
    if not cache.exists():
        return 0
    with sqlite3.connect(cache, timeout=10) as database:
        return database.execute("SELECT COUNT(*) FROM answers").fetchone()[0]


@pytest.mark.parametrize(("calls", "kills"), [(120, 3), pytest.param(500, 10, marks=pytest.mark.effects)])
def test_killed_at_random_moments(calls: int, kills: int, server: Server, tmp_path: Path) -> None:
    folder, cache = tmp_path / "run", tmp_path / "answers.sqlite"
    command = [sys.executable, "-c", JOB, str(folder), server.url, str(cache), str(calls)]
    resent = 0
    for kill_at in sorted(random.sample(range(1, calls - 20), kills)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and server.asked.total() - resent < kill_at:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # what was under way at the server is over
        kept = finished(cache)
        lost = len(server.asked) - kept
        assert 0 <= lost <= 8, "only what was under way, or being written, at the kill"
        resent += lost
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(iterate_rows(folder / "judged.jsonl"))
    assert [(row.id, row.value) for row in rows] == [(str(number), number) for number in range(calls)]
    assert len(server.asked) == calls
    assert server.asked.total() <= calls + resent, "no call that was answered and kept is sent again"
