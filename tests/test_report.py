"""The report: every row here is made up, and every figure is worked by hand in its test."""

from __future__ import annotations

import json
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

from camelid.errors import UserError
from camelid.evaluation import evaluate
from camelid.report import split_verdict, write_report
from camelid.report.costs import cost_of_system, sum_costs
from camelid.report.curves import smooth, thin
from camelid.report.mistakes import Stretch, mark_entities
from camelid.report.numbers import show_memory, show_p, show_score, show_seconds, show_signed
from camelid.report.plots import Axis, Mark, draw_bar, draw_intervals, fit_axis
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
    scores = more.pop("scores", None) or {"held_out": {"split": "test", **evaluate(systems, classes, OURS)}}
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
    entry = {"split": "test", **evaluate({OURS: ours}, classes, OURS)}
    return make_run(folder, {"train": list(rows), "test": list(rows)}, {OURS: ours}, {"held_out": entry})


def read_page(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def span(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def test_a_finished_run_shows_every_section(tmp_path: Path) -> None:
    html, page = read_page(label_run(tmp_path / "run"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    sections = ["asked", "data", "comparison", "curve", "confusion", "classes", "mistakes", "cost", "lineage", "repeat"]
    assert ids == sections
    assert {f"#{name}" for name in sections} == {a["href"] for tag, a in page.elements if tag == "a"}
    assert page.text("title")[0] == "ls-llama on shop.csv · camelid"
    assert page.text("h1") == ["ls-llama on shop.csv 25 November 2026"]
    assert "a linear head on the final hidden states" in page.under(id="asked")
    assert "4 test rows are also in train" in page.under(id="data")
    assert "3 no label (train 3)" in page.under(id="data")
    assert "e" * 64 in html
    assert "200" in page.under(id="cost")  # 8 steps, 800 tokens, 4 s


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
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in page.elements].count("style") == 1
    folded = " ".join(hostile.split())
    assert any(folded[:600] in text for text in page.text("p", dir="auto")), "the row's text is not readable"
    assert any(
        attributes.get("aria-label", "").startswith(hostile) for tag, attributes in page.elements if tag == "svg"
    )
    assert any(folded in text for text in page.text("svg")), "the class is not in the title of a plot"


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


def test_dark_mode_has_every_variable_and_plots_use_them(tmp_path: Path) -> None:
    html, _ = read_page(label_run(tmp_path / "run"))
    style = html[html.index("<style>") : html.index("</style>")]
    blocks = [re.search(pattern, style, re.DOTALL) for pattern in (r":root \{(.*?)\}", r"dark\) \{\s*:root \{(.*?)\}")]
    light, dark = (set(re.findall(r"(--[\w-]+):", block[1])) for block in blocks if block)
    assert light == dark
    assert "prefers-color-scheme: dark" in style
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) == light | {"--share"}
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb\(|fill=|stroke=", drawings), "a plot has a colour of its own"


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


def test_the_learning_curve(tmp_path: Path) -> None:
    """Loss falls from 1.875 to 1; dev accuracy is 0.4 and 0.8 at 50 % and 100 % of the width (epochs 1 and 2)."""
    html, page = read_page(label_run(tmp_path / "run"))
    panels = [
        Page(panel) for panel in re.findall(r'<svg class="panel".*?</svg>\s*(?=<p|<svg class="t)', html, re.DOTALL)
    ]
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
