"""What a person who waits sees where there is no terminal."""

from __future__ import annotations

from unsee.progress import progress


def test_work_tells_when_it_is_done(capsys):
    with progress("asking", 3) as tick:
        for n in (1, 2, 3):
            tick(n)
    assert capsys.readouterr().err == "asking: 3/3\n"


def test_work_within_other_work_says_nothing(capsys):
    with progress("forgetting", 1) as tick:
        with progress("asking", 2) as inner:
            inner(2)
        tick(1, "loss 0.1")
    with progress("asking", 2) as later:
        later(2)
    assert capsys.readouterr().err == "forgetting: 1/1 loss 0.1\nasking: 2/2\n"
