"""Requests one after another, by their commands: the path of each, the gate, what is kept, what taking back does."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests import forging
from tests.markup import Balanced
from tests.small_ledger import PEOPLE, add, asked, desk, folder, init, made

from unsee.cli import main
from unsee.errors import UnseeError
from unsee.ledger import requests
from unsee.ledger.book import Ledger
from unsee.ledger.rollback import replay, rollback
from unsee.ledger.state import State

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def forgotten(root) -> Path:
    """A ledger in which ada, ben and cleo are verified. Nobody may write into it."""
    ledger = made(root, root / "forgotten", "ada", "ben", "cleo")
    assert main(asked("run", ledger)) == 0
    return ledger


@pytest.fixture
def ledger(forgotten, tmp_path) -> Path:
    return Path(shutil.copytree(forgotten, tmp_path / "ledger"))


def entries(ledger: Path) -> list[Any]:
    return Ledger(ledger).store.entries()


def states(ledger: Path) -> list[str]:
    return [e.state for e in entries(ledger)]


def ids(ledger: Path) -> list[str]:
    return [e.id for e in entries(ledger)]


def told(capsys, args: list[str], code: int = 0) -> str:
    """What a command says: its result, or the one line that tells why not."""
    capsys.readouterr()
    assert main(args) == code
    out, err = capsys.readouterr()
    if code:
        assert err.count("error: ") == 1 and "Traceback" not in err
    return err if code else out


def reset(ledger: Path, more: dict[str, Any], *without: str) -> None:
    """As if the ledger had been made with other settings."""
    config = {k: v for k, v in forging.setting(ledger, "config").items() if k not in without} | more

    def edit(event: str, body: dict[str, Any]) -> None:
        if event == "begun":
            body["config"] = config

    forging.rechain(ledger, edit)
    forging.put(ledger, "config", config)


def same(one: State, two: State) -> bool:
    """To the bit: weights, settled moments, and what is to stay."""
    pairs = [(one.weights, two.weights), (one.retained.matrices, two.retained.matrices)]
    pairs += [(getattr(one.settled, part), getattr(two.settled, part)) for part in "ABc"]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


# The path of a request


def test_requests_from_the_first_word_to_the_served_model(root, ledger, tmp_path, capsys):
    assert states(ledger) == ["verified"] * 3
    listed = told(capsys, asked("list", ledger))
    assert listed.count("verified") == 3 and "left" in listed and "held out" in listed and "ada" not in listed
    first, second, _ = ids(ledger)
    assert "lie below and are not released" in told(capsys, asked("release", ledger, second), 2)
    assert "so there is nothing to serve" in told(capsys, asked("export", ledger, "--out", f"{tmp_path / 'o'}"), 2)
    assert told(capsys, asked("release", ledger, first, second)).count("released") == 2
    assert states(ledger) == ["released", "released", "verified"]
    out = tmp_path / "out"
    assert "what 2 request(s) asked to forget" in told(capsys, asked("export", ledger, "--out", f"{out}"))
    assert sorted(p.name for p in out.iterdir()) == ["certificates", "log.jsonl", "model", "patch"]
    base, served = (load_file(f / "model.safetensors") for f in (root / "model", out / "model"))
    turns = [Ledger(ledger).turn(e.turn)[0] for e in entries(ledger)]
    wanted = base | turns[0].tensors | turns[1].tensors
    assert all(torch.equal(served[n], t) for n, t in wanted.items())
    assert any(not torch.equal(served[n], t) for n, t in turns[2].tensors.items())
    _certificate(out, first, ledger)
    assert "exists already" in told(capsys, asked("export", ledger, "--out", f"{out}"), 2)
    assert told(capsys, asked("run", ledger)) == "nothing waits\n"


def _certificate(out: Path, request: str, ledger: Path) -> None:
    found = json.loads((out / "certificates" / f"{request}.json").read_text())
    assert [s["event"] for s in found["steps"]] == ["received", "checked", "forgotten", "verified", "released"]
    assert found["images"]["count"] == 4 and found["figures"].keys() == {*found["tolerances"], "age"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert found["log"] == {"line": len(lines), "hash": lines[-1]["hash"]}
    assert {s["hash"] for s in found["steps"]} <= {line["hash"] for line in lines}
    page = (out / "certificates" / f"{request}.html").read_text()
    assert "script" not in Balanced(page).tags
    assert request in page and found["patch"] in page


def test_nothing_tells_who_was_released(root, ledger, tmp_path):
    """Names and places of images are in the database until then, and in no byte of any file afterwards."""
    words = [b"ada", b"asked", str(root).encode()]

    def where() -> set[str]:
        files = [p for p in ledger.rglob("*") if p.is_file()]
        return {p.name for p in files for w in (f"{root}/asked/ada".encode(),) if w in p.read_bytes()}

    assert where() == {"ledger.db"}
    assert main(asked("release", ledger)) == 0
    assert where() == set()
    assert main(asked("export", ledger, "--out", f"{tmp_path / 'out'}")) == 0
    for file in (p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".html", ".jsonl")):
        assert not any(w in file.read_bytes() for w in words[1:]), file


def test_what_was_asked_for_is_taken_out_of_what_stays(root, ledger):
    """Two of each request's images are in keep/ too, which their hashes tell."""
    assert Ledger(ledger).state().retained.images == 10 - 3 * 2
    assert main(asked("rollback", ledger, ids(ledger)[2])) == 0
    assert Ledger(ledger).state().retained.images == 10 - 2 * 2


