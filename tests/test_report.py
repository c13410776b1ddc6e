"""The report: every row here is made up, and every figure is worked by hand in its test."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from camelid.errors import UserError
from camelid.evaluation import evaluate
from camelid.metrics import aggregate_seeds
from camelid.report import split_verdict, write_report
from camelid.report.calibration import draw_reliability, judge_probabilities, undo_temperature, wilson_interval
from camelid.report.costs import cost_of_system, sum_costs
from camelid.report.curves import smooth, thin
from camelid.report.histograms import plot_numbers
from camelid.report.numbers import show_memory, show_number, show_p, show_score, show_seconds, show_signed
from camelid.report.plots import Axis, Column, Mark, draw_bar, draw_columns, draw_intervals, fit_axis
from camelid.report.residuals import describe_errors, spread_ratings, thin_pairs
from camelid.report.samples import name_classes, show_sample
from camelid.report.scores import Calibration
from camelid.report.sentences import Stretch, mark_entities
from camelid.rows import Labelled, Predicted, Row, Tagged, write_rows
from camelid.runs import slug

OURS = "label supervision"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</style></title></svg><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "😀 שלום \u202egnp.exe\u202c",
    "w" * 5000,
]
CONTROL = "bell\x07 null\x00 escape\x1b[31m half \ud83d c1\x9b"
VOID = {"meta", "link", "br", "img", "input"}
ELEMENTS = """html head meta link title style body main header h1 h2 h3 span bdi time p code div b small nav a section
    dl dt dd details summary pre ul ol li i table thead tbody tr th td footer svg line circle rect polyline g text"""


class Page(HTMLParser):
    """The elements of a page with their attributes, their texts, and the texts under any element chosen by a test."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[list[tuple[str, dict[str, str]]], str]] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(html)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((list(self._open), data))

    def text(self, tag: str, **attributes: str) -> list[str]:
        """The text of each element with this tag and these attributes, white space folded."""
        found: dict[int, list[str]] = {}
        for path, text in self.texts:
            for element in path:
                if element[0] == tag and all(element[1].get(name) == value for name, value in attributes.items()):
                    found.setdefault(id(element), []).append(text)
        return [" ".join("".join(parts).split()) for parts in found.values()]

    def under(self, **attributes: str) -> str:
        """All text under the elements with these attributes."""
        texts = [
            text
            for path, text in self.texts
            if any(all(each[1].get(name) == value for name, value in attributes.items()) for each in path)
        ]
        return " ".join(" ".join(texts).split())


