"""The run directory, the provenance and W&B, through real files and a real offline run."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_recon.errors import InputError, RunError
from lit_recon.records import media, tracking
from lit_recon.records.directory import RunDirectory, plain
from lit_recon.records.media import CURVE_ROWS, thin, to_uint8_image
from lit_recon.records.provenance import provenance
from lit_recon.records.tracking import (
    STEP,
    choose_wandb_mode,
    make_wandb_logger,
    view_command,
)

ROOT = Path(__file__).parents[1]


def run_python(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process of its own that knows nothing of this user's W&B."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean |= {"HOME": str(home), "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=clean,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def names(path: Path) -> set[str]:
    """Everything below `path`, hidden files included."""
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


# --- the run directory: claiming a name


def test_a_new_run_gets_a_directory_without_a_trace_of_the_probe(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "runs", "demo")
    assert run.path == tmp_path / "deep" / "runs" / "demo"
    assert run.checkpoints == run.path / "checkpoints"
    assert names(tmp_path / "deep") == {"runs", "runs/demo"}


def test_automatic_names_never_collide(tmp_path: Path) -> None:
    paths = [RunDirectory.create(tmp_path, stem="rf-photos").path for _ in range(5)]
    assert len(set(paths)) == 5
    assert all(path.is_dir() for path in paths)
    stamp = paths[0].name.removeprefix("rf-photos-")
    assert len(stamp) == len("20261120-181530")


def test_an_existing_run_is_refused_with_the_three_ways_out(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "demo").write_text("config.yaml", "a: 1\n")
    with pytest.raises(InputError) as refused:
        RunDirectory.create(tmp_path, "demo")
    assert refused.value.flag == "--run.name"
    message = str(refused.value)
    assert "\n" not in message
    for way in ("--run.resume true", "--run.overwrite true", "another name"):
        assert way in message


def test_resume_keeps_the_files_and_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    killed = run_python(
        f"""
        import os
        from lit_recon.records.directory import RunDirectory
        run = RunDirectory.create({str(tmp_path)!r}, "demo")
        run.write_text("config.yaml", "a: 1")
        with run.step_directory(7) as directory:
            (directory / "metrics.json").write_text("half")
            (run.path / ".grid.png.tmp-0123abcd").write_text("half")
            os._exit(9)
        """,
        tmp_path,
    )
    assert killed.returncode == 9
    assert not RunDirectory(tmp_path / "demo").has_step(7)
    run = RunDirectory.create(tmp_path, "demo", resume=True)
    assert names(run.path) == {"config.yaml", "recon"}


def test_resume_of_a_run_that_never_started_starts_it(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, "demo", resume=True).path.is_dir()


def test_overwrite_replaces_a_run(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "demo").write_json("provenance.json", {})
    run = RunDirectory.create(tmp_path, "demo", overwrite=True)
    assert names(tmp_path) == {"demo"}
    assert not any(run.path.iterdir())


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_is_no_run_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    before = names(tmp_path)
    for name in ("thesis", "file", "link"):
        with pytest.raises(InputError, match=f"--run.name {name}.*no run directory"):
            RunDirectory.create(tmp_path, name, overwrite=overwrite, resume=not overwrite)
    assert names(tmp_path) == before


def test_a_link_to_a_run_is_gone_on_with_but_not_replaced(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "scratch").write_text("config.yaml", "a: 1\n")
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    assert (RunDirectory.create(tmp_path, "link", resume=True).path / "config.yaml").exists()
    with pytest.raises(InputError, match=r"--run.name link"):
        RunDirectory.create(tmp_path, "link", overwrite=True)
    assert (tmp_path / "link" / "config.yaml").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "a b", "a\n", "x" * 129])
def test_names_that_cannot_be_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"^--run.name "):
        RunDirectory.create(tmp_path, name)
    assert names(tmp_path) == set()


def test_flags_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--run.overwrite.*--run.resume"):
        RunDirectory.create(tmp_path, "demo", resume=True, overwrite=True)
    with pytest.raises(InputError, match=r"--run.resume.*--run.name"):
        RunDirectory.create(tmp_path, resume=True)


# --- the run directory: a disk that takes nothing


@pytest.mark.parametrize("dir", ["/dev/null/runs", "/dev/null"])
def test_a_place_where_nothing_can_be_made(dir: str) -> None:
    with pytest.raises(InputError, match=rf"^--run.dir {dir}: ") as refused:
        RunDirectory.create(dir, "demo")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_told_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    RunDirectory.create(tmp_path, "old").write_text("config.yaml", "precious")
    before = names(tmp_path)

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    for name in ("new", None, "old"):
        with pytest.raises(InputError, match=f"^--run.dir .*{os.strerror(code)}"):
            RunDirectory.create(tmp_path, name, overwrite=True)
    assert names(tmp_path) == before
    assert (tmp_path / "old" / "config.yaml").read_text() == "precious"


def test_files_stay_whole_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    # A limit on the size of files is a full disk that needs no mount.
    ended = run_python(
        f"""
        import resource, signal
        from lit_recon.errors import RunError
        from lit_recon.records.directory import RunDirectory
        run = RunDirectory.create({str(tmp_path)!r}, "demo")
        run.write_text("report.html", "short")
        run.append_jsonl("metrics.jsonl", {{"step": 1}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        long = "x" * 2000
        def step():
            with run.step_directory(1) as directory:
                (directory / "candidates").write_text(long)
        for write in (
            lambda: run.write_text("report.html", long),
            lambda: run.append_jsonl("metrics.jsonl", {{"step": long}}),
            step,
        ):
            try:
                write()
            except RunError as error:
                print(error)
        """,
        tmp_path,
    )
    assert ended.stderr == ""
    told = ended.stdout.splitlines()
    assert len(told) == 3
    assert all("could not be written" in line for line in told)
    run = tmp_path / "demo"
    assert names(run) == {"report.html", "metrics.jsonl", "recon"}
    assert (run / "report.html").read_text() == "short"
    assert (run / "metrics.jsonl").read_text() == '{"step": 1}\n'


# --- the run directory: writing


def test_json_is_strict_and_names_no_type_of_ours(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "demo")
    path = run.write_json(
        "recon/metrics.json",
        {
            "psnr": float("nan"),
            "loss": float("inf"),
            "scalar": np.float32(0.5),
            "bad": torch.tensor(float("-inf")),
            "count": np.int64(3),
            "flag": np.bool_(True),
            "list": (1, torch.tensor([0.25, float("nan")])),
            "none": None,
            "path": Path("a/b"),
            3: "key",
        },
    )
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "psnr": None,
        "loss": None,
        "scalar": 0.5,
        "bad": None,
        "count": 3,
        "flag": True,
        "list": [1, [0.25, None]],
        "none": None,
        "path": "a/b",
        "3": "key",
    }
    assert text.startswith('{\n  "psnr": null,\n')
    with pytest.raises(TypeError, match="object has no form in JSON"):
        plain({"what": object()})


def test_writing_again_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "demo")
    run.write_text("config.yaml", "a: 1\n")
    run.write_text("config.yaml", "λ: 2\n")
    assert (run.path / "config.yaml").read_bytes() == "λ: 2\n".encode()
    assert names(run.path) == {"config.yaml"}


@pytest.mark.parametrize("tail", [b'{"step": 2, "lo', b"{", b""])
def test_a_half_line_of_a_crash_is_dropped_by_the_next_append(tmp_path: Path, tail: bytes) -> None:
    run = RunDirectory.create(tmp_path, "demo")
    path = run.append_jsonl("metrics.jsonl", {"step": 1, "loss": float("nan")})
    with path.open("ab") as file:
        file.write(tail)
    run.append_jsonl("metrics.jsonl", {"step": 2})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": None}, {"step": 2}]


def test_a_file_that_is_only_half_a_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "demo")
    (run.path / "metrics.jsonl").write_text('{"st')
    assert run.append_jsonl("metrics.jsonl", {"step": 1}).read_text() == '{"step": 1}\n'


def test_a_step_appears_whole(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "demo")
    with run.step_directory(100) as directory:
        (directory / "metrics.json").write_text("{}")
        assert not run.has_step(100)
        assert directory.parent == run.path / "recon"
    assert run.has_step(100)
    assert names(run.path) == {"recon", "recon/step=00000100", "recon/step=00000100/metrics.json"}
    with pytest.raises(RunError, match="step=00000100"), run.step_directory(100):
        pytest.fail("a step that is done must not be done again")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_step_is_not_there(tmp_path: Path, error: type[BaseException]) -> None:
    run = RunDirectory.create(tmp_path, "demo")
    with pytest.raises(error), run.step_directory(0) as directory:
        (directory / "metrics.json").write_text("{}")
        raise error
    assert not run.has_step(0)
    assert names(run.path) == {"recon"}


def test_the_directory_needs_neither_torch_nor_wandb(tmp_path: Path) -> None:
    code = """
    import sys
    import lit_recon.records.directory
    print(sorted({"torch", "wandb", "lightning", "numpy"} & set(sys.modules)))
    """
    assert run_python(code, tmp_path).stdout == "[]\n"


# --- provenance


def test_provenance_names_versions_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    command = ["train.py", "--data.root", "/home/ada/photos", "--run.dir", "/home/adam/x y"]
    told = provenance(command, seed=3, device=torch.device("cpu"))
    json.dumps(told, allow_nan=False)
    assert told["command"] == "train.py --data.root ~/photos --run.dir '/home/adam/x y'"
    assert told["seed"] == 3
    assert told["device"] == "cpu"
    versions = told["versions"]
    assert isinstance(versions, dict)
    assert set(versions) == {
        *("python", "lit_recon", "torch", "lightning", "torchvision", "torchmetrics"),
        *("wandb", "numpy", "scipy"),
    }
    assert all(versions.values())
    assert str(told["started_utc"]).endswith("+00:00")
    assert told["cpu"]
    assert socket.gethostname() not in json.dumps(told).replace(str(told["cpu"]), "").split('"')


def test_the_commit_is_that_of_the_checkout_which_tracks_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside a hook
    package = tmp_path / "lit_recon"
    (package / "records").mkdir(parents=True)
    records = [f"records/{name}.py" for name in ("__init__", "directory", "provenance")]
    for source in ("__init__.py", "errors.py", "files.py", *records):
        (package / source).write_bytes((ROOT / "lit_recon" / source).read_bytes())

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        return subprocess.check_output(command, env=clean, text=True).strip()

    def state() -> Any:
        code = f"""
        import json, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from pathlib import Path
        from lit_recon.records import provenance
        print(json.dumps(provenance._git_state(Path(provenance.__file__))))
        """
        ended = run_python(code, tmp_path, PYTHONPATH=str(tmp_path))
        return json.loads(ended.stdout)

    git("init", "--quiet")
    commit = ("commit", "--quiet", "--no-verify", "--allow-empty", "--message", "start")
    git("add", "lit_recon/errors.py")
    assert state() is None  # no commit yet
    git(*commit)
    assert state() is None  # in a checkout that does not track it
    git("add", "lit_recon")
    git(*commit)
    assert state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    with (package / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert state() == {"commit": git("rev-parse", "HEAD"), "dirty": True}


# --- W&B: which mode

CHOOSE = """
import time
from lit_recon.errors import InputError
from lit_recon.records.tracking import choose_wandb_mode
for mode in {modes!r}:
    started = time.monotonic()
    try:
        chosen, reason = choose_wandb_mode(mode)
        print(chosen, "|", reason, "|", time.monotonic() - started < 4)
    except InputError as error:
        print("refused", "|", error)
"""


def choose(modes: list[str], home: Path, **environment: str) -> list[str]:
    ended = run_python(CHOOSE.format(modes=modes), home, **environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""  # W&B's own lines are kept off the terminal
    return ended.stdout.splitlines()


def test_modes_that_need_no_look_around(tmp_path: Path) -> None:
    assert choose_wandb_mode("disabled")[0] == "disabled"
    mode, reason = choose_wandb_mode("offline")
    assert mode == "offline"
    assert "wandb sync" in reason
    with pytest.raises(InputError, match=r"--wandb.mode ofline: .*offline"):
        choose_wandb_mode("ofline")


def test_without_a_key_auto_is_offline_and_online_is_refused(tmp_path: Path) -> None:
    auto, online = choose(["auto", "online"], tmp_path)
    assert auto.startswith("offline | ")
    assert "no API key" in auto
    assert "wandb sync" in auto
    assert online.startswith("refused | --wandb.mode online: there is no API key")


def test_a_malformed_key(tmp_path: Path) -> None:
    auto, online = choose(["auto", "online"], tmp_path, WANDB_API_KEY="short")
    assert auto.startswith("offline | ")
    assert online.startswith("refused | --wandb.mode online: the API key cannot be used")


def test_with_a_key_the_network_decides(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url, "no_proxy": "127.0.0.1"}
        reached = choose(["online", "auto"], tmp_path, **key)
    assert [line.split(" | ")[0] for line in reached] == ["online", "online"]
    lost = choose(["online", "auto"], tmp_path, **key)
    for line in lost:
        mode, reason, quick = line.split(" | ")
        assert mode == "offline"
        assert f"{url} does not answer" in reason
        assert "wandb sync" in reason
        assert quick == "True"


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_auto_follows_the_environment(tmp_path: Path, mode: str) -> None:
    (told,) = choose(["auto"], tmp_path, WANDB_MODE=mode, WANDB_API_KEY="0" * 40)
    assert told.startswith(f"{mode} | ")
    assert "WANDB_MODE" in told


def test_the_probe_knocks_at_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert tracking._address("https://api.example.org") == ("api.example.org", 443)
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    assert tracking._address("https://api.example.org") == ("proxy.example.org", 3128)
    monkeypatch.setenv("no_proxy", "api.example.org")
    assert tracking._address("https://api.example.org:8080") == ("api.example.org", 8080)


# --- W&B: a run that cannot start


def test_disabled_is_no_logger(tmp_path: Path) -> None:
    assert make_wandb_logger(tmp_path, "disabled", project="p", name="n") is None
    assert view_command(tmp_path) is None


def test_online_that_fails_goes_offline_and_says_why(tmp_path: Path) -> None:
    ended = run_python(
        f"""
        from lit_recon.records import tracking  # below the logger, to spare Lightning's import
        tracking._INIT_SECONDS = 1.0
        run = tracking._start_run("online", dir={str(tmp_path)!r}, project="p", name="n")
        run.log({{"train/loss": 1.0}})
        """,
        tmp_path,
        WANDB_API_KEY="0" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    (line,) = ended.stdout.splitlines()
    assert line.startswith("W&B: offline, because the run could not start online (")
    command = view_command(tmp_path)
    assert command is not None
    assert "offline-run-" in command


@pytest.mark.parametrize(("mode", "expected"), [("online", "last-one"), ("offline", None)])
def test_a_run_goes_on_under_its_id_where_it_is_online(
    mode: Any, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    for name in (
        "run-20260101_235959-zz",
        "run-20260102_000000-last-one",
        "offline-run-20260103_0-a",
    ):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    given: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **arguments: given.update(arguments))
    tracking._start_run(mode, dir=str(tmp_path), project="p", name="n")
    assert (given["mode"], given["id"], given["resume"]) == (mode, expected, "allow")


def test_a_wandb_that_cannot_start_at_all_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def fail(**arguments: object) -> None:
        raise OSError("no sockets today\nand a long story")

    monkeypatch.setattr(wandb, "init", fail)
    assert make_wandb_logger(tmp_path, "online", project="p", name="n") is None
    offline, disabled = capsys.readouterr().out.splitlines()
    assert offline.startswith("W&B: offline, because")
    assert disabled == "W&B: disabled, because it cannot start (no sockets today)."


def test_a_run_in_another_folder_than_an_earlier_one_has_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "run").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        logger = make_wandb_logger(Path("run"), "offline", project="p", name="n")
        assert logger is not None
        logger.experiment.finish()
        assert len(list(tmp_path.glob(f"{name}/run/wandb/offline-run-*/run-*.wandb"))) == 1


# --- W&B: a real offline run, read back


def records(directory: Path) -> list[dict[str, Any]]:
    """Every record of the offline segment in `directory`, as W&B's own reader prints them."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    text = subprocess.check_output([*command, str(directory)], text=True, timeout=60)
    return [json.loads(line) for line in text.splitlines()]


def history(directory: Path) -> list[dict[str, Any]]:
    return [row["history"]["item"] for row in records(directory) if row["type"] == "history"]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished offline run that logged one of everything."""
    directory = tmp_path_factory.mktemp("runs")
    logger = make_wandb_logger(
        directory,
        "offline",
        project="lit_recon",
        name="demo",
        tags=["a", "b"],
        config={"model": {"p": 8}},
        metrics=["train/loss", "recon/projection/psnr"],
    )
    assert logger is not None
    for step in (0, 10):
        logger.log_metrics({"train/loss": 1.0 / (step + 1)}, step=step)
    rows: list[dict[str, Any]] = [
        {"step": i, "phase": "gn", "loss": 1.0 / (i + 1)} for i in range(1000)
    ]
    rows[0]["loss"] = float("nan")
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4, 1).repeat(3, axis=-1)
    images = [
        {"index": 0, "training": ramp, "psnr": 40.5, "certified": True},
        {"index": 1, "training": torch.rand(3, 4, 4), "psnr": float("nan"), "certified": False},
    ]
    with media.one_log(logger, 10) as row:
        row["recon/projection/grid"] = media.picture(ramp, 10)
        for suffix in ("png", "gif"):
            frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
            path = directory / f"extra.{suffix}"
            frames[0].save(path, save_all=suffix == "gif", append_images=frames[1:])
            row[f"recon/projection/{suffix}"] = media.picture_file(path, 10)
        axes = {"x": "step", "y": "loss", "stroke": "phase"}
        row["recon/projection/curve"] = media.curve(rows, "curve at step 10", **axes)
        row["recon/projection/images"] = media.image_table(images)
        row["recon/projection/psnr"] = 40.5
    logger.experiment.finish()
    return directory


def test_numbers_are_read_back_over_the_training_step(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    losses = [(row[STEP], row["train/loss"]) for row in history(segment) if "train/loss" in row]
    assert losses == [(0, 1.0), (10, pytest.approx(1 / 11))]
    assert history(segment)[-1]["recon/projection/psnr"] == 40.5
    axes = {
        row["metric"]["name"]: row["metric"].get("step_metric")
        for row in records(segment)
        if row["type"] == "metric"
    }
    assert axes == {STEP: None, "train/loss": STEP, "recon/projection/psnr": STEP}


def test_the_run_carries_its_name_group_tags_and_configuration(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    run = next(row["run"] for row in records(segment) if row["type"] == "run")
    assert segment.name.endswith(f"-{run['run_id']}")
    assert run["project"] == "lit_recon"
    assert run["display_name"] == "demo"
    assert run["run_group"] == "demo"
    assert run["tags"] == ["a", "b"]
    assert run["config"]["update"]["model"] == {"p": 8}


def test_a_step_is_one_row_and_its_pictures_say_the_step(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    # W&B writes a.b for a["b"].
    (row,) = [row for row in history(segment) if "recon/projection/psnr" in row]
    assert row[STEP] == 10
    logged = {name.removeprefix("recon/projection/").partition(".")[0] for name in row}
    assert {"psnr", "grid", "png", "gif", "images", "curve_table"} <= logged
    captions = {name: text for name, text in row.items() if name.endswith(".caption")}
    shown = ("grid", "png", "gif")
    assert captions == {f"recon/projection/{name}.caption": "step 10" for name in shown}


def test_a_float_picture_is_not_black(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    (picture,) = (segment / "files" / "media" / "images").rglob("grid*.png")
    pixels = np.asarray(Image.open(picture))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 4, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_files_of_pictures_are_sent_as_they_are(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    for kind, suffix in (("images", "png"), ("videos", "gif")):
        (sent,) = (segment / "files" / "media" / kind).rglob(f"{suffix}_*.{suffix}")
        assert sent.read_bytes() == (offline_run / f"extra.{suffix}").read_bytes()


def test_a_curve_is_one_small_table(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    (path,) = (segment / "files" / "media" / "table").rglob("curve_table*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["step", "phase", "loss"]
    assert len(table["data"]) == CURVE_ROWS
    assert table["data"][0] == [0, "gn", None]
    assert table["data"][-1] == [999, "gn", 0.001]


def test_the_table_of_images_lies_in_the_run_directory(offline_run: Path) -> None:
    (segment,) = segments(offline_run)
    (path,) = (segment / "files" / "media" / "table").rglob("images*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["index", "training", "psnr", "certified"]
    assert [row[2] for row in table["data"]] == [40.5, None]
    assert "WANDB_DATA_DIR" not in os.environ
    artifacts = [row["artifact"] for row in records(segment) if row["type"] == "artifact"]
    files = [file for artifact in artifacts for file in artifact["manifest"]["contents"]]
    assert sum(file["path"].endswith(".png") for file in files) == 2
    for file in files:
        assert Path(file["local_path"]).is_relative_to(offline_run)
        assert Path(file["local_path"]).is_file()


def test_the_commands_name_paths_that_are_there(
    offline_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(offline_run.parent)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    (segment,) = segments(offline_run)
    assert view_command(offline_run) == f"wandb leet {segment.relative_to(offline_run.parent)}"
    monkeypatch.setenv("PATH", "/nowhere")
    command = view_command(offline_run)
    assert command is not None
    program = command.split()[0]
    assert program.endswith("/wandb")
    assert Path(program).exists()


def test_a_resumed_offline_run_is_a_segment_of_its_own_in_the_same_group(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        logger = make_wandb_logger(tmp_path, "offline", project="p", name="n")
        assert logger is not None
        ids.append(logger.version)
        logger.experiment.finish()
    assert ids[0] != ids[1]
    runs = [row["run"] for path in segments(tmp_path) for row in records(path) if "run" in row]
    assert {run["run_group"] for run in runs} == {"n"}


# --- pictures and rows


@pytest.mark.parametrize(
    ("image", "shape", "low", "high"),
    [
        (np.array([[0.0, 1.0]]), (1, 2, 1), 0, 255),
        (np.array([[[-3.0], [7.0]]]), (1, 2, 1), 0, 255),
        (np.array([[[np.nan], [0.5]]]), (1, 2, 1), 0, 128),
        (np.array([[[-5], [300]]]), (1, 2, 1), 0, 255),
        (np.array([[False, True]]), (1, 2, 1), 0, 255),
        (np.full((2, 2, 4), 7, np.uint8), (2, 2, 4), 7, 7),
        (torch.tensor([0.0, 1.0]).expand(3, 5, 2), (5, 2, 3), 0, 255),
        (torch.ones(3, 5, 2, dtype=torch.bfloat16, requires_grad=True), (5, 2, 3), 255, 255),
        (torch.full((1, 5, 2), 9, dtype=torch.uint8), (5, 2, 1), 9, 9),
    ],
)
def test_every_picture_becomes_channels_last_uint8(
    image: Any, shape: tuple[int, ...], low: int, high: int
) -> None:
    pixels = to_uint8_image(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == shape
    assert (pixels.min(), pixels.max()) == (low, high)


@pytest.mark.parametrize("image", [np.zeros((3, 8, 8)), torch.zeros(8, 8, 3), np.zeros(4)])
def test_what_is_no_picture_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match="channels"):
        to_uint8_image(image)


@pytest.mark.parametrize("count", [1, 199, 200, 201, 399, 100_000])
def test_thinning_keeps_the_ends_and_repeats_nothing(count: int) -> None:
    rows = thin(range(count), 200)
    assert len(rows) == min(count, 200)
    assert rows == sorted(set(rows))
    assert (rows[0], rows[-1]) == (0, count - 1)
