"""Scoring and sampling side by side with what one would write with transformers, on the embedded model in float32.

    python bench/engines.py [--rounds 5] [--only NAME ...]

Each measurement is a process of its own and times only the work. Rows are those of CAMELID_DATA. Contestants:
    guard-128, guard-512  60 prompts, cut at so many tokens, behind a policy of about 600 tokens, "safe" against
                          "unsafe"; theirs is length-sorted batches of 8 of the full prompts
    pairs                 60 pairs of answers to conversations; theirs scores each conversation and answer as a whole
    sample                64 prompts of 10 to 400 tokens, 16 to 128 new tokens each, greedy; theirs are left-padded
                          batches of 8, 16 and 64 with generate, and the best of them counts
    sample-llama.cpp      the same prompts in llama.cpp with continuous batches of its own, on the GGUF file our weights
                          come from; a reference: its weights stay in 4 bits. Needs pip install 'camelid[llama-cpp]'
    annotate              labels for 10 times the tweets, streamed through a run, against labels for 200: the ratio of
                          rows a second should be 1, and the memory the same
Writes JSON lines to bench/results.jsonl and the table in docs/engines.md.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import paired

POLICY_TOKENS = 600
PAGE = paired.DOCS / "engines.md"


def guard_questions(tokens: int) -> list[Any]:
    """The moderation prompts, cut, behind a long policy."""
    from camelid import bases, data, guard
    from camelid.engines import Question
    from camelid.policy import Policy, read_policy
    from camelid.reading import cut_texts
    from camelid.rows import Labelled, Message

    tokenizer = bases.open_base("smollm2-135m").tokenizer
    known = [
        category for name in ("six-categories", "moderation", "hazards") for category in read_policy(name).categories
    ]
    policy = next(
        policy
        for policy in (Policy(tuple(known[:most])) for most in range(1, len(known) + 1))
        if len(tokenizer(policy.write(descriptions=True))["input_ids"]) >= POLICY_TOKENS
    )
    rows = data.read_rows("moderation:dev")[::5]
    texts = cut_texts(tokenizer, [Labelled(r.id, r.origin, r.messages[-1].content, "") for r in rows], tokens)
    prompts = [guard.write_prompt(policy, (Message("user", text),), descriptions=True) for text in texts]
    return [Question(prompt, (guard.SAFE, guard.UNSAFE)) for prompt in prompts]


def pair_questions() -> list[Any]:
    """Conversations of at most 400 tokens with the two answers people compared."""
    from camelid import data
    from camelid.engines import Question

    rows = [row for row in data.read_rows("hh-harmless:dev") if sum(len(turn.content) for turn in row.prompt) < 1600]
    return [Question(row.prompt, (row.chosen, row.rejected), ended=True) for row in rows[:60]]


def sampling_requests() -> list[Any]:
    """64 beginnings of moderation prompts, repeated to length, with limits drawn like their lengths."""
    from camelid import bases, data
    from camelid.engines import Request, Sampling

    tokenizer = bases.open_base("smollm2-135m").tokenizer
    draw = random.Random(0)
    texts = [row.messages[-1].content for row in data.read_rows("moderation")]
    pool = tokenizer(" ".join(texts))["input_ids"]
    requests = []
    for _ in range(64):
        start, length = draw.randrange(len(pool) - 400), draw.randrange(10, 401)
        text = tokenizer.decode(pool[start : start + length])
        requests.append(Request(text, Sampling(max_tokens=draw.randrange(16, 129))))
    return requests


def load() -> tuple[Any, Any]:
    """The model in float32, and its tokenizer."""
    from camelid import bases

    base = bases.open_base("smollm2-135m")
    return bases.load_lm(base, "float32"), base.tokenizer


def score_ours(questions: Sequence[Any], value_of: Callable[[Any], list[float]]) -> dict[str, Any]:
    from camelid.engines.local import LocalEngine
    from camelid.scoring import score

    engine = LocalEngine(*load())
    started = time.perf_counter()
    found = score(engine, questions)
    seconds = time.perf_counter() - started
    return {"rate": len(questions) / seconds, "seconds": seconds, "sums": [value_of(one) for one in found]}


def first_tokens(found: Any) -> list[float]:
    """Log-probs of the answers' first tokens, which a guard's score is made of."""
    return [values[0] for values in found.logprobs]


def score_theirs(questions: Sequence[Any]) -> dict[str, Any]:
    """Every prompt with every answer as a row, sorted by length, right-padded in batches of 8."""
    import torch

    from camelid import chat

    model, tokenizer = load()
    started = time.perf_counter()
    rows = []
    for number, question in enumerate(questions):
        before = chat.encode_prompt(tokenizer, question.prompt)
        for place, answer in enumerate(question.answers):
            after = chat.encode_answer(tokenizer, question.prompt, answer, ended=question.ended)
            rows.append((number, place, [*before, *after], len(before)))
    rows.sort(key=lambda row: len(row[2]))
    sums: list[list[float]] = [[0.0] * len(question.answers) for question in questions]
    with torch.inference_mode():
        for start in range(0, len(rows), 8):
            part = rows[start : start + 8]
            longest = max(len(ids) for _, _, ids, _ in part)
            ids_BT = torch.zeros(len(part), longest, dtype=torch.long)
            for line, (_, _, ids, _) in enumerate(part):
                ids_BT[line, : len(ids)] = torch.tensor(ids)
            hidden_BTD = model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
            for line, (number, place, ids, first) in enumerate(part):  # logits only where something is scored
                logits = model.get_output_embeddings()(hidden_BTD[line, first - 1 : len(ids) - 1]).float()
                chosen = logits.log_softmax(dim=-1).gather(1, torch.tensor(ids[first:])[:, None])
                sums[number][place] = chosen.sum().item()
    seconds = time.perf_counter() - started
    return {"rate": len(questions) / seconds, "seconds": seconds, "sums": sums}


def score_prompts_once(questions: Sequence[Any]) -> dict[str, Any]:
    """One row a prompt: the first tokens of all answers are read behind it. What one writes for a guard."""
    import torch

    from camelid import chat

    model, tokenizer = load()
    started = time.perf_counter()
    answers = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in questions[0].answers]
    rows = sorted(
        ((number, chat.encode_prompt(tokenizer, one.prompt)) for number, one in enumerate(questions)),
        key=lambda row: len(row[1]),
    )
    sums: list[Any] = [None] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(rows), 8):
            part = rows[start : start + 8]
            longest = max(len(ids) for _, ids in part)
            ids_BT = torch.zeros(len(part), longest, dtype=torch.long)
            for line, (_, ids) in enumerate(part):
                ids_BT[line, : len(ids)] = torch.tensor(ids)
            last_B = torch.tensor([len(ids) - 1 for _, ids in part])
            hidden_BTD = model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden_BTD[torch.arange(len(part)), last_B]).float()
            for (number, _), values in zip(part, logits.log_softmax(dim=-1)[:, answers].tolist(), strict=True):
                sums[number] = values
    seconds = time.perf_counter() - started
    return {"rate": len(rows) / seconds, "seconds": seconds, "sums": sums}


def sample_ours(batching: str) -> dict[str, Any]:
    from camelid.engines.local import LocalEngine

    model, tokenizer = load()
    requests = sampling_requests()
    engine = LocalEngine(model, tokenizer, batching=batching)  # type: ignore[arg-type]
    engine.ends = set()  # everybody writes as many tokens as were asked for
    started = time.perf_counter()
    found = dict(engine.complete(requests))
    seconds = time.perf_counter() - started
    written = sum(one.completion_tokens for one in found.values())
    return {"rate": written / seconds, "seconds": seconds, "tokens": [found[at].token_ids for at in range(len(found))]}


def sample_theirs(rows: int) -> dict[str, Any]:
    """Left-padded batches, in the order of the requests, each as long as its longest."""
    import torch

    model, tokenizer = load()
    tokenizer.padding_side = "left"
    requests = sampling_requests()
    started = time.perf_counter()
    tokens = []
    for start in range(0, len(requests), rows):
        part = requests[start : start + rows]
        batch = tokenizer([one.prompt for one in part], return_tensors="pt", padding=True)
        most = max(one.sampling.max_tokens for one in part)
        with torch.inference_mode():
            output: Any = model.generate(**batch, max_new_tokens=most, min_new_tokens=most, do_sample=False)
        for one, ids in zip(part, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            tokens.append(ids[: one.sampling.max_tokens])
    seconds = time.perf_counter() - started
    return {"rate": sum(map(len, tokens)) / seconds, "seconds": seconds, "tokens": tokens}


def sample_llama_cpp() -> dict[str, Any]:
    """All prompts at once as sequences of one context: whoever is done leaves, every step decodes a token of each."""
    import importlib

    import numpy as np

    from camelid import bases, chat

    llama_cpp: Any = importlib.import_module("llama_cpp")
    tokenizer = bases.open_base("smollm2-135m").tokenizer
    requests = sampling_requests()
    prompts = [chat.encode_prompt(tokenizer, one.prompt) for one in requests]
    limits = [one.sampling.max_tokens for one in requests]
    llama_cpp.llama_backend_init()
    loading = llama_cpp.llama_model_default_params()
    loading.use_extra_bufts = False  # its AMX products of this 4-bit format end in a segmentation fault
    model = llama_cpp.llama_model_load_from_file(str(bases.find_embedded()).encode(), loading)
    words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    options = llama_cpp.llama_context_default_params()
    options.n_seq_max, options.n_batch, options.n_ubatch, options.kv_unified = len(requests), 2048, 512, True
    options.n_ctx = sum(map(len, prompts)) + sum(limits)
    options.n_threads = options.n_threads_batch = torch_threads()
    context = llama_cpp.llama_init_from_model(model, options)
    batch = llama_cpp.llama_batch_init(2048, 0, 1)
    written: list[list[int]] = [[] for _ in requests]

    def run(fed: list[tuple[int, int, int, bool]]) -> None:
        """Feed (sequence, position, token, whether to read behind it), and write the likeliest token of each read."""
        for start in range(0, len(fed), 2048):
            part = fed[start : start + 2048]
            for place, (number, position, token, reads) in enumerate(part):
                batch.token[place], batch.pos[place], batch.logits[place] = token, position, reads
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, number
            batch.n_tokens = len(part)
            assert llama_cpp.llama_decode(context, batch) == 0
            for place, (number, _, _, reads) in enumerate(part):
                if reads:
                    logits_V = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, place), (words,))
                    written[number].append(int(logits_V.argmax()))

    started = time.perf_counter()
    run(
        [
            (number, place, token, place == len(ids) - 1)
            for number, ids in enumerate(prompts)
            for place, token in enumerate(ids)
        ]
    )
    while left := [number for number, tokens in enumerate(written) if len(tokens) < limits[number]]:
        run([(number, len(prompts[number]) + len(written[number]) - 1, written[number][-1], True) for number in left])
    seconds = time.perf_counter() - started
    return {"rate": sum(map(len, written)) / seconds, "seconds": seconds, "tokens": written}


def torch_threads() -> int:
    """As many threads as everybody else here uses."""
    import torch

    return torch.get_num_threads()


def annotate_rows(rows: int) -> dict[str, Any]:
    """Sentiments of tweets by the likeliest label, chunk by chunk into a file, as `camelid run` does for an archive."""
    import tempfile
    from pathlib import Path

    from camelid import annotation, data, runs
    from camelid.chat import converse
    from camelid.engines.local import LocalEngine
    from camelid.recipe import Recipe
    from camelid.rows import iterate_rows, write_rows

    engine = LocalEngine(*load())
    labels = {name: name for name in ("negative", "neutral", "positive")}
    ask = "Is this tweet negative, neutral or positive?\n\n"

    def judge(chunk: Sequence[Any]) -> list[Any]:
        return annotation.choose(engine, chunk, lambda row: converse(ask + row.text), labels, what="")

    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.jsonl"
        assert write_rows(archive, data.read_rows("crowd-tweets")[:rows]) == rows
        started = time.perf_counter()
        with runs.open_run(Path(folder) / "run", recipe=Recipe(), method="annotate", command=[]) as run:
            run.map("labels", iterate_rows(archive), judge, total=rows)
        seconds = time.perf_counter() - started
    return {"rate": rows / seconds, "seconds": seconds}


CONTESTANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "guard-128-ours": lambda: score_ours(guard_questions(128), first_tokens),
    "guard-128-theirs": lambda: score_prompts_once(guard_questions(128)),
    "guard-512-ours": lambda: score_ours(guard_questions(512), first_tokens),
    "guard-512-theirs": lambda: score_prompts_once(guard_questions(512)),
    "pairs-ours": lambda: score_ours(pair_questions(), lambda one: one.sums),
    "pairs-theirs": lambda: score_theirs(pair_questions()),
    "sample-plain": lambda: sample_ours("plain"),
    "sample-continuous": lambda: sample_ours("continuous"),
    "sample-theirs-8": lambda: sample_theirs(8),
    "sample-theirs-16": lambda: sample_theirs(16),
    "sample-theirs-64": lambda: sample_theirs(64),
    "sample-llama.cpp": sample_llama_cpp,
    "annotate-1": lambda: annotate_rows(200),
    "annotate-10": lambda: annotate_rows(2000),
}
COMPARISONS = {
    "guard-128": ("guard prompts/s, policy of 600 tokens, texts to 128 tokens", ["guard-128-theirs"]),
    "guard-512": ("guard prompts/s, policy of 600 tokens, texts to 512 tokens", ["guard-512-theirs"]),
    "pairs": ("pairs of answers/s against whole sequences in batches of 8", ["pairs-theirs"]),
    "sample": ("sampled tokens/s against the best of generate in batches of 8, 16, 64", [
        "sample-theirs-8", "sample-theirs-16", "sample-theirs-64"
    ]),
    "sample-llama.cpp": ("sampled tokens/s against llama.cpp on the 4-bit file (reference)", ["sample-llama.cpp"]),
    "annotate": ("labelled rows/s of 2,000 rows against 200 rows", ["annotate-1"]),
}  # fmt: skip
OURS = {name: f"{name}-ours" for name in ("guard-128", "guard-512", "pairs")} | {
    "sample": "sample-plain", "sample-llama.cpp": "sample-plain", "annotate": "annotate-10"
}  # fmt: skip
ALIKE = {"guard-128": 1e-4, "guard-512": 1e-4, "pairs": 1e-2}  # largest difference of a score, in nats
REFERENCES = {"sample-llama.cpp"}  # nobody's claim, and other weights: whoever wins


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest difference of a score, or the share of completions that are not the same tokens."""
    if "sums" in ours:
        flat = lambda found: [value for sums in found["sums"] for value in sums]  # noqa: E731
        return max(abs(one - other) for one, other in zip(flat(ours), flat(theirs), strict=True))
    return sum(list(one) != list(other) for one, other in zip(ours["tokens"], theirs["tokens"], strict=True)) / len(
        ours["tokens"]
    )


