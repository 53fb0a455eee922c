"""The declared score by hand, marks where differences are real and nowhere else, and a record that reads back."""

import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from tests import small_comparison

from unsee.comparison import contest, significance
from unsee.comparison.bench import Plan
from unsee.comparison.figures import MEASURES, Draws, distance, measured
from unsee.comparison.outcome import Comparison, Trial
from unsee.comparison.score import kept, score, scores, shares
from unsee.comparison.table import ranked, scores_of, table
from unsee.errors import UnseeError
from unsee.evaluation import statistics

VANILLA = {
    "forget_names": 1.0, "forget_facts": 0.8, "forget_attributes": 0.9, "forget_text": 1.0, "retain_names": 1.0,
    "retain_facts": 0.8, "retain_text": 1.0, "heldout_names": 1.0, "heldout_facts": 1.0, "heldout_text": 1.0,
}  # fmt: skip
AFTER = VANILLA | {
    "forget_names": 0.1, "forget_facts": 0.08, "forget_attributes": 0.45, "retain_facts": 0.44, "heldout_names": 0.5,
    "forget_text": 0.1,
}  # fmt: skip
OURS = {"forget_names": 0.02, "forget_facts": 0.05, "*": 0.96}
SAME = {"forget_names": 0.02, "forget_facts": 0.05, "*": 0.96}
LOSES_TEXT = OURS | {"forget_text": 0.2}
GUARD = {"forget_names": 0.0, "forget_facts": 0.0, "*": 0.96}


@pytest.fixture(scope="module")
def four() -> Comparison:
    return small_comparison.comparison(
        {"ga": {"*": 0.0}, "noise": SAME, "unsee": OURS, "graddiff": LOSES_TEXT, "noop": {"*": 0.98}}
    )


def cell(comparison: Comparison, method: str, key: str):
    return next(row for row in table(comparison).rows if row.model == method).cells[key]


def test_the_shares_and_their_harmonic_mean_by_hand() -> None:
    found = shares(AFTER, VANILLA)
    by_hand = {"forgetting": 0.9, "retention": 0.8, "held-out": 0.75, "attributes": 0.5, "text": 0.7}
    assert found == pytest.approx(by_hand)
    assert score(AFTER, VANILLA) == pytest.approx(5 / (1 / 0.9 + 1 / 0.8 + 1 / 0.75 + 1 / 0.5 + 1 / 0.7))
    assert kept(found) == pytest.approx((0.8 + 0.75 + 0.5 + 0.7) / 4)


def test_one_share_of_zero_is_a_score_of_zero() -> None:
    assert score(VANILLA, VANILLA) == 0  # nothing forgotten
    assert score(dict.fromkeys(VANILLA, 0.0), VANILLA) == 0  # everything forgotten
    assert score(AFTER | {"forget_attributes": 0.0}, VANILLA) == 0
    assert score(AFTER, VANILLA) > 0.5


def test_shares_are_clipped() -> None:
    better = shares(
        AFTER | {"retain_names": 1.0, "retain_facts": 1.0, "forget_names": 1.0, "forget_facts": 1.0}, VANILLA
    )
    assert better["retention"] == 1 and better["forgetting"] == 0


def test_what_was_never_asked_or_never_known_is_no_part() -> None:
    flags = {k: v for k, v in VANILLA.items() if k != "forget_attributes"}
    assert "attributes" not in shares(AFTER, flags)
    assert score(AFTER, flags) == pytest.approx(4 / (1 / 0.9 + 1 / 0.8 + 1 / 0.75 + 1 / 0.7))
    assert "attributes" not in shares(AFTER, VANILLA | {"forget_attributes": 0.0})
    assert score(AFTER, dict.fromkeys(VANILLA, 0.0)) == 0


def test_a_figure_that_is_missing_after_is_refused() -> None:
    with pytest.raises(UnseeError, match="retain_text"):
        score({k: v for k, v in AFTER.items() if k != "retain_text"}, VANILLA)


def test_many_scores_at_once_are_each_the_score() -> None:
    rng = np.random.default_rng(0)
    many = {k: rng.random(5) for k in VANILLA}
    each = [score({k: v[i] for k, v in many.items()}, VANILLA) for i in range(5)]
    assert scores(many, {k: np.full(5, v) for k, v in VANILLA.items()}) == pytest.approx(each)


def test_intervals_are_those_of_the_crossed_bootstrap(four: Comparison) -> None:
    runs, of = four.runs_of("graddiff"), four.clusters["forget_text"]
    ours = measured(next(m for m in MEASURES if m.key == "forget_text"), runs, Draws(four.clusters))
    theirs = statistics.crossed([r.values["forget_text"] for r in runs], of)
    assert ours["value"] == pytest.approx(theirs["value"]) and ours["n"] == theirs["n"]
    assert (ours["low"], ours["high"]) == pytest.approx((theirs["low"], theirs["high"]), abs=0.02)