def write_lines(path: Path, lines: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_run(
    folder: Path, splits: dict[str, list[Row]], predictions: dict[str, list[Predicted]], scores: Any, **manifest: Any
) -> Path:
    """A finished run folder as runs.py writes it."""
    (folder / "predictions").mkdir(parents=True)
    stages: dict[str, Any] = {}
    for name, rows in splits.items():
        stages[name] = {"path": f"{name}.jsonl", "sha256": "a" * 64, "rows": write_rows(folder / f"{name}.jsonl", rows)}
    for system, rows in predictions.items():
        name = f"predictions/{slug(system)}"
        stages[name] = {"path": f"{name}.jsonl", "sha256": "b" * 64, "rows": write_rows(folder / f"{name}.jsonl", rows)}
    stages["model"] = {"path": "model", "sha256": "c" * 64}
    stages["scores.held_out"] = {"path": "scores.json", "sha256": "d" * 64}
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    (folder / "recipe.toml").write_text(
        'pooling = "last"\n[model]\nbase = "tiny"\n[data]\ntrain = "boxes/shop.csv"\n[plan]\nepochs = 2\nseed = 7\n'
        'tuning = "lora"\nlora_rank = 4\n'
    )
    write_lines(
        folder / "model/metrics.jsonl",
        [
            {"step": n, "epoch": n / 4, "loss": 2.0 - n / 8, "accuracy": 0.5}
            | ({"dev": {"accuracy": n / 10, "macro_f1": n / 16}} if n % 4 == 0 else {})
            for n in range(1, 9)
        ],
    )
    write_lines(folder / "model/timings.jsonl", [{"step": n, "seconds": 0.5, "tokens": 100} for n in range(1, 9)])
    (folder / "model/handle.json").write_text(json.dumps({"base": "tiny", "base_sha256": "e" * 64, "precision": "x32"}))
    names = [f"predictions/{slug(system)}" for system in predictions]
    write_lines(
        folder / "timings.jsonl",
        [
            {"stage": name, "seconds": 1.5, "cpu_seconds": 2.0, "peak_memory_mb": 400.0}
            for name in ["train", *names, "model"]
        ],
    )
    values = {
        "method": "ls-llama",
        "command": ["camelid", "run", "ls-llama", "--data", "boxes/my shop.csv"],
        "started": "2026-11-25 04:10:30",
        "finished": True,
        "recipe_sha256": "f" * 64,
        "versions": {"camelid": "0.1.0"},
        "machine": {"system": "Linux", "threads": 2, "memory_gb": 23.5},
        "notes": {"data": {"dropped": {"train: no label": 3}, "warnings": ["4 test rows are also in train"]}},
        "stages": stages,
    }
    (folder / "manifest.json").write_text(json.dumps(values | manifest), encoding="utf-8")
    return folder


def label_run(
    folder: Path, classes: Sequence[str] = ("late", "broken"), texts: Sequence[str] = (), **more: Any
) -> Path:
    """Two rows a class and more; ours calls every third row the first class, the baseline all of them."""
    texts = [*texts, *(f"parcel {number}" for number in range(2 * len(classes)))]
    rows = [Labelled(str(n), f"shop.csv line {n + 2}", text, classes[n % len(classes)]) for n, text in enumerate(texts)]
    ours = [
        Predicted(row.id, row.label, said := (classes[0] if n % 3 else row.label), {said: 0.5 + n / (4 * len(rows))})
        for n, row in enumerate(rows)
    ]
    systems = {"majority class": [Predicted(row.id, row.label, classes[0], {}) for row in rows], OURS: ours}
    scores = more.pop("scores", None) or {"held_out": {"split": "test", **evaluate(systems, classes, OURS, "labels")}}
    splits: dict[str, list[Row]] = {"train": list(rows), "dev": list(rows[:2]), "test": list(rows)}
    return make_run(folder, splits, systems, scores, **more)


def tag_run(folder: Path) -> Path:
    """12 sentences; sentence n has n words that are persons and n % 4 of them are not found, but as places."""
    rows, ours = [], []
    for n in range(1, 13):
        gold = ("B-person", *["I-person"] * (n - 1), "O")
        found = (*["B-place"] * (n % 4), *["I-person"] * (n - n % 4), "O")
        rows.append(Tagged(str(n), f"notes line {n}", tuple(f"word{n}.{k}" for k in range(n + 1)), gold))
        ours.append(Predicted(str(n), gold, found, {}))
    classes = ["B-person", "I-person", "B-place", "O"]
    entry = {"split": "test", **evaluate({OURS: ours}, classes, OURS, "tags")}
    return make_run(folder, {"train": list(rows), "test": list(rows)}, {OURS: ours}, {"held_out": entry})


def set_run(folder: Path, classes: Sequence[str] = ("late", "broken", "praise"), text: str = "parcel") -> Path:
    """20 rows in turn with {0, 1}, {0}, {} and {0, 2} of the classes; ours is right but for rows 0 to 3.

    Row 0: {0} only, 1 is missing with 0.1. Row 1: {0, 2}, 2 is too much with 0.95. Row 2: {1} with 0.7. Row 3: {0}, 2
    is missing with 0.4.
    """
    labels = [tuple(classes[k] for k in ks) for ks in ([0, 1], [0], [], [0, 2])]
    rows = [Labelled(str(n), f"shop.csv line {n + 2}", f"{text} {n}", labels[n % 4]) for n in range(20)]
    said: dict[int, tuple[Any, Any]] = {
        0: ([0], [0.8, 0.1, 0.0]),
        1: ([0, 2], [0.9, 0.0, 0.95]),
        2: ([1], [0.0, 0.7, 0.0]),
        3: ([0], [0.6, 0.0, 0.4]),
    }
    ours = [
        Predicted(row.id, row.label, tuple(classes[k] for k in found), dict(zip(classes, shares, strict=True)))
        for n, row in enumerate(rows)
        for found, shares in [said.get(n, ([classes.index(name) for name in labels[n % 4]], [0.5] * 3))]
    ]
    none = [Predicted(row.id, row.label, (), {}) for row in rows]
    systems = {"majority class": none, OURS: ours}
    entry = {"split": "test", **evaluate(systems, classes, OURS, "multi-label")}
    return make_run(folder, {"train": list(rows), "test": list(rows[:4])}, systems, {"held_out": entry})


def number_run(folder: Path, text: str = "review") -> Path:
    """40 rows; row n has label n / 10, and ours says 1 too much where n is 7 or 20, 0.5 too little where n is 11, else
    0.1 too much."""
    gold = [n / 10 for n in range(40)]
    rows = [Labelled(str(n), f"shop.csv line {n + 2}", f"{text} {n}", value) for n, value in enumerate(gold)]
    errors = {7: 1.0, 20: 1.0, 11: -0.5}
    ours = [Predicted(str(n), value, value + errors.get(n, 0.1), {}) for n, value in enumerate(gold)]
    mean = [Predicted(str(n), value, 2.0, {}) for n, value in enumerate(gold)]
    systems = {"mean of the training rows": mean, OURS: ours}
    entry = {"split": "test", **evaluate(systems, [], OURS, "regression")}
    return make_run(folder, {"train": list(rows[::-1]), "test": list(rows)}, systems, {"held_out": entry})


def calibrated_run(folder: Path, **handle: Any) -> Path:
    """Six rows: ours said late with 0.8 and was right four times. Under temperature 2 that was 0.64 / 0.68 before."""
    rows = [Labelled(str(n), f"line {n}", f"parcel {n}", "late" if n < 4 else "broken") for n in range(6)]
    ours = [Predicted(row.id, row.label, "late", {"broken": 0.2, "late": 0.8}) for row in rows]
    sure = [Predicted(row.id, row.label, "late", {"broken": 0.0, "late": 1.0}) for row in rows]
    bare = [Predicted(row.id, row.label, "late", {}) for row in rows]
    systems = {"sure": sure, "bare": bare, OURS: ours}
    entry = {"split": "test", **evaluate(systems, ["broken", "late"], OURS, "labels")}
    make_run(folder, {"train": list(rows), "test": list(rows)}, systems, {"held_out": entry})
    change(folder / "model/handle.json", **handle)
    return folder


def seeds_entry(values: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "systems": {
            name: {"seeds": list(range(len(each))), "values": each, "mean": aggregate_seeds(each).as_dict()}
            for name, each in values.items()
        },
    }


def change(path: Path, **values: Any) -> None:
    """Set entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drawings(html: str, section: str, name: str) -> list[Page]:
    """The plots of one class in one section, each parsed. A panel holds pictures of its own."""
    start = html.index(f'<section id="{section}"')
    found, at = [], html.find(f'<svg class="{name}"', start, html.index("</section>", start))
    while at >= 0:
        end, depth = at, 0
        for tag in re.finditer(r"<svg|</svg>", html[at:]):
            depth += 1 if tag[0] == "<svg" else -1
            end = at + tag.end()
            if not depth:
                break
        found.append(Page(html[at:end]))
        at = html.find(f'<svg class="{name}"', end, html.index("</section>", start))
    return found


def read_page(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def span(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def test_a_finished_run_shows_every_section(tmp_path: Path) -> None:
    html, page = read_page(label_run(tmp_path / "run"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    sections = ["asked", "data", "comparison", "curve", "confusion", "classes", "calibration", "mistakes", "cost"]
    sections += ["lineage", "repeat"]
    assert ids == sections
    assert {f"#{name}" for name in sections} == {a["href"] for tag, a in page.elements if tag == "a"}
    assert page.text("title")[0] == "ls-llama on shop.csv · camelid"
    assert page.text("h1") == ["ls-llama on shop.csv 25 November 2026"]
    assert "a linear head on the final hidden states" in page.under(id="asked")
    assert "4 test rows are also in train" in page.under(id="data")
    assert "3 no label (train 3)" in page.under(id="data")
    assert "e" * 64 in html
    assert "200" in page.under(id="cost")  # 8 steps, 800 tokens, 4 s


def check_harmless(page: Page) -> None:
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in page.elements].count("style") == 1


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text_everywhere(tmp_path: Path, hostile: str) -> None:
    manifest = {
        "command": ["camelid", hostile],
        "notes": {"data": {"dropped": {hostile: 1}, "warnings": [hostile]}},
        "machine": {hostile: hostile},
    }
    folder = label_run(tmp_path / "run", classes=(hostile, "other"), texts=[hostile], **manifest)
    scores = json.loads((folder / "scores.json").read_text())
    scores["held_out"]["verdict"] = f"{hostile}: verdict."
    scores[hostile] = {hostile: hostile}
    (folder / "scores.json").write_text(json.dumps(scores))
    _, page = read_page(folder)
    check_harmless(page)
    folded = " ".join(hostile.split())
    assert any(folded[:600] in text for text in page.text("p", dir="auto")), "the row's text is not readable"
    assert any(
        attributes.get("aria-label", "").startswith(hostile) for tag, attributes in page.elements if tag == "svg"
    )
    assert any(folded in text for text in page.text("svg")), "the class is not in the title of a plot"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_of_the_other_tasks_stays_text(tmp_path: Path, hostile: str) -> None:
    folded = " ".join(hostile.split())[:600]
    _, page = read_page(set_run(tmp_path / "sets", classes=("other", "third", hostile), text=hostile))
    check_harmless(page)
    assert any(folded in text for text in page.text("p", **{"class": "text"}))
    assert any(folded in text for text in page.text("span", **{"class": "choice surplus"}))
    folder = number_run(tmp_path / "numbers", text=hostile)
    change(folder / "scores.json", seeds=seeds_entry({hostile: [0.5, 0.75]}))
    _, page = read_page(folder)
    check_harmless(page)
    assert any(folded in text for text in page.text("p", **{"class": "text"}))
    assert any(folded in text for text in page.text("title")), "the system is not in the title of its plot"


def test_control_characters_become_visible(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "run")
    row = {"row": "Labelled", "id": "0", "origin": CONTROL, "text": CONTROL, "label": "late"}
    write_lines(folder / "train.jsonl", [row])  # json.dumps keeps the lone surrogate as an escape
    html = write_report(folder).read_text(encoding="utf-8")
    assert "bell␇ null␀ escape␛[31m half � c1�" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    html, page = read_page(label_run(tmp_path / "run", texts=["see https://example.org/a.png"]))
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "formaction", "ping"}
    for tag, attributes in page.elements:
        for name in loading & set(attributes):
            assert attributes[name].startswith("#") or attributes[name] == "data:,", (tag, attributes)
        assert "url(" not in attributes.get("style", "")
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"url\(|@import|https?:", style[0])
    policy = next(attributes for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy["content"].startswith("default-src 'none';")
    assert not re.search(r"script-src|https?:|\*", policy["content"])


def test_the_verdict_is_the_first_sentence(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "run")
    verdict = json.loads((folder / "scores.json").read_text())["held_out"]["verdict"]
    _, page = read_page(folder)
    assert page.text("p")[0] == verdict
    before = [path for path, text in page.texts if text.strip() and path[1][0] == "body"]
    assert [tag for tag, _ in before[0]] == ["html", "body", "main", "header", "h1", "bdi"][: len(before[0])]
    first = next(path for path in before if all(tag != "h1" for tag, _ in path))
    assert ("p", {"class": "verdict"}) in first


def test_split_verdict_loses_nothing() -> None:
    for text, claim in [
        ("a beats b: accuracy 1 against 0 (difference 1).", "a beats b:"),
        ("a reaches accuracy 0.5 (95 % interval 0 to 1) on rows; more.", "a reaches accuracy 0.5"),
        ("plain", "plain"),
        ("", ""),
    ]:
        assert split_verdict(text)[0] == claim
        assert "".join(split_verdict(text)) == text


def test_interval_ends_stand_where_they_should() -> None:
    """On an axis from 0.2 to 0.7: 0.25 is at 10 %, 0.3 at 20 %, 0.4 at 40 %; 0.9 stops at the end."""
    axis = Axis(0.2, 0.7, (0.2, 0.45, 0.7))
    svg = Page(draw_intervals([Mark(0.3, 0.25, 0.4, "ours"), Mark(0.7, 0.6, 0.9, "other")], axis, "x", reference=0.3))
    whiskers = [each for tag, each in svg.elements if each.get("class") == "whisker"]
    assert [(each["x1"], each["x2"]) for each in whiskers] == [("10.00%", "40.00%"), ("80.00%", "100.00%")]
    assert [each["cx"] for tag, each in svg.elements if tag == "circle"] == ["20.00%", "100.00%"]
    assert [each["x1"] for _, each in svg.elements if each.get("class") == "grid"] == ["0.00%", "50.00%", "100.00%"]
    assert [each["x1"] for _, each in svg.elements if each.get("class") == "reference"] == ["20.00%"]


def test_the_comparison_is_drawn_to_scale(tmp_path: Path) -> None:
    """Ends from 0.25 to 0.65: steps of 0.1, so the axis goes from 0.2 to 0.7 and 0.5 is at (0.5 - 0.2) / 0.5 = 60 %."""
    systems = {OURS: {"accuracy": span(0.6, 0.5, 0.65)}, "few-shot prompt": {"accuracy": span(0.3, 0.25, 0.4)}}
    entry = {"metric": "accuracy", "ours": OURS, "systems": systems, "rows": 40, "verdict": "It helps."}
    html, page = read_page(label_run(tmp_path / "run", scores={"held_out": entry}))
    strips = re.findall(r'<svg class="strip".*?</svg>', html, re.DOTALL)
    drawn = [Page(strip) for strip in strips]
    labels = [strip.elements[0][1]["aria-label"] for strip in drawn]
    assert labels[0] == "label supervision: accuracy 0.600, 95 % interval 0.500 to 0.650"  # the best first
    ends = [next((a["x1"], a["x2"]) for _, a in strip.elements if a.get("class") == "whisker") for strip in drawn]
    assert ends == [("60.00%", "90.00%"), ("10.00%", "40.00%")]
    assert [strip.elements[-1][1]["cx"] for strip in drawn] == ["80.00%", "20.00%"]
    assert page.text("svg", **{"class": "ticks"})[0].endswith("0.20.30.40.50.60.7")


@pytest.mark.parametrize(
    ("values", "low", "high", "ticks"),
    [
        ([0.25, 0.65], 0.2, 0.7, 6),
        ([0.0, 0.0], -0.05, 0.05, 3),
        ([0.81, 0.83], 0.81, 0.83, 5),
        ([3, 812], 0, 1000, 3),
    ],
)
def test_axes_have_round_ends(values: list[float], low: float, high: float, ticks: int) -> None:
    axis = fit_axis(values)
    assert (axis.low, axis.high) == pytest.approx((low, high))
    assert len(axis.ticks) == ticks
    assert fit_axis([0.0, 0.0], floor_at=0, ceiling_at=1).low == 0


def test_svg_text_is_escaped() -> None:
    svg = str(draw_bar(0.5, HOSTILE[1]))
    assert "<img" not in svg
    assert [tag for tag, _ in Page(svg).elements] == ["svg", "title", "rect"]
    assert 'width="50.00%"' in svg


def test_table_of_systems(tmp_path: Path) -> None:
    """Ours took its predictions and the model, 1.5 s each; the majority class 1.5 s."""
    folder = label_run(tmp_path / "run")
    entry = json.loads((folder / "scores.json").read_text())["held_out"]
    entry["against"]["majority class"] |= {"difference": span(-0.25, -0.5, 0.125), "only_ours": 4, "p": 0.00001}
    (folder / "scores.json").write_text(json.dumps({"held_out": entry}))
    _, page = read_page(folder)
    text = page.under(id="comparison")
    assert "−0.250 −0.500 to +0.125 4 0 < 0.001 1.5 s 400 MB" in text
    assert "– – – – 3.0 s 400 MB" in text


def test_errors_are_errors_and_the_most_confident_come_first(tmp_path: Path) -> None:
    """Of 30 rows the even ones are wrong; their confidence is 0.5 + (7 n mod 30) / 100, so not in file order."""
    folder = label_run(tmp_path / "run")
    rows = [Labelled(str(n), f"line {n}", f"text of row {n}", "late") for n in range(30)]
    found = [
        Predicted(row.id, "late", "late" if n % 2 else "broken", {"broken": 0.5 + (7 * n % 30) / 100, "late": 0.9})
        for n, row in enumerate(rows)
    ]
    write_rows(folder / "test.jsonl", rows)
    write_rows(folder / f"predictions/{slug(OURS)}.jsonl", found)
    _, page = read_page(folder)
    expected = sorted((n for n in range(0, 30, 2)), key=lambda n: -(7 * n % 30))[:10]
    assert page.text("p", **{"class": "text"}) == [f"text of row {n}" for n in expected]
    shown = page.text("span", **{"class": "label predicted"})
    assert shown == [f"predicted broken {0.5 + (7 * n % 30) / 100:.3f}" for n in expected]
    assert set(page.text("span", **{"class": "label gold"})) == {"gold late"}


def test_sentences_with_the_most_wrong_words_come_first(tmp_path: Path) -> None:
    """n % 4 + (1 if n % 4 == 0) words of sentence n are wrong: the first word is I-person where it should be B-."""
    _, page = read_page(tag_run(tmp_path / "run"))
    notes = re.findall(r"(\d+) wrong words? · notes line (\d+)", page.under(id="mistakes"))
    assert [int(count) for count, _ in notes] == [3, 3, 3, 2, 2, 2, 1, 1, 1, 1]
    assert [int(line) for _, line in notes] == [3, 7, 11, 2, 6, 10, 1, 4, 5, 8]
    assert page.text("td", **{"class": "number"})[0] == "100.0 %12"  # 12 persons, one a sentence


def test_entities_are_marked_word_by_word() -> None:
    """Gold: Anna Berg is a person; found: Berg Oslo is a place."""
    marked = mark_entities(
        ["met", "Anna", "Berg", "Oslo", "now"],
        ["O", "B-person", "I-person", "O", "O"],
        ["O", "O", "B-place", "I-place", "O"],
    )
    assert marked == (
        Stretch("met"),
        Stretch("Anna", gold=True, gold_name="person"),
        Stretch("Berg", gold=True, predicted=True, gold_name="…", predicted_name="place"),
        Stretch("Oslo", predicted=True, predicted_name="…"),
        Stretch("now"),
    )
    assert [stretch.words for stretch in mark_entities(["a", "b"], ["B-x", "B-x"])] == ["a", "b"]


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "my run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["finished"] = False
    del manifest["stages"]["scores.held_out"], manifest["stages"]["model"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "scores.json").unlink()
    shutil.rmtree(folder / "model")
    _, page = read_page(folder)
    hint = f"This run is not finished; camelid resume '{folder}' continues it."
    assert page.text("p")[0] == hint
    assert "parcel 1" in page.under(id="data")
    assert page.under(id="comparison") == page.under(id="curve") == ""
    (folder / "timings.jsonl").unlink()
    (folder / "train.jsonl").unlink()
    _, page = read_page(folder)  # next to nothing is there
    assert page.text("p")[0] == f"{hint} Missing: train.jsonl."


def test_a_finished_run_gives_no_hint(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "run")
    assert "camelid resume" not in read_page(folder)[0]
    (folder / "scores.json").unlink()
    assert "This run is not finished" in read_page(folder)[0]


def test_a_line_cut_by_a_kill_is_left_out_and_a_broken_one_named(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "run")
    path = folder / "model/metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 9, "lo')
    assert "training loss over 8 steps" in read_page(folder)[0]
    path.write_text('{"step": \n' + whole)
    with pytest.raises(UserError, match=r"metrics\.jsonl line 1 is not JSON"):
        write_report(folder)


def test_77_classes(tmp_path: Path) -> None:
    """Class k is taken for class k + 1 in k rows: the most confused pair is 75 -> 76, and 20 of 76 pairs are shown."""
    names = [f"intent_{k:02}" for k in range(77)]
    confusion = [[100 if i == j else i if j == i + 1 else 0 for j in range(77)] for i in range(77)]
    ours = {
        "accuracy": span(0.5, 0.4, 0.6),
        "f1_by_class": {name: span(k / 77, k / 77, k / 77) for k, name in enumerate(names)},
        "confusion": confusion,
    }
    entry = {"split": "test", "metric": "accuracy", "ours": OURS, "systems": {OURS: ours}, "classes": names}
    _, page = read_page(label_run(tmp_path / "run", classes=names, scores={"held_out": entry}))
    assert not page.text("table", **{"class": "heat many"})
    rows = page.under(id="confusion")
    assert "The 20 most confused pairs of 77 classes" in rows
    assert "intent_75 intent_76 75 42.9 %" in rows  # 75 of 175 rows
    assert "intent_55" not in rows
    assert len(page.text("div", **{"class": "dot-row"})) == 77
    assert "57 more classes" in page.under(id="classes")
    assert page.text("div", **{"class": "dot-row"})[0].startswith("intent_00")


def test_twenty_classes_are_still_a_heat_map(tmp_path: Path) -> None:
    names = [f"kind {k}" for k in range(20)]
    confusion = [[3 if i == j else 1 for j in range(20)] for i in range(20)]
    ours = {"accuracy": span(0.5, 0.4, 0.6), "confusion": confusion}
    entry = {"metric": "accuracy", "ours": OURS, "systems": {OURS: ours}, "classes": names}
    html, page = read_page(label_run(tmp_path / "run", scores={"held_out": entry}))
    assert len(page.text("table", **{"class": "heat many"})) == 1
    assert "--share: 0.136" in html  # 3 of 22
    assert "3 of 22 rows of kind 4 predicted as kind 4" in html


@pytest.mark.parametrize(
    "entry",
    [
        {"win_rate": span(0.5, 0.25, 0.75), "judge": "by rule", "deep": {"er": [1, 2]}, "none": None},
        {"metric": "accuracy", "ours": "x", "systems": ["no", "dictionary"]},
        {"metric": "accuracy", "ours": "x", "systems": {"y": {"accuracy": span(1, 1, 1)}}},
        {"metric": "accuracy", "ours": "x", "systems": {"x": {"f1": span(1, 1, 1)}}},
        {"metric": "a", "ours": "x", "systems": {"x": {"a": span(float("nan"), 1, 1)}}},
        ["a", "list"],
        0.25,
        {},
    ],
)
def test_an_unknown_entry_becomes_a_plain_table(tmp_path: Path, entry: Any) -> None:
    folder = label_run(tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps({"preference": entry, **scores}))
    _, page = read_page(folder)
    assert "Scores: preference" in page.text("h2")
    assert page.text("p")[0] == scores["held_out"]["verdict"]
    if isinstance(entry, dict) and "win_rate" in entry:
        text = page.under(**{"aria-label": "scores of preference"})
        assert " ".join(text.split()) == "win_rate 0.5 (0.25 to 0.75) judge by rule deep.er [1, 2] none –"


def test_parts_with_the_same_names_are_rows_and_columns(tmp_path: Path) -> None:
    """The fewer names stand on top; parts within parts are listed."""
    folder = label_run(tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    part = {"a": span(0.5, 0.25, 0.75), "b": 3, "c": {}}
    deep = {"near": {"x": {"y": 1}}, "far": {"x": {"y": 2}}}
    (folder / "scores.json").write_text(json.dumps({"by": {"near": part, "far": part}, "deep": deep, **scores}))
    _, page = read_page(folder)
    text = page.under(**{"aria-label": "scores of by"})
    assert " ".join(text.split()) == "near far a 0.5 (0.25 to 0.75) 0.5 (0.25 to 0.75) b 3 3 c {} {}"
    assert " ".join(page.under(**{"aria-label": "scores of deep"}).split()) == "near.x.y 1 far.x.y 2"


def test_dark_mode_has_every_variable_and_plots_use_them(tmp_path: Path) -> None:
    html, _ = read_page(label_run(tmp_path / "run"))
    style = html[html.index("<style>") : html.index("</style>")]
    blocks = [re.search(pattern, style, re.DOTALL) for pattern in (r":root \{(.*?)\}", r"dark\) \{\s*:root \{(.*?)\}")]
    light, dark = (set(re.findall(r"(--[\w-]+):", block[1])) for block in blocks if block)
    assert light == dark
    assert "prefers-color-scheme: dark" in style
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) == light | {"--share"}
    html += "".join(read_page(make(tmp_path / make.__name__))[0] for make in (set_run, number_run, tag_run))
    plots = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb\(|fill=|stroke=", plots), "a plot has a colour of its own"


def test_costs_of_a_resumed_stage_add_up() -> None:
    lines = [
        {"stage": "model", "seconds": 10.0, "cpu_seconds": 20.0, "peak_memory_mb": 700.0},
        {"stage": "model", "seconds": 5.0, "cpu_seconds": 9.0, "peak_memory_mb": 600.0},
        {"stage": "predictions/mine", "seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mb": 800.0},
    ]
    costs = sum_costs(lines)
    assert (costs["model"].seconds, costs["model"].peak_memory_mb) == (15.0, 700.0)
    mine = cost_of_system(costs, "Mine", trained=True)
    assert mine is not None
    assert (mine.seconds, mine.cpu_seconds, mine.peak_memory_mb) == (16.0, 30.0, 800.0)
    other = cost_of_system(costs, "Mine", trained=False)
    assert other is not None
    assert other.seconds == 1.0
    assert cost_of_system(costs, "nobody", trained=False) is None
    assert cost_of_system(costs, "nobody", ["model", "no such stage"], trained=False) == costs["model"]


def test_the_learning_curve(tmp_path: Path) -> None:
    """Loss falls from 1.875 to 1; dev accuracy is 0.4 and 0.8 at 50 % and 100 % of the width (epochs 1 and 2)."""
    html, page = read_page(label_run(tmp_path / "run"))
    panels = drawings(html, "curve", "panel")
    assert len(panels) == 2
    dots = [a["cx"] for tag, a in panels[1].elements if tag == "circle"]
    assert dots == ["50.00%", "100.00%"] * 2  # accuracy, then macro-F1
    assert "at the end: accuracy 0.800, macro-F1 0.500" in panels[1].elements[0][1]["aria-label"]
    heights = [float(a["cy"]) for tag, a in panels[1].elements if tag == "circle"]
    assert heights[1] < heights[0] < heights[2]  # 0.8 above 0.4 above 0.25
    assert "accuracy 0.800" in page.under(id="curve")


def test_smoothing_by_hand() -> None:
    """Span 3 keeps half: 1, then (0.5 * 1 + 0) / 1.5 = 1/3, then (0.25 + 0 + 1) / 1.75 = 5/7."""
    assert smooth([1.0, 0.0, 1.0], 3) == pytest.approx([1.0, 1 / 3, 5 / 7])


def test_thinning_keeps_the_extremes() -> None:
    points = [(float(n), 50.0 if n == 777 else -3.0 if n == 1234 else n / 5000) for n in range(5000)]
    kept = thin(points, limit=100)
    assert len(kept) <= 100
    assert kept == sorted(kept)
    assert {(777.0, 50.0), (1234.0, -3.0)} <= set(kept)


def test_commands_repeat_the_run(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "my run")
    _, page = read_page(folder)
    started, saved = (shlex.split(text) for text in page.text("pre")[-2:])
    assert started == ["camelid", "run", "ls-llama", "--data", "boxes/my shop.csv"]
    assert saved == ["camelid", "run", "ls-llama", "--recipe", f"{folder}/recipe.toml", "--out", f"{folder}-again"]


def test_numbers_for_people() -> None:
    seconds = [0.001, 0.04, 1.33, 9.94, 9.96, 59.6, 112, 3599.7, 7500, 90000]
    shown = ["< 0.01 s", "0.04 s", "1.3 s", "9.9 s", "10 s", "1 m 0 s", "1 m 52 s", "1 h 0 m", "2 h 5 m", "1 d 1 h"]
    assert [show_seconds(value) for value in seconds] == shown
    assert [show_memory(value) for value in (620.4, 1229, 999.7)] == ["620 MB", "1.2 GB", "1.0 GB"]
    assert [show_p(value) for value in (1e-60, 0.0449, 1.0)] == ["< 0.001", "0.045", "1.000"]
    assert [show_signed(value) for value in (0.0401, -0.24, -0.0001)] == ["+0.040", "−0.240", "0.000"]
    assert [show_score(value) for value in (0.8034, -1.5, 12.345, 1234.5)] == ["0.803", "−1.500", "12.35", "1,234"]
    assert show_score(-0.0001) == "0.000"
    numbers = [4.0, 3.25, -0.0042, 12345.6, 0.000012, -0.0, 0.0004]
    assert [show_number(value) for value in numbers] == ["4", "3.25", "−0.004", "12,346", "1.2e−05", "0", "0.0004"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        write_report(tmp_path)


def test_no_heavy_library_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from camelid.report import write_report; "
        f"write_report(Path({str(label_run(tmp_path / 'run'))!r})); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jinja2" in loaded
    assert not {"torch", "transformers", "sklearn", "pandas", "datasets"} & set(loaded)


CALIBRATED = {
    "ece": span(0.1, 0.05, 0.15),
    "brier": span(0.2, 0.1, 0.3),
    "nll": span(0.5, 0.4, 0.6),
    "chance": 0.05,
    "bins": [
        {"low": 0.4, "high": 0.5, "count": 10, "confidence": 0.5, "accuracy": 0.6},
        {"low": 0.8, "high": 0.9, "count": 30, "confidence": 0.9, "accuracy": 0.8},
    ],
}


def test_calibration_before_and_after(tmp_path: Path) -> None:
    """Right 4 of 6 = 0.6667. ECE after: 0.8 - 0.6667; before: 0.64 / 0.68 - 0.6667; of the one that is always sure: 1 -
    0.6667. Brier: (4 * 0.08 + 2 * 1.28) / 6, (8 * 0.0588^2 + 4 * 0.9412^2) / 6 and 2 * 2 / 6. NLL after: -(4 log 0.8 +
    2 log 0.2) / 6."""
    _, page = read_page(calibrated_run(tmp_path / "run", settings={"rescaling": {"temperature": 2.0}}))
    table = page.under(**{"aria-label": "calibration table"})
    values = re.sub(r"\d\.\d+ to \d\.\d+|\d+\.\d+ to \d+\.\d+", "", table).split("NLL ↓ ")[1].split()
    assert " ".join(values) == (
        "label supervision 0.133 0.480 0.685 label supervision, before 0.275 0.595 0.985 sure 0.333 0.667 9.210"
    )
    text = page.under(id="calibration")
    assert "Calibration divides all logits by 2, set on dev rows" in text
    assert "same dev rows" not in text
    assert "6 rows are too few to say whether the probabilities of label supervision can be believed:" in text


def test_the_reliability_diagram_is_drawn_to_scale(tmp_path: Path) -> None:
    """Both dots at 2/3 of the height between the paddings; confidence 0.8 as it is, 0.64 / 0.68 before. The bin (0.7,
    0.8] has a bar. The whisker ends at Wilson's (0.300, 0.903) of 4 in 6."""
    html, _ = read_page(calibrated_run(tmp_path / "run", settings={"rescaling": {"temperature": 2.0}}))
    panel = drawings(html, "calibration", "panel")[0]
    assert panel.elements[0][1]["aria-label"] == "accuracy against confidence: 6 rows said 80.0 %, right 66.7 %"
    dots = [(a["cx"], float(a["cy"])) for tag, a in panel.elements if tag == "circle"]
    middle = pytest.approx(6 + (340 - 12) / 3, abs=0.01)
    assert dots == [("94.12%", middle), ("80.00%", middle)]
    assert [a["class"] for tag, a in panel.elements if tag == "g"] == ["dashed", "solid"]
    whisker = next(a for _, a in panel.elements if a.get("class") == "whisker")
    ends = (6 + 328 * (1 - 0.903), 6 + 328 * (1 - 0.300))
    assert (float(whisker["y1"]), float(whisker["y2"])) == pytest.approx(ends, abs=0.2)
    diagonal = next(a["points"] for _, a in panel.elements if a.get("class") == "diagonal")
    assert diagonal == "0.00,334.00 100.00,6.00"
    bars = [a for tag, a in drawings(html, "calibration", "columns other")[0].elements if tag == "rect"]
    assert [(a["x"], a["width"]) for a in bars] == [("70.40%", "9.20%")]


def test_bins_have_bars_as_high_as_their_rows() -> None:
    """30 rows stand as high as there is room, 50 pixels, and 10 rows a third of it."""
    diagram = draw_reliability(Calibration.model_validate(CALIBRATED), None)
    bars = [(a["x"], float(a["height"])) for tag, a in Page(diagram.columns).elements if tag == "rect"]
    assert bars == [("40.40%", pytest.approx(50 / 3, abs=0.01)), ("80.40%", 50.0)]
    assert Page(diagram.columns).text("text") == ["10", "30"]


def test_calibration_without_temperature_has_no_before(tmp_path: Path) -> None:
    for name, handle in {"old": {}, "one": {"settings": {"rescaling": {"temperature": 1.0}}}}.items():
        _, page = read_page(calibrated_run(tmp_path / name, **handle))
        text = page.under(id="calibration")
        assert "before" not in text
        assert "divides" not in text
        assert "label supervision 0.133" in text


def test_a_temperature_set_on_the_scored_rows_is_confessed(tmp_path: Path) -> None:
    folder = calibrated_run(tmp_path / "run", settings={"rescaling": {"temperature": 2.0}})
    entry = json.loads((folder / "scores.json").read_text())["held_out"]
    change(folder / "scores.json", held_out=entry | {"split": "dev"})
    assert "These are the same dev rows" in read_page(folder)[1].under(id="calibration")


def test_undoing_a_temperature_is_a_softmax_of_the_scaled_logits() -> None:
    """softmax(3, 1, 0) from softmax(3 / 2, 1 / 2, 0)."""
    after, before = ([math.exp(z / t) for z in (3, 1, 0)] for t in (2, 1))
    shares = {name: value / sum(after) for name, value in zip("abc", after, strict=True)}
    found = undo_temperature(shares, 2.0)
    assert list(found.values()) == pytest.approx([value / sum(before) for value in before])


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 7), (40, 40), (455, 500)])
def test_wilson_interval_is_that_of_scipy(right: int, count: int) -> None:
    ends = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right / count, count) == pytest.approx((ends.low, ends.high), abs=1e-4)


