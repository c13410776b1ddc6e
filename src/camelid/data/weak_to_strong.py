"""GSM8K questions with the gold answer and the answer of a weaker model, LLaMA-2-7B or Mistral-7B, as pairs.

The gold answers are GSM8K's (MIT) without their calculator marks; the weak ones were released with Yang 2024
(arXiv 2407.13647; no licence file). The gold answer is the chosen one, whether or not the weak one reaches the same
result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Message, Preference

ROW = Preference
SPLITS = {"train": "llama2_7b-weak-train", "mistral": "mistral_7b-weak-train"}
CALCULATOR = re.compile(r"<<[^>]*>>")


def read(split: str, dropped: Counter[str]) -> Iterator[Preference]:
    """Every question that has both answers; pairs of equal answers are counted in `dropped`."""
    gold = {
        values["question"]: CALCULATOR.sub("", values["answer"])
        for _, values in read_local("gsm8k", "train", source="github.com/openai/grade-school-math")
    }
    table = read_local("weak-to-strong", split, source="github.com/GAIR-NLP/weak-to-strong-reasoning")
    for origin, values in table:
        question = values["question"].removeprefix("Question: ").removesuffix("\nAnswer:")
        if question not in gold:
            dropped["questions that GSM8K does not have"] += 1
        elif gold[question] == values["answer"]:
            dropped["equal answers"] += 1
        else:
            prompt = (Message("user", question),)
            yield Preference(str(values["id"]), origin, prompt, gold[question], values["answer"])