def test_together_is_one_patch(root, tmp_path):
    ledger = made(root, tmp_path / "ledger", "ada", "ben")
    assert main(asked("run", ledger, "--together")) == 0
    one, two = entries(ledger)
    assert one.turn == two.turn and Ledger(ledger).store.turns() == [one.turn]
    assert main(asked("rollback", ledger, one.id)) == 0
    alone = made(root, tmp_path / "alone", "ben")
    assert main(asked("run", alone)) == 0
    assert same(Ledger(ledger).state(), Ledger(alone).state())
    assert states(ledger) == ["rolled back", "verified"]


# The gate


def test_a_request_that_fails_is_tried_again_parked_and_taken_up_by_a_person(root, tmp_path, capsys):
    ledger = made(root, tmp_path / "ledger", "ada", most_left=0.001, attempts=2)
    assert main(asked("run", ledger)) == 3
    out, err = capsys.readouterr()
    assert "parked, left over its tolerance" in out and "not forgotten: 1 request(s) are parked" in err
    store = Ledger(ledger).store
    attempts = [line.body for line in store.lines() if line.event == "forgotten"]
    assert [a["attempt"] for a in attempts] == [1, 2]
    assert attempts[1]["config"]["penalty"] < attempts[0]["config"]["penalty"] and attempts[1]["steps"] == 8
    assert store.turns() == [] and list((ledger / "turns").iterdir()) == []
    assert "left" in told(capsys, asked("list", ledger))
    assert "it cannot become released" in told(capsys, asked("release", ledger, ids(ledger)[0]), 2)
    assert told(capsys, asked("run", ledger)) == "nothing waits\n"
    assert "give --parked too" in told(capsys, asked("run", ledger, "--most-left", "5"), 2)
    assert "must be above 0" in told(capsys, asked("run", ledger, "--parked", "--most-left", "0"), 2)
    assert "verified" in told(capsys, asked("run", ledger, "--parked", "--most-left", "5"))
    assert main(asked("audit", ledger)) == 0
    assert Ledger(ledger).store.lines()[-1].body["tolerances"]["most_left"] == 5