@pytest.mark.parametrize(
    ("ece", "chance", "said", "right", "claim", "figures"),
    [
        (0.02, 0.04, 0.8, 0.81, "The probabilities of x can be believed:", "by 2.0 points on average, which chance"),
        (0.08, 0.2, 0.8, 0.81, "100 rows are too few to say", "but chance alone can make it 20.0 points"),
        (0.02, 0.01, 0.8, 0.81, "can be believed within a few points:", "chance explains up to 1.0 points"),
        (0.1, 0.04, 0.9, 0.8, "at their word:", "too high by 10.0 points on average (it is 90.0 % sure and right in"),
        (0.1, 0.04, 0.7, 0.8, "at their word:", "too low by 10.0 points"),
        (0.1, 0.04, 0.8, 0.81, "at their word:", "too high in places and too low in others, by 10.0 points"),
    ],
)
def test_whether_to_believe_probabilities(
    ece: float, chance: float, said: float, right: float, claim: str, figures: str
) -> None:
    each = {"low": 0.7, "high": 0.8, "count": 100, "confidence": said, "accuracy": right}
    found = Calibration.model_validate(CALIBRATED | {"ece": span(ece, ece, ece), "chance": chance, "bins": [each]})
    sentence = judge_probabilities("x", found)
    assert claim in sentence
    assert figures in sentence
    assert ". " not in sentence, "one sentence"


