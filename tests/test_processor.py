"""The fast kernels of MKL on AMD processors: where they are asked for, and where not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_recon.processor import FAST_ON_AMD, SETTING, is_amd_with_avx2, prefer_fast_kernels

ROOT = Path(__file__).parents[1]
AMD, INTEL = "AuthenticAMD", "GenuineIntel"


def cpuinfo(folder: Path, vendor: str, flags: str) -> Path:
    """A file as Linux writes it, of two equal processors."""
    lines = [
        "processor\t: {}",
        f"vendor_id\t: {vendor}",
        "model name\t: EPYC",
        f"flags\t\t: {flags}",
    ]
    file = folder / "cpuinfo"
    file.write_text("".join("\n".join(lines).format(i) + "\n\n" for i in range(2)))
    return file


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before torch is loaded, in an environment without the setting."""
    monkeypatch.setenv(SETTING, "")  # so that what the test sets is taken back
    monkeypatch.delenv(SETTING)
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        (AMD, "fpu sse4_2 avx2 avx512f", FAST_ON_AMD),
        (AMD, "fpu sse4_2 avx avx512f", None),
        (INTEL, "fpu sse4_2 avx2", None),
    ],
)
def test_amd_with_avx2_gets_the_fast_kernels(
    tmp_path: Path, unset: None, vendor: str, flags: str, expected: str | None
) -> None:
    prefer_fast_kernels(cpuinfo(tmp_path, vendor, flags))
    assert os.environ.get(SETTING) == expected


def test_a_setting_of_the_user_stays(
    tmp_path: Path, unset: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cpuinfo(tmp_path, AMD, "avx2")
    for value in ("COMPATIBLE", ""):
        monkeypatch.setenv(SETTING, value)
        prefer_fast_kernels(file)
        assert os.environ[SETTING] == value


def test_nothing_is_set_once_torch_is_there(
    tmp_path: Path, unset: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", pytest)
    prefer_fast_kernels(cpuinfo(tmp_path, AMD, "avx2"))
    assert SETTING not in os.environ


@pytest.mark.parametrize("text", [None, "", "Processor : ARMv8\nBogoMIPS : 50.00\n"])
def test_other_systems_say_nothing_of_amd(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    assert not is_amd_with_avx2(file)


def test_the_module_does_not_load_torch() -> None:
    code = (
        "import sys; from lit_recon.processor import prefer_fast_kernels as prefer;"
        "prefer(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
