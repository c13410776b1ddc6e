"""The card's checks of LLP-BP: its numbers, symmetries and gradient; and the way of a user's own bags through a run."""

from __future__ import annotations

import json
import re
import time
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camelid import bags, data, methods, models, networks, prediction
from camelid.bags import collate_bags, hold_out_bags, rows_of
from camelid.belief_propagation import propagate
from camelid.errors import UserError
from camelid.methods.classify import llp_bp as method
from camelid.rows import Bag, iterate_rows
from conftest import Killed

FACTORS = ("pairwise", "cardinality")
Edges = list[tuple[int, int, float]]


def bags_of(*members_and_counts: tuple[int, int]) -> list[Bag]:
    """Bags of (size, count), over consecutive members."""
    return [
        Bag(str(number), "", tuple(f"{number}.{at}" for at in range(size)), count)
        for number, (size, count) in enumerate(members_and_counts)
    ]


def gibbs(known: list[Bag], edges: Edges, lambda_b: float, lambda_s: float, factors: str) -> Any:
    first, second, kernel = zip(*edges, strict=True) if edges else ((), (), ())
    arrays = np.array(first, dtype=int), np.array(second, dtype=int), np.array(kernel, dtype=float)
    return method.write_gibbs(known, *arrays, lambda_b, lambda_s, factors)


def marginals(known: list[Bag], edges: Edges, lambda_b: float, lambda_s: float, factors: str, **options: Any) -> Any:
    return propagate(*gibbs(known, edges, lambda_b, lambda_s, factors), **{"sweeps": 400, **options}).marginals


def energy(states_N: Any, known: list[Bag], edges: Edges, lambda_b: float, lambda_s: float) -> float:
    """Step 2 as it stands in the paper."""
    total, start = 0.0, 0
    for bag in known:
        total += lambda_b * (states_N[start : start + len(bag.members)].sum() - bag.positives) ** 2
        start += len(bag.members)
    return -total - lambda_s * sum(kernel * (states_N[i] - states_N[j]) ** 2 for i, j, kernel in edges)


def exact(known: list[Bag], edges: Edges, lambda_b: float, lambda_s: float) -> Any:
    states = np.array(list(product((0, 1), repeat=sum(len(bag.members) for bag in known))))
    weights = np.exp([energy(state, known, edges, lambda_b, lambda_s) for state in states])
    return weights @ states / weights.sum()


@pytest.mark.parametrize("factors", FACTORS)
def test_check_1_potentials_are_the_energy(factors: str) -> None:
    """For every state the two forms differ by one constant; two of the edges stand inside a bag."""
    draw = np.random.default_rng(0)
    known = bags_of((3, 1), (4, 3), (1, 0))
    edges = [(i, j, float(draw.uniform())) for i, j in combinations(range(8), 2) if draw.uniform() < 0.4]
    assert any(j < 3 for _, j, _ in edges)
    theta_N, pairs, groups = gibbs(known, edges, 1.3, 0.7, factors)
    differences = []
    for state in product((0, 1), repeat=8):
        states_N = np.array(state)
        value = states_N @ theta_N + (states_N[pairs.first_E] * states_N[pairs.second_E]) @ pairs.theta_E
        for group in groups:
            for members_M, table_S in zip(group.members_GM, group.table_GS, strict=True):
                value += table_S[states_N[members_M].sum()]
        differences.append(value - energy(states_N, known, edges, 1.3, 0.7))
    assert max(differences) - min(differences) < 1e-5


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize(("weights", "wanted"), [
    ((1, 0), [0.5, 0.5, 0.779830, 0.779830]),
    ((1, 1), [0.629314, 0.440242, 0.779830, 0.779830]),
    ((10, 10), [0.999909, 0.000136, 0.999955, 0.999955]),
])  # fmt: skip
def test_check_2_trees_are_exact(factors: str, weights: tuple[float, float], wanted: list[float]) -> None:
    found = marginals(bags_of((2, 1), (2, 2)), [(0, 2, 1.0)], *weights, factors)
    assert found == pytest.approx(wanted, abs=1e-6)