def test_means_of_bins_are_weighted_by_rows() -> None:
    """(10 * 0.5 + 30 * 0.9) / 40 and (10 * 0.6 + 30 * 0.8) / 40."""
    found = Calibration.model_validate(CALIBRATED)
    assert (found.rows, found.confidence, found.accuracy) == pytest.approx((40, 0.8, 0.75))


def test_sets_that_are_wrong_show_what_is_missing_and_what_is_too_much(tmp_path: Path) -> None:
    """The surest wrong decisions: row 1 (2 with 0.95), row 0 (1 denied with 0.9), row 2 (0.7), row 3 (0.6)."""
    _, page = read_page(set_run(tmp_path / "run"))
    assert page.text("p", **{"class": "text"}) == [f"parcel {n}" for n in (1, 0, 2, 3)]
    assert page.text("span", **{"class": "choice right"}) == ["right", "late 0.900", "late 0.800", "late 0.600"]
    assert page.text("span", **{"class": "choice surplus"})[1:] == ["praise 0.950", "broken 0.700"]
    assert page.text("span", **{"class": "choice missing"})[1:] == ["broken 0.100", "praise 0.400"]
    assert page.under(id="confusion") == page.under(id="calibration") == ""


def test_sets_in_the_other_sections(tmp_path: Path) -> None:
    """Late is in 15 of the 20 train rows and in 3 of the 4 test rows, 5 and 1 have none, 25 and 5 labels. Of the gold
    rows of late ours finds all and no others: F1 1; of broken it misses row 0 and adds row 2: 2 * 4 / (5 + 5)."""
    _, page = read_page(set_run(tmp_path / "run"))
    data = page.under(id="data")
    assert "A row may have several labels: 1.25 on average; 6 rows have none." in data
    assert "late 75.0 % 15 75.0 % 3 broken 25.0 % 5 25.0 % 1" in re.sub(r"\S+ in \w+: \d+, \S+ % ", "", data)
    assert {"late, broken", "no label"} <= set(page.text("span", **{"class": "label"}))
    comparison = page.under(id="comparison")
    assert "Micro-F1 on 20 test rows" in comparison
    assert "micro-F1 macro-F1 exact match ours minus this" in comparison
    assert "rows with exactly the right labels" in comparison
    rows = page.text("div", **{"class": "dot-row"})
    assert any(row.startswith("broken") and "0.800 baseline 0.000 · n 5" in row for row in rows)
    assert any(row.startswith("late") and "1.000 baseline 0.000 · n 15" in row for row in rows)


