"""Every row of the methods' table: documented, with settings that can be had, refused where a name is wrong."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from unsee import rivals
from unsee.comparison.tuning import centre
from unsee.errors import UnseeError
from unsee.rivals import METHODS, method
from unsee.rivals.method import Choice, Real, Training

FILES = Path(rivals.__file__).parent


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name):
    way = METHODS[name]
    assert name == way.name and way.title and way.trains
    assert way.paper == "none" or way.paper.startswith("arXiv ") or way.note
    assert is_dataclass(way.config) and way.config.__dataclass_params__.frozen
    assert way.kind == "reference" or way.space or way.note


@pytest.mark.parametrize("name", METHODS)
def test_all_that_is_tuned_can_be_set(name):
    way = METHODS[name]
    middle = way.settings(**centre(way.space))
    assert all(getattr(middle, k) == v for k, v in centre(way.space).items())
    for knob, of in way.space.items():
        ends = of.values if isinstance(of, Choice) else (of.low, of.high)
        for value in ends:
            assert getattr(way.settings(**{knob: value}), knob) == value


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_its_own_is_documented(name):
    config = METHODS[name].config
    tree = ast.parse(inspect.getsource(config)).body[0].body
    own = [node.target.id for node in tree if isinstance(node, ast.AnnAssign)]
    told = [
        before.target.id
        for before, after in zip(tree, tree[1:], strict=False)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    ]
    shared = {f.name for f in fields(Training)}
    assert [n for n in own if n not in told and n not in shared] == []


def test_rates_that_are_tried_are_of_one_size_for_all_that_train_adapters():
    tried = {n: m.space["lr"] for n, m in METHODS.items() if "lr" in m.space and m.config().weights == "lora"}
    assert len(tried) > 8 and set(tried.values()) == {Real(1e-4, 1e-2)}


def test_a_new_method_takes_one_short_file():
    lines = (FILES / "ga.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60 and "METHOD = Method(" in lines


def test_every_file_with_a_method_stands_in_the_table():
    made = [p.stem for p in FILES.glob("*.py") if "METHOD = " in p.read_text(encoding="utf-8")]
    assert {m.forget.__module__.rpartition(".")[2] for m in METHODS.values()} == set(made)


def test_an_unknown_method():
    with pytest.raises(UnseeError, match="there is no method 'mmunlearn'. Did you mean 'mmunlearner'?"):
        method("mmunlearn")