def test_check_2_a_bag_of_two_by_hand() -> None:
    theta_N, pairs, _ = gibbs(bags_of((2, 1)), [], 1, 0, "pairwise")
    assert (theta_N.tolist(), pairs.theta_E.tolist()) == ([1, 1], [-2])
    found = propagate(theta_N, pairs)
    assert found.log_odds_N - theta_N == pytest.approx([-1, -1])
    assert found.marginals == pytest.approx([0.5, 0.5])


def test_check_3_loops() -> None:
    """An edge inside a bag of three leaves a tree of pairs, and makes a loop with the factor of their number."""
    known, edge = bags_of((3, 1)), [(0, 1, 1.0)]
    assert exact(known, edge, 1, 1) == pytest.approx([0.322191, 0.322191, 0.466939], abs=1e-6)
    assert marginals(known, edge, 1, 1, "pairwise") == pytest.approx([0.322191, 0.322191, 0.466939], abs=1e-6)
    assert marginals(known, edge, 1, 1, "cardinality") == pytest.approx([0.359844, 0.359844, 0.414989], abs=1e-6)
    assert exact(known, [], 1, 1) == pytest.approx([0.390677] * 3, abs=1e-6)
    assert marginals(known, [], 1, 1, "pairwise") == pytest.approx([0.405864] * 3, abs=1e-6)
    assert marginals(known, [], 1, 1, "cardinality") == pytest.approx([0.390677] * 3, abs=1e-6)


@pytest.mark.parametrize("factors", FACTORS)
def test_check_4_symmetries(factors: str) -> None:
    draw = np.random.default_rng(3)
    known = bags_of((4, 1), (3, 3), (4, 2))
    edges = [(i, j, float(draw.uniform())) for i, j in combinations(range(11), 2) if draw.uniform() < 0.3]
    plain = marginals(known, edges, 1, 1, factors)
    swapped = [Bag(bag.id, "", bag.members, len(bag.members) - bag.positives) for bag in known]
    for sweeps in (0, 1, 2, 7, 50):  # with the neutral start at every sweep
        one, other = (marginals(which, edges, 1, 1, factors, sweeps=sweeps) for which in (known, swapped))
        assert np.abs(one + other - 1).max() < 1e-6
    order = [4, 5, 6, 0, 1, 2, 3, *range(7, 11)]  # the second bag first
    place = {old: new for new, old in enumerate(order)}
    moved = [(*sorted((place[i], place[j])), kernel) for i, j, kernel in edges]
    permuted = marginals([known[1], known[0], known[2]], moved, 1, 1, factors)  # type: ignore[arg-type]
    assert permuted == pytest.approx(plain[order], abs=1e-6)
    alone = marginals(bags_of((1, 1), (1, 0)), [], 50, 1, factors)
    assert alone == pytest.approx([1, 0], abs=1e-9)
    free = marginals(known, edges, 0, 5, factors, sweeps=3)
    assert free == pytest.approx([0.5] * 11, abs=1e-6)


def test_check_5_gradient_against_finite_differences() -> None:
    """Two bags, one of them padded; the padding's numbers get no gradient."""
    torch.manual_seed(0)
    numbers_NP = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    model = networks.build_network(numbers_NP, [5], 0, method.CLASSES).double()
    batch = collate_bags(numbers_NP, np.array([1.0, 0.0, 1.0]), bags_of((2, 1), (1, 1)), [0, 2], [0, 1])
    values = batch.numbers_BMP.double().requires_grad_()
    rest = {"labels_BM": batch.labels_BM.double(), "shares_B": batch.shares_B.double(), "mask_BM": batch.mask_BM}
    assert batch.counts == {"loss": 3, "bags": 2}
    assert batch.shares_B.tolist() == [0.5, 1.0]

    def loss(numbers_BMP: Any) -> Any:
        terms, _ = method.aggregate_loss(0.1)(model, bags.replace(batch, numbers_BMP=numbers_BMP, **rest))
        return terms["loss"] / 3 + terms["bags"] / 2

    loss(values).backward()
    assert values.grad is not None
    assert torch.equal(values.grad[1, 1], torch.zeros(4, dtype=torch.double)), "a padded slot"
    for place in product(range(2), range(2), range(4)):
        step = torch.zeros_like(values)
        step[place] = 1e-5
        with torch.no_grad():
            slope = (loss(values + step) - loss(values - step)) / 2e-5
        assert values.grad[place].item() == pytest.approx(slope.item(), abs=1e-6)