def test_the_largest_errors_of_numbers(tmp_path: Path) -> None:
    """1.0 in rows 7 and 20, -0.5 in row 11, then 0.1."""
    _, page = read_page(number_run(tmp_path / "run"))
    texts, labels = page.text("p", **{"class": "text"}), page.text("p", **{"class": "labels"})
    assert set(texts[:2]) == {"review 7", "review 20"}
    assert (texts[2], len(texts)) == ("review 11", 10)
    assert labels[2] == "predicted 0.6 gold 1.1 off by −0.5 shop.csv line 13"
    assert labels[texts.index("review 7")] == "predicted 1.7 gold 0.7 off by +1 shop.csv line 9"


def test_numbers_in_the_other_sections(tmp_path: Path) -> None:
    html, page = read_page(number_run(tmp_path / "run"))
    comparison = page.under(id="comparison")
    assert "system R² Pearson's r Spearman's ρ MAE ↓ RMSE ↓ ours minus this time peak memory" in comparison
    assert "Of what is marked ↓, less is better." in comparison
    assert "McNemar" not in comparison
    assert page.under(id="confusion") == page.under(id="classes") == page.under(id="calibration") == ""
    assert "mean 1.95 0 to 3.9" in page.under(id="data")
    assert len(drawings(html, "data", "columns other")) == 2
    labels = page.text("span", **{"class": "label"})[:6]
    assert [float(label) for label in labels] == sorted(float(label) for label in labels)
    assert (labels[0], labels[5]) == ("0", "3.9")


