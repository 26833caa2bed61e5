"""`needle train`: what it learns, what it leaves, and that no stop of any kind changes a bit of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from needle_core import checkpoint
from needle_core.errors import ArgumentError
from needle_core.training import Run, Settings, find_model

ENVIRONMENT = {**os.environ, "COLUMNS": "120", "OPENBLAS_NUM_THREADS": "1"}  # the networks are small: threads only wait
WITH_PLOT = "from needle_core.cli import main; main()"
NEEDLE = "import sys; sys.modules['matplotlib'] = None; " + WITH_PLOT  # a plot takes longer than a short run
KILLED_IN_THE_MIDST_OF_WRITING = (
    """
import os, signal, sys
left, real = int(sys.argv.pop(1)), os.fsync
def fsync(file):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(file)
os.fsync = fsync
"""
    + NEEDLE
)
SHORT = ("--epochs", "2", "--batch-size", "100")  # 15 batches an epoch, with dropout and shuffling

Needle = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def needle(tmp_path: Path) -> Needle:
    """A function that runs `needle train` with arguments in an empty folder."""

    def run(*args: str, code: str = NEEDLE, kill: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        given = [] if kill is None else [str(kill)]
        command = [sys.executable, "-c", code, *given, "train", *args]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, check=False
        )

    return run


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    """`needle train` with arguments, running."""
    command = [sys.executable, "-c", NEEDLE, "train", *args]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout)


def state_of(run: Path) -> bytes:
    return (run / "checkpoint.safetensors").read_bytes() + (run / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Where a SHORT run of the default model ends if nothing stops it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    command = [sys.executable, "-c", NEEDLE, "train", *SHORT, "--out", "run", "--quiet"]
    subprocess.run(command, cwd=folder, check=True, env=ENVIRONMENT)
    return state_of(folder / "run")


# -- what it learns and leaves ----------------------------------------------------------------------------------------------


def test_by_default_it_learns_the_digits_to_97_percent(needle: Needle, tmp_path: Path) -> None:
    done = needle(code=WITH_PLOT)
    assert (done.returncode, done.stderr) == (0, "")
    run = tmp_path / "runs" / "digits-mlp_resnet-1"
    assert sorted(f.name for f in run.iterdir()) == ["checkpoint.safetensors", "curves.png", "metrics.jsonl", "settings.json"]
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == list(range(1, 31))
    assert history[-1]["test_accuracy"] >= 0.97
    assert f"test accuracy  {history[-1]['test_accuracy']:.2%}" in done.stdout
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert str(Path("runs", "digits-mlp_resnet-1", "curves.png")) in done.stdout


def test_the_next_run_gets_the_next_folder_and_the_same_numbers(needle: Needle, tmp_path: Path, uninterrupted: bytes) -> None:
    for n in (1, 2):
        assert needle(*SHORT, "--quiet").stdout == ""
        assert state_of(tmp_path / "runs" / f"digits-mlp_resnet-{n}") == uninterrupted


def test_another_seed_gives_other_numbers(needle: Needle, tmp_path: Path, uninterrupted: bytes) -> None:
    needle(*SHORT, "--seed", "1", "--out", "run")
    assert state_of(tmp_path / "run") != uninterrupted


def test_without_a_terminal_there_is_one_line_an_epoch(needle: Needle) -> None:
    lines = needle(*SHORT, "--model", "mlp").stdout.splitlines()
    assert [line.split()[0] for line in lines if "%" in line] == ["1/2", "2/2", "test"]


def test_on_a_terminal_a_bar_shows_loss_and_accuracy(needle: Needle) -> None:
    shown = needle(*SHORT, FORCE_COLOR="1", TERM="xterm").stdout
    assert "epoch 2/2" in shown
    assert "━" in shown
    assert "loss " in shown


def test_a_model_in_a_file_is_trained_and_resumes_from_any_folder(needle: Needle, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "from needle_core import nn\n"
        "def linear(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], classes))\n"
    )
    first = needle("--model", "tiny.py:linear", "--epochs", "1")
    assert (first.returncode, first.stderr) == (0, "")
    run = tmp_path / "runs" / "digits-tiny.py-linear-1"
    command = [sys.executable, "-c", NEEDLE, "train", "--resume", str(run), "--epochs", "2"]
    subprocess.run(command, cwd="/", check=True, capture_output=True, env=ENVIRONMENT)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    settings = Settings.of({"batch_size": 11, "epochs": 1})
    assert (len(Run(settings).loader.dataset), len(Run(settings).loader)) == (11 * 131 + 1, 131)


def test_without_matplotlib_it_says_that_there_is_no_plot(needle: Needle, tmp_path: Path) -> None:
    done = needle(*SHORT, "--out", "run")
    assert done.returncode == 0
    assert "no plot was made, for matplotlib is not installed: pip install 'needle-core[plot]'" in done.stdout
    assert not (tmp_path / "run" / "curves.png").exists()


# -- stopped and resumed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_it_ends_as_if_never_stopped(
    needle: Needle, tmp_path: Path, uninterrupted: bytes, seed: int
) -> None:
    """Killed before and after the renaming of the files that every batch saves, within epochs and between them."""
    moments = random.Random(seed)
    done = needle(*SHORT, "--out", "run", "--save-every", "0", kill=moments.randint(5, 80), code=KILLED_IN_THE_MIDST_OF_WRITING)
    kills = 0
    while done.returncode == -signal.SIGKILL:
        kills += 1
        kill = moments.randint(20, 80)
        done = needle("--resume", "run", "--save-every", "0", kill=kill, code=KILLED_IN_THE_MIDST_OF_WRITING)
    assert (done.returncode, done.stderr) == (0, "")
    assert kills >= 2
    assert state_of(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("kill", [1, 2, 4])
def test_killed_at_the_very_beginning_it_begins_or_resumes(
    needle: Needle, tmp_path: Path, uninterrupted: bytes, kill: int
) -> None:
    assert needle(*SHORT, "--out", "run", kill=kill, code=KILLED_IN_THE_MIDST_OF_WRITING).returncode == -signal.SIGKILL
    again = ["--resume", "run"] if (tmp_path / "run" / "checkpoint.safetensors").exists() else [*SHORT, "--out", "run"]
    assert (again[0] == "--resume") == (kill > 1)
    assert needle(*again).returncode == 0
    assert state_of(tmp_path / "run") == uninterrupted


def test_killed_from_outside_it_resumes(needle: Needle, tmp_path: Path, uninterrupted: bytes) -> None:
    with start(tmp_path, *SHORT, "--out", "run", "--save-every", "0") as process:
        read_until(process, "1/2")
        process.kill()
    assert needle("--resume", "run").returncode == 0
    assert state_of(tmp_path / "run") == uninterrupted


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(needle: Needle, tmp_path: Path) -> None:
    with start(tmp_path, "--epochs", "4", "--out", "run") as process:
        read_until(process, "1/4")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "stopped; needle train --resume run goes on\n")
    assert checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["loader"]["batches"] > 0
    for folder in ("run", "whole"):
        needle(*(["--resume", "run"] if folder == "run" else ["--epochs", "4", "--out", "whole"]))
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole")


def test_with_more_epochs_it_ends_like_a_longer_run(needle: Needle, tmp_path: Path, uninterrupted: bytes) -> None:
    needle("--epochs", "1", "--batch-size", "100", "--out", "run")
    done = needle("--resume", "run", "--epochs", "2", "--batch-size", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert state_of(tmp_path / "run") == uninterrupted


# -- what it refuses --------------------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_settings(needle: Needle, tmp_path: Path) -> None:
    needle(*SHORT, "--out", "run")
    before = state_of(tmp_path / "run")
    done = needle("--resume", "run", "--epochs", "1", "--seed", "3", "--lr", "0.5")
    assert done.returncode == 1
    assert done.stderr == (
        "error: a run that resumes keeps its settings; only epochs may be added\n"
        "  --epochs 1: the run has 2\n"
        "  --seed 3: the run has 0\n"
        "  --lr 0.5: the run has the optimizer's own\n"
    )
    assert state_of(tmp_path / "run") == before


def test_a_new_run_overwrites_nothing(needle: Needle, tmp_path: Path) -> None:
    needle(*SHORT, "--out", "run")
    before = state_of(tmp_path / "run")
    done = needle(*SHORT, "--out", "run", "--seed", "1")
    hint = "needle train --resume run goes on with the run in it"
    expected = f"error: run exists, and a new run overwrites nothing\n  hint: {hint}\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert state_of(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["--resume", "none"], 1, "error: none holds no run that could go on\n  missing: none/checkpoint.safetensors\n"),
        (
            ["--resume", "run", "--out", "run"],
            2,
            "Error: --resume goes on in the folder that it names; --out is for new runs\n",
        ),
        (["--device", "abacus"], 1, "error: no backend is called 'abacus'\n"),
        (["--lr", "1e30", "--optimizer", "SGD"], 1, "error: the loss is "),
    ],
)
def test_a_mistake_is_named_without_a_traceback(needle: Needle, args: list[str], status: int, text: str) -> None:
    done = needle(*args)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_leave_no_folder_behind(needle: Needle, tmp_path: Path) -> None:
    done = needle("--data", "fashion-mnist", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: the files of Fashion-MNIST were not found\n"
        "  files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte,"
        " each plain or with .gz\n"
        f"  the given directory: {tmp_path} has none of them\n"
        "  hint: apt-get install dataset-fashion-mnist, or name the folder of the files with --data-dir or NEEDLE_DATA\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_optimizer_is_answered_with_the_installed_ones(needle: Needle, tmp_path: Path) -> None:
    done = needle("--optimizer", "Adm")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no optimizer is called 'Adm'\n  installed: ")
    assert "AdamW" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def wrong(shape, classes): return 1\n")
    texts = {
        "mpl": "no model is called 'mpl'\n  models: mlp_resnet, mlp\n"
        "  hint: a model of your own is --model path/to/file.py:function",
        f"{tmp_path}/n.py:f": f"no model '{tmp_path}/n.py:f': there is no file {tmp_path}/n.py",
        f"{tmp_path}/m.py:f": f"no model '{tmp_path}/m.py:f': the file defines no function f",
        f"{tmp_path}/m.py:wrong": f"model '{tmp_path}/m.py:wrong' must return a Module, not int",
    }
    for name, text in texts.items():
        with pytest.raises(ArgumentError) as error:
            find_model(name)((1, 8, 8), 10)
        assert str(error.value) == text