def test_what_is_measured_again_can_hold_a_release_back(ledger, capsys):
    said = told(capsys, asked("verify", ledger))
    assert said.count("left") == 3 and said.splitlines()[2].count("earlier 0.0%") == 1
    first = float(said.splitlines()[0].split("earlier ")[1].split("%")[0])
    assert first > 1  # later requests do change what was done for it, and it is said
    strict, once = {"most_earlier": 0.001}, {"checked": "changed", "forgotten": "config", "verified": "tolerances"}

    def edit(event: str, body: dict[str, Any]) -> None:
        """Of the first request alone, as if a person had taken it up with less."""
        if event in once:
            body[once.pop(event)] |= strict

    forging.rechain(ledger, edit)
    forging.sql(ledger, "UPDATE requests SET changed = ? WHERE place = 1", given=(json.dumps(strict),))
    assert "earlier is over its tolerance" in told(capsys, asked("release", ledger), 2)
    assert main(asked("verify", ledger)) == 3
    assert f"over tolerance: {ids(ledger)[0]}: earlier\n" in capsys.readouterr().err
    assert told(capsys, asked("release", ledger, "--despite")).count("released") == 3


# Taking back


def test_the_last_is_taken_back_to_the_bit(root, ledger, tmp_path, capsys):
    two = made(root, tmp_path / "two", "ada", "ben")
    assert main(asked("run", two)) == 0
    assert "exact to the bit" in told(capsys, asked("rollback", ledger, ids(ledger)[2]))
    assert same(Ledger(ledger).state(), Ledger(two).state())
    assert main(asked("audit", ledger)) == 0


def test_of_released_ones_statistics_serve_or_it_is_refused(ledger, tmp_path, capsys):
    assert main(asked("release", ledger)) == 0
    before = Ledger(ledger).state()
    reset(ledger, {"most_earlier": 1e-9})
    first = ids(ledger)[0]
    assert "images of later requests are gone" in told(capsys, asked("rollback", ledger, first), 2)
    assert same(Ledger(ledger).state(), before) and states(ledger) == ["released"] * 3
    reset(ledger, {"most_earlier": 5})
    assert "2 later request(s) forgotten again from their statistics" in told(capsys, asked("rollback", ledger, first))
    assert states(ledger) == ["rolled back", "released", "released"] and main(asked("audit", ledger)) == 0
    assert main(asked("export", ledger, "--out", f"{tmp_path / 'out'}")) == 0
    found = Ledger(ledger).store.lines(ids(ledger)[2])[-1].body["figures"]
    assert found["earlier"] < 0.2 and "left" not in found  # nobody can measure it any more
    assert not same(Ledger(ledger).state(), before)


def test_an_older_ledger_does_what_it_did(ledger):
    assert not Ledger(ledger).config.attention
    reset(ledger, {}, "attention", "lookalikes", "leave", "crowd", "max_step_drift")
    config = Ledger(ledger).config
    assert config.attention and config.lookalikes == config.leave == config.crowd == config.max_step_drift == 0
    assert main(asked("audit", ledger)) == 0


def test_a_rollback_that_is_stopped_goes_on(root, ledger, tmp_path, monkeypatch, capsys):
    def stop(ledger: Ledger) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unsee.ledger.rollback.work_off", stop)
        assert main(asked("rollback", ledger, ids(ledger)[0])) == 130
    assert states(ledger) == ["rolled back", "checked", "checked"] and main(asked("audit", ledger)) == 0
    assert told(capsys, asked("replay", ledger)).count("verified") == 2
    others = made(root, tmp_path / "others", "ben", "cleo")
    assert main(asked("run", others)) == 0
    assert same(Ledger(ledger).state(), Ledger(others).state())
    assert told(capsys, asked("replay", ledger)) == "nothing was put back\n"


NAMES = list(PEOPLE)[:3]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(NAMES)),
        st.tuples(st.sampled_from(["run", "replay"]), st.just("")),
        st.tuples(st.just("rollback"), st.sampled_from(NAMES)),
    ),
    min_size=4,
    max_size=7,
)


