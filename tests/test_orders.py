"""No output hangs on the order of a set, which is another in each process: none is gone through unsorted."""

from __future__ import annotations

import ast
from pathlib import Path

import unsee

FILES = sorted(Path(unsee.__file__).parent.rglob("*.py"))
MAKE = ("set", "frozenset")
METHODS = ("keys", "items", "union", "difference", "intersection", "symmetric_difference")
KEEP = ("list", "tuple", "enumerate", "iter", "zip", "map", "filter", "join", "fromkeys", "chain", "next")
WHATEVER = (*MAKE, "sorted", "any", "all", "len", "sum", "min", "max", "update", "Counter", "isdisjoint", "issuperset")


def is_set(node: ast.expr, known: set[str]) -> bool:
    """Whether an expression is a set, as far as it can be told without running it."""
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name):
        return node.id in known
    if isinstance(node, ast.Call):
        name = called(node)
        return name in MAKE or (name in METHODS[2:] and isinstance(node.func, ast.Attribute))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.BitAnd | ast.BitOr | ast.BitXor):
        views = [s for s in (node.left, node.right) if isinstance(s, ast.Call) and called(s) in METHODS[:2]]
        return bool(views) or is_set(node.left, known) or is_set(node.right, known)
    return False


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def unseen(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether what takes an expression's elements lets nobody see their order."""
    outer = parents.get(node)
    if isinstance(outer, ast.Starred):
        outer = parents.get(outer)
    return isinstance(outer, ast.Set) or (isinstance(outer, ast.Call) and called(outer) in WHATEVER)


def names(function: ast.AST) -> set[str]:
    """Local names that a function gives sets, and nothing else."""
    given: dict[str, list[bool]] = {}
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            for target in targets:
                if isinstance(target, ast.Name):
                    given.setdefault(target.id, []).append(is_set(node.value, set()))
    return {name for name, sets in given.items() if all(sets)}


def unsorted(source: str) -> list[int]:
    """Lines on which a set is gone through in its own order, and the order can be seen in what comes of it."""
    tree, found = ast.parse(source), []
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for scope in [tree, *functions]:
        known = names(scope) if scope is not tree else set()
        for node in ast.walk(scope):
            if isinstance(node, ast.For) and is_set(node.iter, known):
                found.append(node.lineno)
            if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp):
                taken = any(is_set(g.iter, known) for g in node.generators)
            elif isinstance(node, ast.Call):
                taken = called(node) in KEEP and any(is_set(a, known) for a in node.args)
            else:
                taken = isinstance(node, ast.Starred) and is_set(node.value, known)
            if taken and not unseen(node, parents):
                found.append(node.lineno)
    return sorted(set(found))


def test_no_set_is_gone_through_in_its_own_order() -> None:
    found = {str(f.name): lines for f in FILES if (lines := unsorted(f.read_text(encoding="utf-8")))}
    assert not found


def test_the_search_finds_what_it_is_to_find() -> None:
    assert unsorted("for x in a.keys() - b.keys():\n    out[x] = 1") == [1]
    assert unsorted("def f(a):\n    seen = set(a)\n    return [x for x in seen]") == [3]
    assert unsorted("def f(a):\n    return ', '.join({x for x in a})") == [2]
    assert unsorted("def f(a):\n    return [*{1, 2}, *a]") == [2]
    assert unsorted("def f(a):\n    return list(set(a) - {1})") == [2]
    assert not unsorted(
        "def f(a):\n    return sorted(x for x in set(a)), {x for x in {1}}, any(x for x in {1}), {*(x for x in {1})}"
    )


def test_nothing_hangs_on_the_hash_of_a_word() -> None:
    calls = {
        f.name: [n.lineno for n in ast.walk(ast.parse(f.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)
                 and isinstance(n.func, ast.Name) and n.func.id == "hash"]
        for f in FILES
    }  # fmt: skip
    assert not any(calls.values())