def test_check_5_losses_by_hand() -> None:
    """Of a bag of two and a padded one of one: rows against labels, bags against shares, and both with a weight."""
    torch.manual_seed(0)
    numbers_NP = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    model = networks.build_network(numbers_NP, [5], 0, method.CLASSES)
    labels_N, shares_B = np.array([1.0, 0.0, 1.0]), (0.5, 1.0)
    batch = collate_bags(numbers_NP, labels_N, bags_of((2, 1), (1, 1)), [0, 2], [0, 1])
    with torch.no_grad():
        embedded_ND = model.embed(torch.tensor(numbers_NP))
        p_N = model.tell_instances(embedded_ND).sigmoid().double().numpy()
        means_BD = torch.stack([embedded_ND[:2].mean(dim=0), embedded_ND[2]])
        bags_B = model.head["bag"](means_BD)[:, 0].sigmoid().double().numpy()
        found, _ = method.aggregate_loss(0.3)(model, batch)
        alone, _ = method.share_loss(model, batch)
        told, _ = method.label_loss(model, batch)

    def entropy(wanted: Any, said: Any) -> float:
        return -sum(y * np.log(p) + (1 - y) * np.log(1 - p) for y, p in zip(wanted, said, strict=True))

    assert found["loss"].item() == pytest.approx(entropy(labels_N, p_N), rel=1e-5)
    assert found["bags"].item() == pytest.approx(0.3 * entropy(shares_B, bags_B), rel=1e-5)
    assert told["loss"].item() == pytest.approx(entropy(labels_N, p_N), rel=1e-5)
    wanted = entropy(shares_B, [p_N[:2].mean(), p_N[2]])
    assert alone["bags"].item() == pytest.approx(wanted, rel=1e-5)
    assert method.fit_of(model, batch) == pytest.approx(wanted / 2, rel=1e-5)