def test_the_scatter_is_drawn_to_scale(tmp_path: Path) -> None:
    """Values from 0 to 4: gold 0.7 is at 17.5 %, and its 1.7 at 42.5 % of the height between the paddings. Mean error:
    (2 * 1 - 0.5 + 37 * 0.1) / 40."""
    html, page = read_page(number_run(tmp_path / "run"))
    panel = drawings(html, "scatter", "panel")[0]
    groups = [index for index, (tag, _) in enumerate(panel.elements) if tag == "g"]
    points, worst = panel.elements[groups[0] + 1 : groups[1]], panel.elements[groups[1] + 1 :]
    assert [panel.elements[index][1]["class"] for index in groups] == ["points", "worst"]
    assert (len(points), len(worst)) == (40, 10)
    placed = {a["cx"]: float(a["cy"]) for _, a in worst}
    assert placed["17.50%"] == pytest.approx(6 + (400 - 12) * (1 - 0.425), abs=0.01)
    text = page.under(id="scatter")
    assert "All 40 rows." in text
    assert "half of the errors are below 0.1" in text
    assert "mean error +0.13" in text


def test_errors_by_hand() -> None:
    """Errors 1, 1, -2, 0, 0: sizes 0 0 1 1 2, so half are below 1 and nine in ten below 1.6; their mean is 0."""
    facts = dict(describe_errors([(0, 1), (1, 2), (4, 2), (3, 3), (2, 2)]))
    assert facts["half of the errors are below"] == "1"
    assert facts["nine in ten are below"] == "1.6"
    assert facts["mean error"] == "0"
    assert facts["spread of gold (standard deviation)"] == "1.414"
    assert describe_errors([(1, 3)])[:2] == [("half of the errors are below", "2"), ("mean error", "+2")]