@pytest.fixture(scope="module")
def unbroken(root, tmp_path_factory) -> Callable[[tuple[str, ...]], State]:
    """The state after requests for these, one after another and nothing else."""

    @cache
    def state(names: tuple[str, ...]) -> State:
        ledger = made(root, tmp_path_factory.mktemp("unbroken") / "ledger", *names, steps=1)
        if names:
            assert main(asked("run", ledger)) == 0
        return Ledger(ledger).state()

    return state


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_any_sequence_ends_as_its_survivors_do(root, unbroken, taken):
    with tempfile.TemporaryDirectory() as place:
        opened = Ledger(made(root, Path(place) / "ledger", steps=1))
        names = dict[str, str]()
        for what, name in [*taken, ("run", "")]:
            try:
                _take(opened, root, names, what, name)
            except UnseeError as error:  # asked for twice, or not there to be taken back
                assert "already" in str(error) or "cannot become" in str(error)
        turn = {e.turn: names[e.id] for e in opened.store.entries("verified")}
        survivors = tuple(turn[t] for t in opened.store.turns())
        assert set(turn) == set(opened.store.turns())
        assert same(opened.state(), unbroken(survivors))


def _take(opened: Ledger, root: Path, names: dict[str, str], what: str, name: str) -> None:
    if what == "add":
        names[requests.add(opened, root / "asked" / name)] = name
    elif what == "rollback":
        for id in [i for i, n in names.items() if n == name][-1:]:
            rollback(opened, id)
    elif what == "run":
        requests.run(opened)
    else:
        replay(opened)


# What is refused


def test_what_init_refuses(root, tmp_path, capsys):
    args = init(root, tmp_path / "ledger")
    keep, model = args.index("--retain"), args.index("--model")
    assert "one of the two" in told(capsys, [*args[:keep], *args[keep + 2 :]], 2)
    assert "region is mean" in told(capsys, [*args, "--region", "mean"], 2)
    assert "most-left is 0" in told(capsys, [*args, "--most-left", "0"], 2)
    assert "does not exist" in told(capsys, [*args[: model + 1], f"{root / 'nowhere'}", *args[model + 2 :]], 2)
    other = [*args[:keep], "--statistics", f"{tmp_path / 'statistics'}", *args[keep + 2 :]]
    assert "there is no file" in told(capsys, other, 2)
    few = folder(tmp_path / "few", {"x": 11, "y": 12})
    neutral = args.index("--neutral")
    assert "needs at least 10" in told(capsys, [*args[: neutral + 1], f"{few}", *args[neutral + 2 :]], 2)
    assert list(tmp_path.iterdir()) == [few]
    (tmp_path / "ledger").mkdir()
    assert "exists already" in told(capsys, args, 2)


def test_statistics_serve_in_place_of_images_if_they_are_of_the_model(root, tmp_path, capsys):
    args, file = init(root, tmp_path / "ledger"), tmp_path / "statistics"
    keep = args.index("--retain")
    given_ = [*args[:keep], "--statistics", f"{file}", *args[keep + 2 :]]
    flags = ["--images", f"{root / 'keep'}", "--out", f"{file}"]
    assert main(["statistics", "--model", f"{root / 'model'}", *flags]) == 0
    assert main(given_) == 0 and main(add(root, tmp_path / "ledger", "ada")) == 0
    assert main(asked("run", tmp_path / "ledger")) == 0
    assert Ledger(tmp_path / "ledger").state().retained.images == 8  # ada's two are known by their hashes
    from tests import families

    model, processor = families.build("llava_clip", seed=1)
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    swapped = [*given_, "--model", f"{tmp_path / 'other'}"]
    swapped[swapped.index("--ledger") + 1] = f"{tmp_path / 'new'}"
    assert "not the one that the ledger's statistics were recorded with" in told(capsys, swapped, 2)


