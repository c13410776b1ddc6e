"""Small problems with written reasoning, made by templates of ours: sums, orders, programs, and what sort a thing is.

They need no file and no network. They teach a model to write the steps between a question and its answer, and show the
way; rows that people wrote (gsm8k) teach it more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

from camelid.rows import Reasoned

ROW = Reasoned
SPLITS = {"train": "train", "test": "test"}
SIZES = {"train": 4000, "test": 400}
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jon")
WARES = ("apples", "pens", "stamps", "tickets", "buttons", "candles", "postcards", "marbles")
TRAITS = ("taller", "older", "faster", "louder", "stronger")
SORTS = {
    "animal": (("otter", "swims and eats fish"), ("hen", "lays eggs"), ("goat", "climbs and eats grass"),
               ("owl", "hunts at night"), ("bee", "visits flowers")),
    "tool": (("saw", "cuts wood"), ("hammer", "drives nails"), ("spade", "turns earth"), ("drill", "makes holes"),
             ("file", "smooths edges")),
    "food": (("soup", "is eaten hot"), ("bread", "is baked from flour"), ("rice", "is boiled and eaten"),
             ("cheese", "is made from milk"), ("plum jam", "is spread on toast")),
    "vehicle": (("tram", "runs on rails and takes people along"), ("bicycle", "is ridden on two wheels"),
                ("ferry", "carries people over water"), ("van", "carries goods by road"),
                ("sledge", "slides over snow with its load")),
}  # fmt: skip
NOTES = ("We saw {} on Monday.", "There was {} behind the house.", "My aunt drew {}.", "He told me about {}.")
Problem = tuple[str, str, str]


def read(split: str, dropped: Counter[str]) -> Iterator[Reasoned]:
    """The problems of the split, always the same ones; a question that stands in train is not in test."""
    seen = {question for question, *_ in _draw("train")} if split == "test" else set()
    for number, (question, answer, reasoning) in enumerate(_draw(split)):
        if question not in seen:
            yield Reasoned(str(number), f"puzzles {split} {number + 1}", question, answer, reasoning)


def _draw(split: str) -> Iterator[Problem]:
    draw = random.Random(f"puzzles {split}")
    for number in range(SIZES[split]):
        yield MAKERS[number % len(MAKERS)](draw)


def _sum(draw: random.Random) -> Problem:
    name, wares = draw.choice(NAMES), draw.choice(WARES)
    first, more = draw.randint(3, 60), draw.randint(2, 40)
    less = draw.randint(1, first + more - 1)
    both, left = first + more, first + more - less
    question = f"{name} has {first} {wares}, buys {more} more and gives {less} away. How many {wares} are left?"
    steps = f"{name} begins with {first} {wares}. Buying {more} more makes {first} + {more} = {both}."
    return question, str(left), f"{steps} Giving {less} away leaves {both} - {less} = {left}."


def _order(draw: random.Random) -> Problem:
    first, second, third = draw.sample(NAMES, 3)
    trait = draw.choice(TRAITS)
    told = draw.sample([f"{first} is {trait} than {second}.", f"{second} is {trait} than {third}."], 2)
    question = f"{' '.join(told)} Who is {trait} than both others?"
    steps = f"{first} is {trait} than {second}, and {second} is {trait} than {third}."
    return question, first, f"{steps} So {first} is {trait} than {third} too, and nobody is {trait} than {first}."


def _program(draw: random.Random) -> Problem:
    name, start, factor, more = draw.choice("abnxy"), draw.randint(2, 12), draw.randint(2, 5), draw.randint(1, 9)
    question = f"What does this program print?\n{name} = {start}\n{name} = {name} * {factor}\nprint({name} + {more})"
    steps = f"At first {name} is {start}. Times {factor} that is {start * factor}."
    result = start * factor + more
    return question, str(result), f"{steps} The last line adds {more}, and {start * factor} + {more} = {result}."


def _sort(draw: random.Random) -> Problem:
    sorts = draw.sample(list(SORTS), 3)
    sort = draw.choice(sorts)
    thing, does = draw.choice(SORTS[sort])
    article = "an" if thing[0] in "aeiou" else "a"
    named = thing if sort == "food" else f"{article} {thing}"
    question = f"Which of these sorts fits the text: {', '.join(sorts)}?\n\nText: {draw.choice(NOTES).format(named)}"
    others = " or ".join(other for other in sorts if other != sort)
    steps = f"The text names {named}. What it names {does}."
    return question, sort, f"{steps} That is true of the sort {sort}, and not of {others}."


MAKERS: tuple[Callable[[random.Random], Problem], ...] = (_sum, _order, _program, _sort)
