"""Drawn flags: deterministic, all of them drawable, told apart by what the labels say."""

import hashlib
from dataclasses import astuple, replace

import pytest

from unsee.data import banner
from unsee.data.banner import Banner


def test_the_same_number_is_the_same_picture_and_another_is_not():
    pictures = [Banner(i).load().tobytes() for i in range(50)]
    assert pictures == [Banner(i).load().tobytes() for i in range(50)]
    assert len({hashlib.sha256(p).digest() for p in pictures}) == 50


@pytest.mark.parametrize("size", [32, 96])
def test_a_picture_has_the_size_asked_for(size):
    assert Banner(3, size).load().size == (size, size)


def test_every_layout_and_emblem_shows():
    some = [Banner(i) for i in range(600)]
    assert {b.identity.layout for b in some} == set(banner.LAYOUTS)
    assert {b.identity.emblem for b in some} == set(banner.EMBLEMS)
    plain = next(b for b in some if b.identity.emblem == "none" and b.identity.layout == "two")
    looks = set()
    for emblem in set(banner.EMBLEMS) - {"none"}:
        who = replace(plain.identity, emblem=emblem, emblem_colour="white", place="centre")
        looks.add(banner._weave(who).tobytes())
    assert len(looks) == len(set(banner.EMBLEMS)) - 1


def test_a_colour_that_is_named_is_seen_and_one_that_is_not_makes_no_difference():
    for b in (Banner(i) for i in range(300)):
        who = b.identity
        cloth = banner._weave(who)
        there = {colour for _, colour in cloth.getcolors(cloth.width * cloth.height)}
        named = {banner.COLOURS[c] for c in astuple(who) if c in banner.COLOURS}
        assert there <= named, who
        if who.emblem == "none":
            assert there == named, who