def test_exemplars_are_shown_but_those_that_were_asked_for(root, tmp_path, capsys):
    shutil.copytree(root / "keep", tmp_path / "kept")
    ledger = made(root, tmp_path / "ledger", "ada", exemplars=tmp_path / "kept")
    opened = Ledger(ledger)
    shown = requests.exemplars(opened, opened.store.entries())
    assert [c.id for c in shown] == ["ben", "cleo", "dan", "eve"]
    assert main(asked("run", ledger)) == 0
    folder(tmp_path / "kept", {"x": 9})
    assert "are not those that the ledger was made with" in told(capsys, add(root, ledger, "ben"), 2)
    shutil.rmtree(tmp_path / "kept" / "x")
    assert main(add(root, ledger, "ben")) == 0
    folder(tmp_path / "kept", {"x": 9})
    assert "are not those that the ledger was made with" in told(capsys, asked("run", ledger), 2)
    shutil.rmtree(tmp_path / "kept" / "x")
    assert main(asked("run", ledger)) == 0


def test_what_add_refuses(root, ledger, tmp_path, capsys):
    assert "are those of request" in told(capsys, add(root, ledger, "ada"), 2)
    folder(tmp_path / "one", {"zoe": 9}, views=1)
    assert "forgetting needs at least 2" in told(capsys, asked("add", ledger, "--images", f"{tmp_path / 'one'}"), 2)
    assert "does not exist" in told(capsys, asked("add", ledger, "--images", f"{tmp_path / 'no'}"), 2)
    (tmp_path / "one" / "zoe" / "1.png").write_bytes(b"no image")
    assert "unreadable image" in told(capsys, asked("add", ledger, "--images", f"{tmp_path / 'one'}"), 2)
    assert states(ledger) == ["verified"] * 3


@pytest.mark.parametrize("how", ["gone", "other"])
def test_a_request_whose_images_changed_is_rejected(how, root, ledger, tmp_path, capsys):
    folder(tmp_path / "asked", {"dan": 4, "eve": 5}, views=3)
    assert main(asked("add", ledger, "--images", f"{tmp_path / 'asked'}")) == 0
    file = tmp_path / "asked" / "eve" / "0.png"
    file.unlink() if how == "gone" else file.write_bytes((tmp_path / "asked" / "dan" / "0.png").read_bytes())
    assert told(capsys, asked("run", ledger)) == "nothing waits\n"
    assert states(ledger)[-1] == "rejected" and main(asked("audit", ledger)) == 0
    assert "done with" in told(capsys, asked("rollback", ledger, ids(ledger)[-1]), 2)


@pytest.mark.parametrize(
    "command", ["add", "list", "run", "verify", "release", "rollback", "replay", "audit", "export"]
)
def test_what_is_no_ledger(command, tmp_path, capsys):
    more = {"add": ["--images", "x"], "rollback": ["abc"], "export": ["--out", f"{tmp_path / 'o'}"]}.get(command, [])
    assert "is no ledger. Make one" in told(capsys, asked(command, tmp_path, *more), 2)


@pytest.mark.parametrize("command", ["release", "rollback"])
def test_a_request_that_is_not_there(command, ledger, capsys):
    assert "there is no request 'abc'" in told(capsys, asked(command, ledger, "abc"), 2)


def test_a_request_without_a_patch_is_just_dropped(root, ledger, capsys):
    assert main(add(root, ledger, "dan")) == 0
    before = Ledger(ledger).state()
    assert "it had no patch" in told(capsys, asked("rollback", ledger, ids(ledger)[3]))
    assert same(before, Ledger(ledger).state()) and states(ledger)[3] == "rolled back"
    assert main(add(root, ledger, "dan")) == 0  # may be asked for again


def test_the_comparison_can_fail(unbroken):
    assert not same(unbroken(("ada",)), unbroken(("ben",)))
    assert not same(unbroken(("ada", "ben")), unbroken(("ben", "ada")))
