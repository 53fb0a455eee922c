"""What is asked of the libraries below torch, before they compute."""

from __future__ import annotations

import os

import pytest

from unsee import hardware, repeatable


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "")  # so that what is there now comes back, even if nothing is
    monkeypatch.delenv("MKL_CBWR")


@pytest.mark.parametrize(
    ("vendor", "asked"), [("GenuineIntel", "AUTO,STRICT"), ("AuthenticAMD", None)], ids=["intel", "amd"]
)
def test_products_hang_on_their_factors_alone(unset, monkeypatch, tmp_path, vendor, asked):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr(hardware, "TOLD", tmp_path / "cpuinfo")
    repeatable.ask()
    assert os.environ.get("MKL_CBWR") == asked


def test_a_value_of_the_users_stays(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\n")
    monkeypatch.setattr(hardware, "TOLD", tmp_path / "cpuinfo")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    repeatable.ask()
    assert os.environ["MKL_CBWR"] == "AVX2"


def test_where_nothing_tells_the_processor_nothing_is_asked(unset, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "TOLD", tmp_path / "missing")
    repeatable.ask()
    assert "MKL_CBWR" not in os.environ