def test_check_6_bags_of_27000_rows_in_under_a_minute() -> None:
    numbers_NP = np.random.default_rng(0).normal(size=(27_000, 16))
    known = bags_of(*[(8, number % 9) for number in range(27_000 // 8)])
    started = time.perf_counter()
    theta_N, pairs, groups = method.write_gibbs(known, *method.connect(numbers_NP, 5, 2.0), 1, 1, "pairwise")
    assert 94_000 < len(pairs.theta_E) < 94_500 + 5 * 27_000
    assert propagate(theta_N, pairs, groups, sweeps=100).sweeps == 100
    assert time.perf_counter() - started < 60


def test_neighbours_are_the_nearest_and_each_pair_stands_once() -> None:
    """Against all distances. Equal rows are neighbours, and nobody is its own."""
    numbers_ND = np.random.default_rng(5).normal(size=(40, 3))
    first_E, second_E, kernel_E = method.connect(numbers_ND, 3, 2.0, length=2.0)
    scaled = (numbers_ND - numbers_ND.mean(axis=0)) / numbers_ND.std(axis=0)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    near = {tuple(sorted((i, int(j)))) for i in range(40) for j in distance[i].argsort()[:3]}
    assert set(zip(first_E.tolist(), second_E.tolist(), strict=True)) == near
    assert len(first_E) == len(near)
    assert kernel_E == pytest.approx(np.exp(-np.linalg.norm(scaled[first_E] - scaled[second_E], axis=1) / 2))
    assert np.median(method.connect(numbers_ND, 3, 2.0)[2]) == pytest.approx(np.exp(-1), abs=1e-4)
    closer = method.connect(numbers_ND, 3, 0.05)
    assert 0 < len(closer[0]) < len(first_E)
    assert (distance[closer[0], closer[1]] < 0.05).all()
    numbers_ND[:6] = numbers_ND[0]  # more equal rows than neighbours: some do not find themselves among the nearest
    first_E, second_E, kernel_E = method.connect(numbers_ND, 3, 2.0)
    assert (first_E < second_E).all()
    assert all(((first_E == row) | (second_E == row)).sum() >= 3 for row in range(6))
    assert (kernel_E[second_E < 6] == 1).all()


def test_pseudo_labels() -> None:
    log_odds_N = np.array([0.3, -2.0, 0.3, 5.0, 5.0, -1.0])
    known = bags_of((3, 1), (3, 2))
    assert method.label_members(log_odds_N, known, "project").tolist() == [1, 0, 0, 1, 1, 0], "ties to the lower index"
    assert method.label_members(log_odds_N, known, "threshold").tolist() == [1, 0, 1, 1, 1, 0]
    assert method.label_members(np.zeros(6), known, "threshold").tolist() == [1] * 6, "ties are positive"
    assert method.label_members(log_odds_N, known, "threshold", 0.9).tolist() == [0, 0, 0, 1, 1, 0]
    assert method.label_members(log_odds_N, known, "soft")[1] == pytest.approx(1 / (1 + np.exp(2.0)))


def write_bags(folder: Path, rows: int = 96, size: int = 8) -> Path:
    """Two features, of which the first tells the label; its own total stands in each row. Labels in a file of tests."""
    draw = np.random.default_rng(0)
    values, lines = draw.normal(size=(rows, 2)), ["a,b,bag,positives"]
    for start in range(0, rows, size):
        part = values[start : start + size]
        total = int((part[:, 0] > 0).sum())
        lines += [f"{a:.4f},{b:.4f},bag {start // size},{total}" for a, b in part]
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    fresh = draw.normal(size=(200, 2))
    (folder / "known.csv").write_text(
        "\n".join(["a,b,label", *(f"{a:.4f},{b:.4f},{int(a > 0)}" for a, b in fresh)]) + "\n"
    )
    return folder / "people.csv"


def test_the_reader_of_the_bank_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and labels stand in two files, each with a header of its own."""
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path))
    with pytest.raises(UserError, match="x_train"):
        data.read_rows("llp-bp")
    (tmp_path / "llp-bp").mkdir()
    (tmp_path / "llp-bp" / "x_train.csv").write_text("0,1\n0.5,-1\n2,3e-1\n")
    (tmp_path / "llp-bp" / "y_train.csv").write_text("0\n0\n1\n")
    rows = data.read_rows("llp-bp")
    assert [(row.numbers, row.positive, row.bag) for row in rows] == [((0.5, -1.0), False, ""), ((2.0, 0.3), True, "")]
    assert data.places_of("llp-bp")["train"].endswith("x_train.csv")


def test_a_named_table_has_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its columns are not named in the recipe, and its networks must not ask for a language model all the same."""
    draw = np.random.default_rng(0)
    (tmp_path / "llp-bp").mkdir()
    for split, rows in (("train", 64), ("val", 40)):
        values = draw.normal(size=(rows, 2))
        lines = ["0,1", *(f"{a:.3f},{b:.3f}" for a, b in values)]
        (tmp_path / "llp-bp" / f"x_{split}.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / "llp-bp" / f"y_{split}.csv").write_text("\n".join(["0", *map(str, (values[:, 0] > 0) * 1)]) + "\n")
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path))
    values = {"data.train": "llp-bp", "data.bag_rows": 8, "hidden": [4], "plan.epochs": 1, "refinements": 0}
    folder = methods.run("llp-bp", {**values, "model.base": "./no-such-model"}, out=tmp_path / "run")
    assert "base" not in json.loads((folder / "model" / "handle.json").read_text())
    network, base = models.load_handle(folder / "model")
    assert (network.width, base) == (2, None)
    (tmp_path / "new.csv").write_text("text\none\n")
    with pytest.raises(UserError, match="reads numbers of a table"):
        prediction.predict_file(folder, tmp_path / "new.csv", tmp_path / "out.jsonl", label=method.label_rows)


TABLE = {"data.features": ["a", "b"], "hidden": [16], "plan.epochs": 40, "plan.batch_rows": 32}


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """From bags alone: single rows are told apart, totals are kept, nothing says what nobody knows."""
    people = write_bags(tmp_path)
    values = {"data.train": str(people), "data.test": str(tmp_path / "known.csv"), "compare": True, **TABLE}
    folder = methods.run("llp-bp", values, out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["held_out"]["systems"]["refined beliefs"]["auroc"]["value"] > 0.85
    assert set(scores["held_out"]["systems"]) == {"belief propagation", "refined beliefs", "bag shares (DLLP)"}
    assert scores["beliefs round-1"]["mean miss of a total"] == 0
    assert "AUROC of beliefs" not in scores["beliefs round-0"]
    rows: list[Any] = list(iterate_rows(folder / "predictions" / "members.jsonl"))
    assert len(rows) == 96
    assert all(row.gold is None for row in rows)
    before = (folder / "scores.json").read_bytes()
    methods.resume(folder)
    assert (folder / "scores.json").read_bytes() == before
    again = methods.run("llp-bp", values, out=tmp_path / "again")
    assert (again / "scores.json").read_bytes() == before, "equal seeds, equal scores"


@pytest.mark.parametrize(("place", "calls"), [("propagate", 1), ("share_loss", 0), ("share_loss", 7), ("predict", 1)])
def test_a_killed_run_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, calls: int
) -> None:
    """Before the second round's beliefs, at the first step of a network and later, and before a prediction."""
    values = {"data.train": str(write_bags(tmp_path)), "data.test": str(tmp_path / "known.csv"), "compare": True}
    values |= TABLE | {"plan.epochs": 4}
    whole = methods.run("llp-bp", values, out=tmp_path / "whole")
    real, left = getattr(method, place), [calls]

    def dies(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*given, **named)

    monkeypatch.setattr(method, place, dies)
    with pytest.raises(Killed):
        methods.run("llp-bp", values, out=tmp_path / "killed")
    monkeypatch.setattr(method, place, real)
    methods.resume(tmp_path / "killed")
    for name in ("scores.json", "predictions/members.jsonl", "predictions/refined-beliefs.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(("change", "words"), [
    (lambda text: text.replace(",bag 3,", ",bag 3,9") , "beyond the size of their bag: bag 3"),
    (lambda text: text.replace("bag 2,", "bag 2,1", 1), "different totals are told of bag 2"),
    (lambda text: text.replace(",positives", ",count"), "no column 'positives'"),
    (lambda text: "a,b,bag,positives\n1,2,x,0\n3,4,x,0\n", "all rows of all bags are negative"),
    (lambda text: text.replace("bag 1,", "bag 1,x", 1), "holds no number"),
    (lambda text: re.sub(r"(bag 1),\d", r"\1,inf", text), "holds no number"),
    (lambda text: re.sub(r"(bag 1),\d", r"\1,nan", text), "holds no number"),
    (lambda text: re.sub(r"(bag 1),\d", r"\1,-1", text), "beyond the size of their bag: bag 1 (-1 of 8 rows)"),
    (lambda text: re.sub(r"(bag 1),\d", r"\1,2.5", text), "no whole number: bag 1"),
])  # fmt: skip
def test_bags_that_cannot_be(change: Any, words: str, tmp_path: Path) -> None:
    people = write_bags(tmp_path)
    people.write_text(change(people.read_text()))
    with pytest.raises(UserError) as raised:
        method.check(methods.resolve("llp-bp", {"data.train": str(people), **TABLE}))
    assert words in " ".join(error.what for error in raised.value.all())


def test_a_bag_that_loses_a_row_is_left_out(tmp_path: Path) -> None:
    """Its total counts the row too. With shares it stays: a share is of whatever rows there are."""
    people = write_bags(tmp_path)
    lines = people.read_text().splitlines()
    lines[9] = ",".join(["", *lines[9].split(",")[1:]])  # the first row of bag 1 lacks a number
    people.write_text("\n".join(lines) + "\n")
    values = {"data.train": str(people), "data.missing": "drop", **TABLE}
    found = bags.read_bags(methods.resolve("llp-bp", values).data, 0)
    assert "bag 1" not in {bag.id for bag in found.bags}
    assert len(found.bags) == 11
    assert found.dropped["in bags whose total counts rows that were left out"] == 7
    assert not any(row.bag == "bag 1" for row in found.members)


def test_drawn_bags_count_labelled_rows_only(tmp_path: Path) -> None:
    rows = [f"text {n},{'' if n % 3 == 0 else n % 2}" for n in range(60)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    values = bags.BagData(train=str(tmp_path / "rows.csv"), bag_rows=5)
    found = bags.read_bags(values, 0)
    assert all(row.positive is not None for row in found.members)
    assert sum(bag.positives for bag in found.bags) == sum(row.positive is True for row in found.members)
    assert "without a label, so that no bag can count them" in found.dropped
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(f"text {n}" for n in range(60)) + "\n")
    with pytest.raises(UserError, match="no row has a label"):
        bags.read_bags(values, 0)


def test_equal_texts_in_several_bags_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,bag,positives\none,x,1\ntwo,x,1\none,y,1\nfour,y,1\n")
    found = bags.read_bags(bags.BagData(train=str(tmp_path / "rows.csv")), 0)
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("1 texts or lines of numbers stand in several bags")


def test_bags_are_held_out_at_random_and_one_is_too_few(tmp_path: Path) -> None:
    """The rows of the chosen bags go with them; a share that would leave none to learn from is cut."""
    known = bags_of((2, 1), (3, 1), (1, 0))
    assert rows_of(known, [0, 2]).tolist() == [0, 1, 5]
    for share, count in ((0.3, 3), (0.01, 1), (0.99, 9)):
        learned, kept = hold_out_bags(10, share, 0)
        assert len(kept) == count
        assert sorted([*learned.tolist(), *kept.tolist()]) == list(range(10))
    people = write_bags(tmp_path, rows=16)
    values = {"data.train": str(people), **TABLE, "plan.keep": "best", "held_out_bags": 0.9}
    assert (methods.run("llp-bp", values, out=tmp_path / "run") / "scores.json").exists()
    people = write_bags(tmp_path, rows=8)
    with pytest.raises(UserError, match="that is held out, and there is one"):
        method.check(methods.resolve("llp-bp", values))
    values = {"data.train": str(write_bags(tmp_path, 96, 48)), **TABLE, "factors": "pairwise"}
    with pytest.raises(UserError, match="does not settle"):
        method.check(methods.resolve("llp-bp", values))


def test_totals_in_a_table_of_their_own(tmp_path: Path) -> None:
    """Shares, an empty bag, a bag without a total, and rows that stand in two bags."""
    (tmp_path / "rows.csv").write_text("id,text,bag\n1,one,x\n2,two,x\n3,three,y\n4,four,y\n5,five,z\n")
    (tmp_path / "totals.csv").write_text("bag,positives\nx,0.5\ny,1\nempty,0.2\n")
    values = {
        "data.train": str(tmp_path / "rows.csv"),
        "data.totals": str(tmp_path / "totals.csv"),
        "data.shares": True,
        "data.id": "id",
    }
    with pytest.raises(UserError) as raised:
        method.check(methods.resolve("llp-bp", values))
    said = [error.what for error in raised.value.all()]
    assert any("no total of z" in what for what in said)
    assert any("empty have no rows" in what for what in said)
    (tmp_path / "rows.csv").write_text("id,text,bag\n1,one,x\n2,two,x\n3,three,y\n4,four,y\n")
    recipe = methods.resolve("llp-bp", {**values, "data.missing": "drop"})
    found = bags.read_bags(recipe.data, 0)
    assert [(bag.id, bag.members, bag.positives) for bag in found.bags] == [("x", ("1", "2"), 1), ("y", ("3", "4"), 2)]
    assert found.dropped == {"bags without rows": 1}
    (tmp_path / "rows.csv").write_text("id,text,bag\n1,one,x\n2,two,x\n2,two,y\n4,four,y\n")
    with pytest.raises(UserError, match="in more than one bag, or twice in one: 2"):
        bags.read_bags(recipe.data, 0)


def test_texts_through_a_frozen_model(tiny_model: Path, tmp_path: Path) -> None:
    """Bags drawn from labelled texts; the run then labels a file, and knows its base."""
    lines = ["text,label"]
    draw = np.random.default_rng(1)
    for number in range(120):
        good = draw.uniform() < 0.5
        lines.append(f"the {'dog' if good else 'bird'} number {number},{'pos' if good else 'neg'}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    values = {
        "model.base": str(tiny_model),
        "data.train": str(tmp_path / "rows.csv"),
        "data.positive": "pos",
        "data.bag_rows": 4,
        "plan.epochs": 20,
        "hidden": [16],
        "refinements": 0,
        "compare": True,
        "plan.keep": "best",
    }
    recipe = methods.resolve("llp-bp", values)
    assert any("96 in 24 bags of 4 to 4, test 24" in value for _, value in method.check(recipe))
    folder = methods.run("llp-bp", values, out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["held_out"]["systems"]["full supervision"]["auroc"]["value"] > 0.9
    assert scores["held_out"]["systems"]["belief propagation"]["auroc"]["value"] > 0.8
    (tmp_path / "new.csv").write_text("text\nthe dog number 7\nthe bird number 9\n")
    count = prediction.predict_file(folder, tmp_path / "new.csv", tmp_path / "out.jsonl", label=method.label_rows)
    assert count == 2
    labels = [json.loads(line)["predicted"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert labels == ["positive", "negative"]
    assert models.load_handle(folder / "model")[1].spec == str(tiny_model)


def test_fields_that_contradict_each_other() -> None:
    values = {"data.bag_rows": 64, "factors": "pairwise", "plan.tuning": "full", "data.train": "crowd-tweets"}
    with pytest.raises(UserError) as raised:
        method.check(methods.resolve("llp-bp", {**values, "data.positive": "positive"}))
    said = " ".join(error.what for error in raised.value.all())
    assert "does not settle" in said
    assert "frozen" in said


def test_neighbours_without_what_all_rows_differ_in_most() -> None:
    """Six directions vary most and say nothing of the label: without them neighbours have the same one."""
    draw = np.random.default_rng(0)
    gold_N = np.arange(400) % 2
    numbers_ND = draw.normal(size=(400, 10)) * [3] * 10
    numbers_ND[:, 6:] = gold_N[:, None] + 0.2 * draw.normal(size=(400, 4))
    numbers_ND = numbers_ND @ np.linalg.qr(draw.normal(size=(10, 10)))[0]  # else scaling makes all alike
    share = {}
    for without in (0, 6):
        first_E, second_E, kernel_E = method.connect(numbers_ND, 5, 2.0, without=without)
        share[without] = (gold_N[first_E] == gold_N[second_E]).mean()
        assert len(kernel_E) == len(first_E)
    assert share[0] < 0.75 < 0.9 < share[6]
