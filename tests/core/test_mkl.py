"""MKL_CBWR is set where bits need it; training/test_fused.py has the bits themselves, which differ without it."""

import os

import pytest

from fedray.core.mkl import steady_products


@pytest.mark.parametrize(
    ("vendor", "before", "after"),
    [
        ("AuthenticAMD", None, "AUTO"),
        ("AuthenticAMD", "COMPATIBLE", "COMPATIBLE"),
        ("GenuineIntel", None, None),
        ("", None, None),
    ],
)
def test_it_is_set_where_it_is_needed_and_the_user_has_not(tmp_path, monkeypatch, vendor, before, after):
    monkeypatch.delenv("MKL_CBWR", raising=False)
    if before:
        monkeypatch.setenv("MKL_CBWR", before)
    if vendor:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    steady_products(tmp_path / "cpuinfo")
    assert os.environ.get("MKL_CBWR") == after