def test_a_mean_of_figures_has_no_width_where_all_is_right() -> None:
    whole = small_comparison.comparison({"unsee": {"*": 1.0}})
    text = cell(whole, "unsee", "text")
    assert (text.low, text.value, text.high) == (1, 1, 1)


def test_rows_are_sorted_by_the_declared_score_and_it_lies_in_its_interval(four: Comparison) -> None:
    rows = table(four).rows
    assert [row.model for row in rows[:2]] == ["vanilla", "gold"]
    assert {row.model for row in rows[2:4]} == {"unsee", "noise"} and rows[4].model == "graddiff"
    for row in rows[2:]:
        found = row.cells["score"]
        assert found.value == pytest.approx(np.mean(scores_of(four, row.model)), abs=1e-6)
        assert found.low <= found.value <= found.high


def test_distance_to_gold_has_an_interval_around_it(four: Comparison) -> None:
    far = small_comparison.comparison({"unsee": OURS | {"forget_truth_ratio": 0.7}, "noise": OURS})
    found, near = (distance(far, far.runs_of(m)) for m in ("unsee", "noise"))
    assert found and near and found["low"] <= found["value"] <= found["high"]
    assert found["low"] > near["high"]  # the interval tells the two apart
    assert "distance" not in next(row for row in table(four).rows if row.model == "gold").cells


def test_a_difference_in_all_concepts_is_marked_and_noise_is_not(four: Comparison) -> None:
    made = table(four)
    p = {row.model: {key: found.p for key, found in row.cells.items()} for row in made.rows}
    assert p["graddiff"]["forget_text"] < 0.01 and p["noop"]["forget_names"] < 0.01
    assert all(p["noise"][m.key] > 0.05 for m in MEASURES if m.key != "misnamed")
    assert p["unsee"]["text"] is None and p["vanilla"]["forget_names"] is None
    assert any("Holm" in note for note in made.footnotes)


def test_of_many_methods_that_differ_by_chance_hardly_any_is_marked() -> None:
    rng, of = np.random.default_rng(1), [f"c{i // 3:02}" for i in range(60)]
    differences = [rng.normal(size=60) for _ in range(200)]
    ps = significance.swapped(differences, of)
    assert sum(p < 0.05 for p in ps) > 2  # the control: uncorrected, some seem real
    assert min(statistics.holm(ps)) > 0.05


def test_many_swaps_at_once_give_the_p_of_the_paired_test() -> None:
    rng, of = np.random.default_rng(2), [f"c{i // 3:02}" for i in range(45)]
    difference = rng.normal(0.3, 1, size=45)
    alone = statistics.paired(np.zeros(45).tolist(), difference.tolist(), of, draws=20_000)["p"]
    assert significance.swapped([difference, -difference], of) == pytest.approx([alone, alone], abs=0.01)


def test_what_is_tested_is_the_difference_that_the_table_shows(four: Comparison) -> None:
    cells = {row.model: row.cells for row in table(four).rows}
    for (method, key), test in significance.tests(four).items():
        assert test.difference == pytest.approx(cells[method][key].value - cells["unsee"][key].value, abs=2e-6)


def test_the_more_tests_the_larger_each_p(four: Comparison) -> None:
    few = replace(four, runs=tuple(r for r in four.runs if r.method not in ("ga", "noop")))
    assert 0 < cell(few, "graddiff", "forget_text").p < cell(four, "graddiff", "forget_text").p


def test_too_few_concepts_to_mark_anything_is_said(four: Comparison) -> None:
    few = {f: [c if c < "forget-004" or not c.startswith("forget") else "forget-000" for c in of]
           for f, of in four.clusters.items()}  # fmt: skip
    assert any("Too few concepts" in n and "forgotten names (4)" in n for n in table(replace(four, clusters=few)).notes)
    assert not any("Too few" in n for n in table(four).notes)


def test_behind_where_a_rival_forgets_as_much_and_keeps_more() -> None:
    worse = OURS | {"retain_names": 0.7, "retain_facts": 0.7}
    found = significance.behind(small_comparison.comparison({"unsee": worse, "eco": GUARD}))
    assert len(found) == 1 and "eco" in found[0] and "retained" in found[0]


