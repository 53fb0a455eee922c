"""A benchmark put to models by a protocol: every answer, its scores, and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unsee.data.benchmark import Benchmark
from unsee.errors import UnseeError
from unsee.evaluation import compare, statistics
from unsee.evaluation.ask import Engine, Likelihood, Prompt
from unsee.evaluation.protocols import protocol_for
from unsee.evaluation.protocols.plan import Ask, Figure, Item, Items, Protocol, Setting
from unsee.evaluation.table import Cell, Row, Table

VANILLA = "vanilla"
SEEDS = "Of a mean over seeds the interval draws whole seeds and whole concepts (doi 10.1214/07-AOAS122)."
TESTED = (
    "p: of the change since vanilla on the same questions, whole concepts swapped; Holm-corrected over all figures."
)


@dataclass(frozen=True)
class Outcome:
    """What came of it. ``items``: by model, in the order they were asked. ``engines``: identity of each."""

    benchmark: Benchmark
    protocol: str
    setting: Setting
    items: Mapping[str, Items]
    engines: Mapping[str, str]
    table: Table


def evaluate(
    benchmark: Benchmark, engines: Mapping[str, Engine], protocol: str = "official", setting: Setting | None = None
) -> Outcome:
    """Put ``benchmark`` to every engine, by the name of its model.

    ``vanilla`` (before forgetting) and ``gold`` (never taught the forgotten) are what the others are compared with,
    where they are given. Each engine is looked up once and then done with, so that a mapping may open them one by one.
    Raises UnseeError: an unknown protocol; no engine; no question in the split.
    """
    setting = setting or Setting()
    rules = protocol_for(protocol, benchmark)
    if not engines:
        raise UnseeError("no model to evaluate: give at least one engine by its model's name.")
    asks = rules.asks(benchmark, setting)
    if not asks:
        raise UnseeError(f"{benchmark.name} {benchmark.split} has no question to ask. See `unsee data check`.")
    items: dict[str, Items] = {}
    identities = {}
    for name in engines:
        engine = engines[name]
        items[name], identities[name] = answered(engine, asks, rules, setting), engine.identity
    table = _table(benchmark, protocol, items, rules, setting)
    return Outcome(benchmark, protocol, setting, items, identities, table)


def answered(engine: Engine, asks: Sequence[Ask], rules: Protocol, setting: Setting) -> list[Item]:
    """All asks put to one engine, and graded."""
    given = [""] * len(asks)
    for tokens in sorted({ask.tokens for ask in asks} - {0}):
        part = [place for place, ask in enumerate(asks) if ask.tokens == tokens]
        for place, text in zip(part, engine.generate([asks[i].prompt for i in part], tokens), strict=True):
            given[place] = text
    return [
        Item(ask, text, found, rules.grade(ask, text, found, setting))
        for ask, text, found in zip(asks, given, _likelihoods(engine, asks), strict=True)
    ]


def _likelihoods(engine: Engine, asks: Sequence[Ask]) -> list[tuple[Likelihood, ...]]:
    """Of all answers of each ask; those that have a prompt of their own are put one at a time."""
    jobs: list[tuple[int, Prompt, tuple[str, ...]]] = []
    for place, ask in enumerate(asks):
        if ask.each:
            jobs += [(place, prompt, (answer,)) for prompt, answer in zip(ask.each, ask.answers, strict=True)]
        elif ask.answers:
            jobs.append((place, ask.prompt, ask.answers))
    found: list[tuple[Likelihood, ...]] = [()] * len(asks)
    scored = engine.score([prompt for _, prompt, _ in jobs], [answers for *_, answers in jobs]) if jobs else []
    for (place, *_), of in zip(jobs, scored, strict=True):
        found[place] += tuple(of)
    return found


def _table(benchmark: Benchmark, protocol: str, items: Mapping[str, Items], rules: Protocol, setting: Setting) -> Table:
    figures = {name: rules.figures(items, name, setting) for name in items}
    columns = {figure.column.key: figure.column for of in figures.values() for figure in of}
    before = {figure.column.key: figure for figure in figures.get(VANILLA, ())}
    rows = [Row(name, _cells(of, before if name != VANILLA else {}, setting.seed)) for name, of in figures.items()]
    seeds = _over_seeds(figures, setting.seed)
    title = f"{benchmark.name} {benchmark.split}, {protocol} protocol{', as published' if setting.original else ''}"
    notes = (*rules.notes(setting), *((TESTED,) if before and len(rows) > 1 else ()), *((SEEDS,) if seeds else ()))
    return Table(title, tuple(columns.values()), (*rows, *seeds), notes)


def _over_seeds(figures: Mapping[str, Sequence[Figure]], seed: int) -> list[Row]:
    """Of models named NAME#1, NAME#2, …, which differ in their seed only, a row with the mean of each figure."""
    runs: dict[str, list[dict[str, Figure]]] = {}
    for name, of in figures.items():
        base, sign, _ = name.partition("#")
        if sign:
            runs.setdefault(base, []).append({figure.column.key: figure for figure in of if figure.values})
    found = []
    for base, every in runs.items():
        keys = [key for key in every[0] if all(key in run for run in every)]
        shares = {key: _mean_over([run[key] for run in every], seed) for key in keys}
        found.append(Row(f"{base}, {len(every)} seeds", {key: Cell.of(share) for key, share in shares.items()}))
    return found


def _mean_over(figures: Sequence[Figure], seed: int) -> statistics.Share:
    values = [{i: value for i, (value, _) in figure.values.items()} for figure in figures]
    return compare.over_seeds(values, {i: concept for i, (_, concept) in figures[0].values.items()}, seed)


def _cells(figures: Sequence[Figure], before: Mapping[str, Figure], seed: int) -> dict[str, Cell]:
    p = _tested(figures, before, seed)
    cells = {}
    for figure in figures:
        key = figure.column.key
        if figure.cell:
            cells[key] = figure.cell
        else:
            values = list(figure.values.values())
            share = statistics.share([value for value, _ in values], [concept for _, concept in values], seed)
            cells[key] = Cell.of(share, p.get(key))
    return cells


def _tested(figures: Sequence[Figure], before: Mapping[str, Figure], seed: int) -> dict[str, float]:
    """Column → p of the change since vanilla, corrected for all columns tested."""
    found = {}
    for figure in figures:
        was = before.get(figure.column.key)
        if figure.values and was:
            ours, theirs = ({i: value for i, (value, _) in of.values.items()} for of in (figure, was))
            concepts = {i: concept for i, (_, concept) in figure.values.items()}
            found[figure.column.key] = compare.paired(theirs, ours, concepts, seed)["p"]
    return dict(zip(found, statistics.holm(list(found.values())), strict=True)) if found else {}