def test_a_scatter_of_many_rows_is_thinned_and_ratings_are_spread() -> None:
    pairs = [(float(n % 5), n / 100) for n in range(5000)]
    kept = thin_pairs(pairs)
    assert len(set(kept)) == 600
    assert set(kept) <= set(pairs)
    assert sum(said < 25 for _, said in kept) == pytest.approx(300, abs=60)  # half of the rows, in file order
    spread = spread_ratings(kept, Axis(0, 10, ()))
    assert [said for _, said in spread] == [said for _, said in kept]
    assert all(abs(moved - gold) <= 0.15 for (moved, _), (gold, _) in zip(spread, kept, strict=True))
    assert len({gold for gold, _ in spread}) > 500
    smooth = [(n / 7, 0.0) for n in range(100)]
    assert spread_ratings(smooth, Axis(0, 10, ())) == smooth


def test_histograms_by_hand() -> None:
    """Ratings 1, 1, 2, 4: an axis from 1 to 4 and 0.15 more (half a bar of a tenth of 3) on either side, so 3.3 wide.
    The bar of 2 begins at 1.0 / 3.3 = 30.3 %, is 0.3 / 3.3 = 9.09 % wide less 0.4 % at either end, and half as high as
    that of 1. Of 0, 0.1 ... 10 the last of 24 stretches, from 9.583, holds 5."""
    plot = plot_numbers({"train": [1, 1, 2, 4], "dev": []})
    assert plot is not None
    assert [(row.name, row.value, row.note) for row in plot.rows] == [("train", "mean 2", "1 to 4")]
    bars = [a for tag, a in Page(plot.rows[0].strip).elements if tag == "rect"]
    places = [(a["x"], a["width"], a["height"]) for a in bars]
    assert places == [("0.40%", "8.29%", "44.0"), ("30.70%", "8.29%", "22.0"), ("91.31%", "8.29%", "22.0")]
    wide = plot_numbers({"train": [n / 10 for n in range(101)]})
    assert wide is not None
    titles = Page(wide.rows[0].strip).text("title")[1:]
    assert len(titles) == 24
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == 101
    assert titles[-1] == "9.583 to 10: 5 rows"
    assert plot_numbers({"train": []}) is None
    assert plot_numbers({"train": [3.0, 3.0]}) is not None


def test_rewards_of_two_groups_are_spread(tmp_path: Path) -> None:
    """One axis for both; a reward of words alone is shown as a plain table, not as bars."""
    spread = {"of": "reward", "units": "answers", "groups": {"preferred": [1.0, 2.0, 2.5], "other": [0.0, 1.0]}}
    page = Page(write_report(label_run(tmp_path / "r", scores={"spread": spread})).read_text("utf-8"))
    told = page.under(id="spread")
    assert "How rewards are spread" in told
    assert "rewards of 3 preferred answers" in told
    assert "mean 0.5" in told
    odd = {"of": "reward", "units": "answers", "groups": {"preferred": ["much"]}}
    page = Page(write_report(label_run(tmp_path / "odd", scores={"spread": odd})).read_text("utf-8"))
    assert page.under(id="spread") == ""
    assert "Scores: spread" in page.text("h2")