def test_behind_nowhere_beside_those_that_forget_less_or_are_ours(four: Comparison) -> None:
    assert significance.behind(four) == []
    worse = OURS | {"retain_names": 0.7, "retain_facts": 0.7}
    rivals = {"unsee": worse, "unsee-statistics": GUARD, "noop": {"*": 1.0}}
    assert significance.behind(small_comparison.comparison(rivals)) == []


def test_a_method_that_failed_has_no_figures_and_its_error_stands_below(four: Comparison) -> None:
    runs = (*four.runs, small_comparison.failed("manu", "no gates"), small_comparison.failed("noise", "odd seed", 9))
    made = table(replace(four, runs=runs))
    assert made.rows[-1].model == "manu" and not made.rows[-1].cells
    assert "manu: 1 of 1 runs failed: no gates" in made.notes and "noise: 1 of 3 runs failed: odd seed" in made.notes
    assert next(row for row in made.rows if row.model == "noise").cells["score"].value > 0.9


def test_a_method_with_trials_and_no_run_is_in_the_table(four: Comparison) -> None:
    made = replace(four, trials=four.trials | {"manu": (Trial(0, {}, None, {}, 1.0, "no gates"),)})
    assert ranked(made)[-1] == "manu" and "manu: no run; no gates" in table(made).notes


def test_flags_have_no_attributes() -> None:
    made = table(small_comparison.comparison({"unsee": OURS, "ga": {"*": 0.0}}, attributes=False))
    assert "attributes" not in [c.key for c in made.columns] and "text" in [c.key for c in made.columns]


def test_without_ours_nothing_is_tested_and_without_vanilla_nothing_is_shown(four: Comparison) -> None:
    alone = replace(four, runs=tuple(r for r in four.runs if r.method != "unsee"), trials={})
    made = table(alone)
    assert all(c.p is None for row in made.rows for c in row.cells.values()) and "times" not in made.rows[2].cells
    with pytest.raises(UnseeError, match="vanilla"):
        table(replace(four, runs=tuple(r for r in four.runs if r.method != "vanilla")))


def test_costs_are_means_over_seeds_and_beside_ours(four: Comparison) -> None:
    cells = next(row for row in table(four).rows if row.model == "ga").cells
    seconds = {m: np.mean([r.seconds for r in four.runs_of(m)]) for m in ("ga", "unsee")}
    assert cells["times"].value == pytest.approx(seconds["ga"] / seconds["unsee"])
    assert cells["memory"].value == pytest.approx(902) and "seconds" not in table(four).rows[0].cells


def test_times_of_two_machines_are_not_put_side_by_side(four: Comparison) -> None:
    elsewhere = tuple(replace(r, machine="slow") if r.method == "ga" else r for r in four.runs)
    made = table(replace(four, runs=elsewhere))
    assert not {"seconds", "times"} & {c.key for c in made.columns} and "memory" in {c.key for c in made.columns}
    assert any("slow: ga" in note for note in made.notes)


def test_the_record_reads_back_as_it_was(four: Comparison) -> None:
    whole = replace(four, runs=(*four.runs, small_comparison.failed("manu", "no gates")))
    assert Comparison.from_json(json.loads(json.dumps(whole.to_json()))) == whole


RUN = '{"method": "vanilla", "seed": 0, "settings": {}, "metrics": {}, "values": {}, "distance": null, '
RUN += '"seconds": %s, "peak_bytes": 0, "trained": 0}'


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("plan.json", "{"),
        ("plan.json", "[" * 100_000),
        ("plan.json", '{"steps\\n": 1}'),
        ("clusters.json", "[1]"),
        ("clusters.json", '{"forget_names": 5}'),
        ("runs/vanilla-0.json", "[]"),
        ("runs/vanilla-0.json", '{"values": 7}'),
        ("runs/vanilla-0.json", RUN % '"long"'),
        ("runs/vanilla-0.json", RUN % "NaN"),
    ],
)
def test_a_folder_that_somebody_else_filled_is_refused_in_one_line(tmp_path, file: str, text: str) -> None:
    plan = Plan("m", "", "people", "", "", "forget_10", 0, 1, 1.0, 0, 8, "cpu")
    contest.begin(plan, tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "clusters.json").write_text("{}")
    (tmp_path / "runs" / "vanilla-0.json").write_text(RUN % "1.0")
    (tmp_path / file).write_text(text)
    with pytest.raises(UnseeError, match=r"\.json") as told:
        contest.begin(plan, tmp_path)
        contest.assemble(plan, tmp_path, "")
    assert "\n" not in str(told.value)


def test_a_comparison_is_its_owners(tmp_path) -> None:
    contest.begin(Plan("m", "", "people", "", "", "forget_10", 0, 1, 1.0, 0, 8, "cpu"), tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "plan.json").stat().st_mode) == 0o600
