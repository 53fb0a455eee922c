"""Models are compared on the same items or not at all."""

import pytest

from unsee.errors import UnseeError
from unsee.evaluation.compare import over_seeds, paired, same_items
from unsee.evaluation.statistics import share

CONCEPTS = {f"i{k}": f"c{k % 4}" for k in range(12)}


def test_pairs_go_by_id_whatever_their_order() -> None:
    before = {f"i{k}": float(k % 3 == 0) for k in range(12)}
    after = dict(reversed([(i, 1 - v) for i, v in before.items()]))
    got = paired(before, after, CONCEPTS)
    assert got["value"] == pytest.approx((8 - 4) / 12, abs=1e-6) and got["n"] == 12
    assert paired(before, before, CONCEPTS)["p"] == 1


def test_different_items_are_refused_and_shown() -> None:
    with pytest.raises(
        UnseeError, match=r"answers 1 have 2 and answers 2 have 2; 2 are in one of them only, as i0, i2"
    ):
        paired({"i0": 1, "i1": 0}, {"i1": 1, "i2": 0}, CONCEPTS)
    with pytest.raises(UnseeError, match="answers 3 have 1"):
        same_items({"i0": 1, "i1": 0}, {"i1": 1, "i0": 0}, {"i0": 0})
    with pytest.raises(UnseeError, match="1 items without a concept, as x"):
        paired({"x": 1.0}, {"x": 1.0}, CONCEPTS)


def test_seeds() -> None:
    runs = [{f"i{k}": float((k + s) % 3 == 0) for k in range(12)} for s in range(3)]
    got = over_seeds(runs, CONCEPTS)
    assert got["value"] == pytest.approx(1 / 3, abs=1e-6) and got["n"] == 12
    one = over_seeds(runs[:1], CONCEPTS)
    ids = sorted(CONCEPTS)
    assert one == share([runs[0][i] for i in ids], [CONCEPTS[i] for i in ids])
    with pytest.raises(UnseeError, match="no seeds"):
        over_seeds([], CONCEPTS)
    with pytest.raises(UnseeError, match="not the same items"):
        over_seeds([{"i0": 1.0}, {"i1": 1.0}], CONCEPTS)