def test_columns_are_drawn_to_scale() -> None:
    """On 0 to 1: 0.9 to 1 is at 90 % plus the gap. 64 pixels less 14 for the text are 50; half of that is 25."""
    svg = Page(draw_columns([Column(0.9, 1.0, 0.5, "x", "7")], Axis(0, 1, (0, 1)), "label", height=64))
    bar = next(a for tag, a in svg.elements if tag == "rect")
    assert (bar["x"], bar["width"], float(bar["y"]), float(bar["height"])) == ("90.40%", "9.20%", 39.0, 25.0)
    assert next(a for tag, a in svg.elements if tag == "text")["x"] == "95.00%"


def test_seeds_are_dots_and_their_mean_has_an_interval(tmp_path: Path) -> None:
    """Values 0.7 and 0.8 have the mean 0.75 and t(0.975; 1) = 12.706, so half 0.635. The axis goes from 0 to 1.5."""
    folder = label_run(tmp_path / "run")
    change(folder / "scores.json", seeds=seeds_entry({"few-shot prompt": [0.5], OURS: [0.7, 0.8]}))
    html, page = read_page(folder)
    assert "Accuracy of the same training with 2 different seeds" in page.under(id="seeds")
    assert "#seeds" in [a["href"] for tag, a in page.elements if tag == "a"]
    first, second = drawings(html, "seeds", "strip")
    assert first.elements[0][1]["aria-label"].endswith("0.115 to 1.385; seed 0 0.700, seed 1 0.800")
    assert [a["cx"] for tag, a in first.elements if tag == "circle"] == ["46.67%", "53.33%", "50.00%"]
    assert [a["cx"] for tag, a in second.elements if tag == "circle"] == ["33.33%", "33.33%"]
    assert "Scores: seeds" not in page.text("h2")


@pytest.mark.parametrize("entry", [{"metric": "accuracy"}, {"metric": "a", "systems": {}}, [1], {"systems": {"x": 1}}])
def test_seeds_that_are_something_else_are_a_plain_table(tmp_path: Path, entry: Any) -> None:
    folder = label_run(tmp_path / "run")
    change(folder / "scores.json", seeds=entry)
    assert "Scores: seeds" in read_page(folder)[1].text("h2")


def test_a_run_from_before_calibration_still_renders(tmp_path: Path) -> None:
    folder = label_run(tmp_path / "run")
    entry = json.loads((folder / "scores.json").read_text())["held_out"]
    for system in entry["systems"].values():
        system.pop("calibration", None)
    del entry["task"]
    change(folder / "scores.json", held_out=entry)
    _, page = read_page(folder)
    assert page.under(id="calibration") == ""
    assert "The most confident errors" in page.under(id="mistakes")
    assert "McNemar" in page.under(id="comparison")


def test_rows_of_every_kind_can_be_read() -> None:
    """A pair shows its question and both answers, flags and annotations stand as labels; nothing is raw JSON."""
    pair = {"prompt": [{"role": "user", "content": "Why?"}], "chosen": "So.", "rejected": "No."}
    assert show_sample(pair).text == "Why?\n\nchosen: So.\n\nrejected: No."
    assert show_sample(pair | {"chosen": ""}).text == "Why?\n\nchosen: \n\nrejected: No."
    assert show_sample(pair | {"chosen": "", "rejected": ""}).text == "Why?"
    flagged = {"messages": [{"role": "user", "content": "Go away"}], "flags": {"H": False, "HR": True}}
    assert (show_sample(flagged).text, show_sample(flagged).label) == ("Go away", "HR")
    assert name_classes({"flags": {"H": False}}) == ["none"]
    noted = {"text": "I was born", "labels": {"topic": "0", "sentiment": "neutral"}, "group": "Ann"}
    assert show_sample(noted).label == "topic 0, sentiment neutral"


def test_a_class_may_be_called_low(tmp_path: Path) -> None:
    _, page = read_page(label_run(tmp_path / "run", classes=("low", "high", "value")))
    assert "Scores: held_out" not in page.text("h2")
    assert "system accuracy macro-F1 ours minus this" in page.under(id="comparison")
    assert len([row for row in page.text("div", **{"class": "dot-row"}) if row.startswith("low")]) == 1


def rated(value: float, raw: float, **more: Any) -> dict[str, Any]:
    rates = {"length_controlled_win_rate": (value, 5.0), "win_rate": (raw, 2.0)}
    line: dict[str, Any] = {name: {"value": at, "low": at - by, "high": at + by} for name, (at, by) in rates.items()}
    line |= {"lc_standard_error": 0.5, "standard_error": 1.25, "discrete_win_rate": 33.0, "avg_length": 1069}
    line |= {"weights": {"length": -1.5, "difficulty": 1.0, "base": -0.25}, "C": 2.7825594, "preferences": 800}
    return line | {"flags": []} | more


def test_a_leaderboard_is_drawn_and_tabulated(tmp_path: Path) -> None:
    """The axis goes from 0 to 100; ours is the filled dot at the rate without length, the hollow one the raw rate."""
    folder = label_run(tmp_path / "run")
    board = {"baseline": "b<i>", "judge": "j", "rows": 805, "verdict": "A is first: 60.0.", "systems": {
        "<b>A": rated(60.0, 90.0, flags=["odd & <u>"]), "B": rated(20.0, 10.0)
    }}  # fmt: skip
    rate = {"value": 71.5, "low": 60.0, "high": 80.0}
    names = ["<b>A", "B"]
    pairwise = {"systems": names, "rates": {one: dict.fromkeys(names, rate) for one in names}}
    (folder / "scores.json").write_text(json.dumps({"leaderboard": board, "pairwise": pairwise}))
    html, page = read_page(folder)
    told = page.under(id="leaderboard")
    assert "against b<i> on 805 instructions, as j judges" in told
    assert (
        "60.00 55.00 to 65.00 90.00 88.00 to 92.00 0.50 1.25 33.00 1,069 800 −1.500 1.000 −0.250 2.783 odd & <u>"
        in told
    )
    assert "71.50 60.00 to 80.00" in told
    first, _ = drawings(html, "leaderboard", "strip")
    assert [a["cx"] for tag, a in first.elements if tag == "circle"] == ["60.00%", "90.00%"]
    assert next(a for _, a in first.elements if a.get("class") == "reference")["x1"] == "50.00%"
    assert "A is first" in page.under(class_="verdict") or "A is first" in html
    assert "Scores: " not in page.text("h2")


@pytest.mark.parametrize("entry", [{"systems": {}}, [1], {"baseline": "b", "judge": "", "rows": 1, "verdict": ""}])
@pytest.mark.parametrize("name", ["leaderboard", "pairwise"])
def test_a_leaderboard_that_is_something_else_is_a_plain_table(tmp_path: Path, name: str, entry: Any) -> None:
    folder = label_run(tmp_path / "run")
    change(folder / "scores.json", **{name: entry})
    assert f"Scores: {name}" in read_page(folder)[1].text("h2")
