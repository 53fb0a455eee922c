"""The library face, on both shapes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import pytest
import torch

import unsee
from unsee import ForgetConfig, UnseeError, load_full, load_visual, prepare, read_folder
from unsee.concepts import Request
from unsee.data.study import PeopleStudy
from unsee.forgetting import replay
from unsee.forgetting.penalty import Settled, beyond
from unsee.vision.attention import attention_for
from unsee.vision.checkpoint import module_names

CONFIG = ForgetConfig(steps=3, batch=4, projector_first=False)


@pytest.fixture(scope="module")
def sets(images) -> dict[str, list[unsee.Concept]]:
    first, *others = read_folder(images / "known").concepts
    return {"forget": [first], "retain": others, "neutral": list(read_folder(images / "neutral").concepts)}


def test_importing_the_package_does_not_import_torch():
    code = "import sys, unsee; unsee.Concept; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", unsee.__all__)
def test_public_names_are_there(name):
    assert getattr(unsee, name).__name__ == name
    assert name in dir(unsee)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'forgte'"):
        _ = unsee.forgte


def test_only_the_returned_layers_change(checkpoint, sets):
    model, processor = load_full(checkpoint)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    result = unsee.forget(model, processor, **sets, config=CONFIG)
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {f"{n}.weight" for n in result.delta}
    names = module_names(model, list(result.patch.tensors))
    assert changed == set(names.values())
    assert all(torch.equal(model.state_dict()[names[n]], t) for n, t in result.patch.tensors.items())
    assert len(result.history) == 3 and result.certificates.keys() == result.delta.keys()
    assert all(m.weight.grad is None for m in model.modules() if isinstance(m, torch.nn.Linear))


def test_layers_can_be_chosen(checkpoints, sets):
    model, processor = load_full(checkpoints["llava"])
    result = unsee.forget(model, processor, **sets, config=ForgetConfig(steps=1, batch=4, layers="projector"))
    assert {n.rpartition(".")[2] for n in result.delta} == {"linear_1", "linear_2"}
    with pytest.raises(UnseeError, match="no layer's name contains 'projektor'"):
        unsee.forget(model, processor, **sets, config=ForgetConfig(layers="projektor"))


def test_attention_can_be_left_as_it_is(checkpoint, sets):
    def trained(attention: bool) -> set[str]:
        return set(_alone(checkpoint, **sets, config=ForgetConfig(steps=1, batch=4, attention=attention)).delta)

    every, fewer = trained(True), trained(False)
    assert fewer < every and all("attn" in n for n in every - fewer) and not any("attn" in n for n in fewer)


@pytest.mark.parametrize("constraint", ["hard", "cumulative"])
def test_the_same_call_gives_the_same_bytes(constraint, checkpoint, sets):
    config = ForgetConfig(steps=3, batch=4, constraint=constraint)
    one, two = (_alone(checkpoint, **sets, config=config) for _ in range(2))
    assert all(torch.equal(t, two.patch.tensors[n]) for n, t in one.patch.tensors.items())
    other = _alone(checkpoint, **sets, config=ForgetConfig(steps=3, batch=4, constraint=constraint, seed=1))
    assert not all(torch.equal(t, other.patch.tensors[n]) for n, t in one.patch.tensors.items())


def test_neutral_images_that_show_the_target_are_left_out(capsys, full_size):
    study, model = PeopleStudy(), files("unsee") / "models" / "people-vanilla"
    (target,), others, strangers = (
        study.concepts(["p001"], 10),
        study.concepts(["p002", "p003"], 4),
        study.neutral()[:40],
    )
    leak = unsee.Concept("leak", target.images)

    def left_out(neutral):
        _alone(model, forget=[target], retain=others, neutral=neutral, config=CONFIG)
        found = re.search(r"(\d+) of \d+ neutral images look like a concept to forget", capsys.readouterr().err)
        return int(found[1]) if found else 0

    assert left_out([*strangers, leak]) - left_out(strangers) >= len(leak.images)


def _alone(checkpoint, **given):
    visual = load_visual(checkpoint)
    return unsee.forget(visual.model, visual.image_processor, **given)


def test_statistics_stand_in_for_retained_images(checkpoint, sets, tmp_path):
    model, processor = load_full(checkpoint)
    moments = unsee.statistics(model, processor, sets["retain"])
    assert moments.images == 16
    moments.save(tmp_path / "statistics.safetensors")
    few = {"forget": sets["forget"], "neutral": sets["neutral"], "config": CONFIG}
    from_file = _alone(checkpoint, **few, statistics=tmp_path / "statistics.safetensors")
    from_memory = unsee.forget(model, processor, **few, statistics=moments)
    assert all(torch.equal(t, from_memory.patch.tensors[n]) for n, t in from_file.patch.tensors.items())
    with pytest.raises(UnseeError, match="of this one before it changed"):
        unsee.forget(model, processor, **few, statistics=moments)


def test_the_drift_counts_in_units_of_how_views_differ(checkpoint, sets):
    config = replace(CONFIG, keep=5.0, projector_first=False)
    visual = load_visual(checkpoint)
    with attention_for(visual.model, training=False):
        unit = float(prepare.prepare(visual, Request(**sets), None, config).region.identity_scale)
    assert unit != 1
    in_features = replace(config, keep=5.0 * unit, keep_unit="features")
    found = [_alone(checkpoint, **sets, config=c).delta for c in (config, in_features, replace(in_features, keep=5.0))]
    same, other = ([torch.equal(t, changed[n]) for n, t in found[0].items()] for changed in found[1:])
    assert all(same) and not any(other)


def test_what_is_gone_is_drawn_from_its_statistics(checkpoint, sets, capsys, monkeypatch):
    model, processor = load_full(checkpoint)
    few = {"forget": sets["forget"], "neutral": sets["neutral"]}
    few["statistics"] = unsee.statistics(model, processor, sets["retain"])

    def last(**settings) -> dict[str, float]:
        return _alone(checkpoint, **few, config=ForgetConfig(steps=2, batch=4, whiten=0, **settings)).history[-1]

    plain, near, bare = last(), last(lookalikes=8), last(replay=0)
    assert len({plain["keep"], near["keep"], bare["keep"], last(lookalikes=8, replay=0)["keep"]}) == 4
    assert last(lookalikes=8) == near
    asked = len(sets["forget"])  # half of those that the anchor is made for
    assert last(anchor=6.0, crowd=2 * asked) == last(anchor=3.0, crowd=asked) == plain != last(anchor=6.0)
    few["retain"] = sets["retain"]
    shown = last()
    assert last(lookalikes=8)["keep"] != shown["keep"] == last(replay=0)["keep"]
    beside = last(replay=8, replay_always=True)
    assert beside["keep"] != shown["keep"] == last(replay=0, replay_always=True)["keep"]
    with monkeypatch.context() as one:  # drawn where the concept is, they show it: none is left
        one.setattr(replay, "NEAR", (1.0, 1.0))
        assert last(lookalikes=8) == shown
    told = few.pop("statistics")  # from what the request sees of the retained images itself
    assert last(replay=8, replay_always=True)["keep"] != last()["keep"] == shown["keep"]
    with monkeypatch.context() as one:
        one.setattr(prepare, "DISTRIBUTION", 0)
        assert last(replay=8, replay_always=True)["keep"] != shown["keep"]
    few["statistics"] = told
    del few["retain"]
    assert "nothing can be drawn" not in capsys.readouterr().err
    with pytest.raises(UnseeError, match="Record them with as much depth: unsee statistics --depth 0.6"):
        last(depth=0.6)
    few["statistics"] = unsee.statistics(model, processor, sets["retain"], ForgetConfig(depth=0.6))
    last()
    assert "nothing can be drawn from the statistics" in capsys.readouterr().err


def test_a_folder_may_be_named_instead_of_read(checkpoints, images):
    known, neutral = images / "known", str(images / "neutral")
    result = _alone(checkpoints["llava"], forget=known, neutral=neutral, config=ForgetConfig(steps=1, batch=4))
    forgotten = result.patch.info["forgotten"]
    assert len(set(forgotten)) == 5 and all(re.fullmatch("[0-9a-f]{16}", i) for i in forgotten)


def test_watch_is_asked_every_twenty_steps(checkpoints, sets):
    asked: list[int] = []

    def watch(step: int) -> dict[str, float]:
        asked.append(step)
        return {"names": step / 100}

    result = _alone(
        checkpoints["llava"], **sets, config=ForgetConfig(steps=41, stop=0, batch=2, layers="projector"), watch=watch
    )
    assert asked == [20, 40]
    assert [h["names"] for h in result.history if "names" in h] == [0.2, 0.4]


def test_a_model_that_sees_nothing_is_refused(sets):
    with pytest.raises(UnseeError, match="no get_image_features"):
        unsee.forget(torch.nn.Linear(2, 2), None, **sets)


@pytest.mark.parametrize("most", [0.0, 1e-3, 1e9])
def test_the_rate_is_lowered_until_a_first_step_moves_little(checkpoint, sets, most):
    """The first step that is done is a fifth as long, which moves a twenty-fifth as far."""
    result = unsee.forget(load_visual(checkpoint), None, config=replace(CONFIG, max_step_drift=most), **sets)
    free = most in (0.0, 1e9)
    assert (result.history[0]["rate"] == CONFIG.lr) is free
    assert (result.history[1]["keep"] < 1e-3 / 25 * 1.5) is not free
    assert all("rate" not in line for line in result.history[1:])


def test_from_far_too_high_a_rate_one_that_moves_something_is_found(checkpoint, sets):
    config = replace(CONFIG, max_step_drift=1e-3)
    rates = [
        unsee.forget(load_visual(checkpoint), None, config=replace(config, lr=lr), **sets).history[0]["rate"]
        for lr in (CONFIG.lr, 1e3)
    ]
    assert 0.4 < rates[1] / rates[0] < 2.5


def test_steps_may_be_taken_where_inputs_count_alike(checkpoint, sets):
    """The change is another one, the same each time."""
    found = [
        unsee.forget(load_visual(checkpoint), None, config=replace(CONFIG, whiten=whiten), **sets).patch.tensors
        for whiten in (0.0, 0.05, 0.05)
    ]
    assert all(torch.equal(t, found[2][n]) and not torch.equal(t, found[0][n]) for n, t in found[1].items())
    with pytest.raises(UnseeError, match="--whiten is -1; it must be 0"):
        ForgetConfig(whiten=-1)


def test_with_depth_0_the_projector_alone_trains(checkpoint, sets):
    visual = load_visual(checkpoint)
    inside = visual.family.in_projector
    result = unsee.forget(visual, None, config=replace(CONFIG, depth=0.0), **sets)
    assert result.delta and all(inside(f"{n}.weight") and d.any() for n, d in result.delta.items())
    for depth in (-0.1, 1.1):
        with pytest.raises(UnseeError, match=f"--depth is {depth}; allowed: 0"):
            ForgetConfig(depth=depth)


def test_a_second_request_counts_from_the_base_and_holds_the_first(checkpoint, sets, images):
    """Statistics of the base serve it, and what stays is held where it was there; what is settled adds a term."""
    visual = load_visual(checkpoint)
    first, second, *stay = read_folder(images / "known").concepts
    given = {"neutral": sets["neutral"], "statistics": unsee.statistics(visual, None, stay)}
    names = given["statistics"].layers
    base = {n: visual.model.get_submodule(n).weight.detach().clone() for n in names}
    plain = replace(CONFIG, whiten=0, lr=3e-3, max_step_drift=0.3)  # as in a ledger
    one = unsee.forget(visual, forget=[first], config=plain, **given)
    assert one.left.keys() == {first.id}
    with pytest.raises(UnseeError, match="of this one before it changed"):
        unsee.forget(visual, forget=[second], config=plain, **given)
    after = unsee.statistics(visual, None, [first])
    settled = Settled.one(one.delta, beyond(after, given["statistics"], names))
    two = unsee.forget(visual, forget=[second], config=plain, base=base, settled=settled, **given)
    assert "settled" not in one.history[0] and two.history[0]["settled"] == pytest.approx(0, abs=1e-4)
    assert two.history[0]["penalty"] > one.history[0]["penalty"] == 0 and two.history[-1]["settled"] > 1e-6
    assert one.history[0]["keep"] < 1e-3 < 0.003 < two.history[0]["keep"]
    for n in names:
        torch.testing.assert_close(visual.model.get_submodule(n).weight - base[n], one.delta[n] + two.delta[n])

    def after_one(**hold: float) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for n in names:
                visual.model.get_submodule(n).weight.copy_(base[n] + one.delta[n])
        config = replace(plain, steps=6, **hold)
        return unsee.forget(visual, forget=[second], config=config, base=base, settled=settled, **given).delta

    bound, lighter, free = after_one(settled=5e4, settled_most=2e4), after_one(settled=2e4), after_one(settled=5e4)
    assert all(torch.equal(bound[n], lighter[n]) for n in names)
    assert not all(torch.equal(bound[n], free[n]) for n in names)