def summarise(name: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    what, others = COMPARISONS[name]
    best = [max((found[other] for other in others), key=lambda one: one["rate"]) for found in rounds]
    pairs = [(found[OURS[name]], other) for found, other in zip(rounds, best, strict=True)]
    facts: dict[str, Any] = {"reference": True} if name in REFERENCES else {}
    if name != "annotate":
        facts["difference"] = max(difference(*pair) for pair in pairs)
    if name in ALIKE and facts["difference"] > ALIKE[name]:
        raise SystemExit(f"{name}: scores differ by {facts['difference']:.1e}, more than {ALIKE[name]:.0e}")
    return paired.compare(what, pairs, **facts)


def write_page() -> None:
    """The newest result of each comparison, as the table in docs/engines.md."""
    lines = [
        "| machine | comparison | ours | theirs | ratio (median, range) | pairs | peak MB | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in paired.newest([what for what, _ in COMPARISONS.values()]):
        ratio = f"**{line['ratio_median']:.2f}** ({line['ratio_min']:.2f} to {line['ratio_max']:.2f})"
        peak = " / ".join(f"{value:.0f}" for value in line["peak_mb"])
        cells = [line["machine"], line["name"], f"{line['ours']:.1f}", f"{line['theirs']:.1f}", ratio]
        apart = f"{line['difference']:.2g}" if "difference" in line else ""
        lines.append(f"| {' | '.join([*cells, str(line['pairs']), peak, apart])} |")
    paired.write_between(PAGE, "speed", "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(COMPARISONS), choices=list(COMPARISONS))
    parser.add_argument("--anyway", action="store_true", help="run on a loaded machine too")
    parser.add_argument("--seed", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return paired.report_result(CONTESTANTS[options.work]())
    paired.check_quiet(options.anyway)
    names = list(dict.fromkeys(name for one in options.only for name in (OURS[one], *COMPARISONS[one][1])))
    rounds = paired.run_rounds(__file__, names, options.rounds, [])
    paired.keep([summarise(name, rounds) for name in options.only])
    return write_page()


if __name__ == "__main__":
    main()
