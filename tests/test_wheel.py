"""The ten lines of docs/python.md, in an environment that has the wheel and nothing else."""

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
    """The first example of the page."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
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


def python(*given: str, wheel: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with the wheel and the packages that it requires; -S leaves editable ones out."""
    places = os.pathsep.join([str(wheel), sysconfig.get_paths()["purelib"]])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", *given]
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    assert {path.name.split("-")[0] for path in wheel.iterdir()} == {"lit_recon"}
    assert (wheel / "lit_recon" / "report" / "templates" / "run.html").is_file()
    alone = python("-c", "import callbacks", wheel=wheel, home=tmp_path)
    assert "No module named 'callbacks'" in alone.stderr
    version = python(
        "-c", "import lit_recon; print(lit_recon.__file__)", wheel=wheel, home=tmp_path
    )
    assert version.stdout.startswith(str(wheel)), version.stderr


def test_ten_lines_attack_two_checkpoints(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(RUN) == 0
    monkeypatch.delenv(RUN_PATH)
    lines = ten_lines()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 11
    ended = python("-c", lines, wheel=wheel, home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "'initial readout', 'number of training samples'" in ended.stdout
    shares = re.search(r"recovered_fraction=([0-9.]+)", ended.stdout)
    assert shares is not None and float(shares[1]) == 1.0, ended.stdout


@pytest.mark.parametrize(
    ("example", "status", "words"),
    [
        pytest.param(
            *("own_project", 0, "12 of 12 images recovered, 12 exact to the pixel"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("fine_tuned", 3, "8 images were read out of the weights, exact in every pixel"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("federated_client", 3, "8 images were read out of the weights, exact in every pixel"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_examples_run_outside_the_clone(
    wheel: Path, tmp_path: Path, example: str, status: int, words: str
) -> None:
    ended = python(str(ROOT / "examples" / f"{example}.py"), wheel=wheel, home=tmp_path)
    assert ended.returncode == status, ended.stderr
    assert words in ended.stdout


@pytest.mark.long
def test_the_audit_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    told = python("-m", "lit_recon", "audit", "--help", wheel=wheel, home=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "--pixels.mean" in told.stdout and "--data" not in told.stdout.partition("flags")[2]
    files = ["--before", "a.pt", "--after", "b.pt", "--pixels.mean", "0.5", "--pixels.std", "0.5"]
    refused = python("-m", "lit_recon", "audit", *files, wheel=wheel, home=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("lit_recon: --after b.pt: b.pt is missing"), refused.stderr


def test_public_names_are_there_and_their_examples_run() -> None:
    import lit_recon

    assert {*lit_recon.__all__} == {*lit_recon._PLACES, "__version__"}
    for name in lit_recon.__all__:
        assert getattr(lit_recon, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lit_recon.nothing  # noqa: B018
