"""The ten lines of the README, in an environment that has the wheel and nothing else of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import train
from lit_recon.fit.run import RUN_PATH

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
RUN = [
    *("--data.n", "4", "--data.image_size", "8", "--model", "MLP", "--model.width", "2400"),
    *("--optim", "SGD", "--optim.lr", "1e-4", "--trainer.max_steps", "1", "--run.name", "mlp"),
    *("--recon.max_steps", "1", "--recon.restarts", "0", "--wandb.mode", "disabled"),
]


def ten_lines() -> str:
    """The example of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(
        r"^```python\n(from lit_recon import .*?)^```", text, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    home = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (file,) = home.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(home / "site")
    return home / "site"


def python(code: str, wheel: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs code with the wheel and the packages that it requires; -S leaves editable ones out."""
    places = os.pathsep.join([str(wheel), sysconfig.get_paths()["purelib"]])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    assert {path.name.split("-")[0] for path in wheel.iterdir()} == {"lit_recon"}
    assert (wheel / "lit_recon" / "report" / "templates" / "run.html").is_file()
    alone = python("import callbacks", wheel, tmp_path)
    assert "No module named 'callbacks'" in alone.stderr
    version = python("import lit_recon; print(lit_recon.__file__)", wheel, tmp_path)
    assert version.stdout.startswith(str(wheel)), version.stderr


def test_ten_lines_attack_two_checkpoints(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(RUN) == 0
    monkeypatch.delenv(RUN_PATH)
    lines = ten_lines()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 11
    ended = python(lines, wheel, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "'initial readout', 'number of training samples'" in ended.stdout
    shares = re.search(r"recovered_fraction=([0-9.]+)", ended.stdout)
    assert shares is not None and float(shares[1]) == 1.0, ended.stdout


def test_public_names_are_there_and_their_examples_run() -> None:
    import lit_recon

    assert {*lit_recon.__all__} == {*lit_recon._PLACES, "__version__"}
    for name in lit_recon.__all__:
        assert getattr(lit_recon, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lit_recon.nothing  # noqa: B018
