"""The examples run without a warning, and show what they say: their values against formulas and float64 NumPy."""

from __future__ import annotations

import argparse
import io
import math
import re
import runpy
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TEXT = f"--text={argparse.__file__}"  # 100,000 characters, alike from the beginning to the end
OPTIONS: dict[str, list[str]] = {
    "mlp_resnet": ["--data=digits", "--epochs=10", "--batch=50"],
    "fashion": ["--data=digits", "--epochs=4"],
    "resnet9": ["--data=digits", "--epochs=10", "--batch=50"],
    "lstm_text": [TEXT, "--steps=100", "--columns=16", "--length=32", "--hidden=96", "--lr=1e-2", "--write=40"],
    "gpt": [TEXT, "--steps=120", "--length=32", "--dim=64", "--heads=2", "--layers=2", "--lr=5e-3", "--write=40"],
}
"""What examples with options are given, so that they train in seconds. All others are given a folder for their plots."""


class Run(NamedTuple):
    """What an example left behind: its global names, what it printed, and the folder of its plots."""

    names: dict[str, Any]
    text: str
    folder: Path


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Runs an example by name as `python examples/NAME.py ...` does, once however often it is asked for."""

    @cache
    def run(name: str) -> Run:
        folder = tmp_path_factory.mktemp(name) / "plots"
        return run_example(name, folder, *OPTIONS.get(name, [str(folder)]))

    return run


def run_example(name: str, folder: Path, *arguments: str) -> Run:
    ndl.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as text:
        patch.setenv("NEEDLE_FALLBACK", "allow")  # for own_op
        patch.setattr(sys, "argv", [f"{name}.py", *arguments])
        names = runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return Run(names, text.getvalue(), folder)


@pytest.mark.once  # tests/graph/test_compiled_examples.py runs all of them on every device
@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_every_example_runs_and_prints(name: str, example: Callable[[str], Run]) -> None:
    assert example(name).text


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_examples_are_explained(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option.split("=")[0] in text for option in ["--device", *OPTIONS[name]] if option.startswith("--"))


def test_index_lists_every_example_once() -> None:
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|", (ROOT / "examples" / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in EXAMPLES]


# -- digits -----------------------------------------------------------------------------------------------------------------


def test_digits_are_learned(example: Callable[[str], Run]) -> None:
    run = example("digits")
    assert run.names["accuracy"].item() >= 0.95
    assert len(re.findall(r"^epoch +\d+  loss \d\.\d{3}$", run.text, re.MULTILINE)) == 20


def test_digits_is_the_program_of_the_readme() -> None:
    shown = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert (ROOT / "examples" / "digits.py").read_text().endswith(f'"""\n\n{shown[1]}')


# -- weight updates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["in_place", "detached"])
def test_weight_updates_outside_of_the_graph_leave_memory_flat(way: str, example: Callable[[str], Run]) -> None:
    nodes, kibibytes, _ = zip(*example("weight_updates").names["measured"][way], strict=True)
    assert nodes == (0, 0, 0, 0)
    assert kibibytes[-1] - kibibytes[0] < 100  # recorded steps add more than that every 50


def test_weight_updates_in_the_graph_make_it_grow_by_the_same_at_each_step(example: Callable[[str], Run]) -> None:
    nodes, kibibytes, _ = zip(*example("weight_updates").names["measured"]["recorded"], strict=True)
    assert len(set(np.diff(nodes))) == 1
    assert nodes[1] - nodes[0] >= 2 * 50  # at least the product and the difference of each step
    assert min(np.diff(kibibytes)) > 100


def test_weight_updates_find_the_same_solution(example: Callable[[str], Run]) -> None:
    assert all(rows[-1][2] < 1e-5 for rows in example("weight_updates").names["measured"].values())


# -- softmax ----------------------------------------------------------------------------------------------------------------

THREE = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()  # the same for [c, c + 1, c + 2]


@pytest.mark.parametrize("c", [0.0, 80.0, 100.0, 1000.0, -1000.0])
def test_softmax_is_right_where_stable_and_nan_where_naive_and_large(c: float, example: Callable[[str], Run]) -> None:
    naive, stable, exact = example("stable_softmax").names["softmax"][c]
    assert stable.dtype == naive.dtype == np.float32
    np.testing.assert_allclose(stable, THREE, rtol=1e-6)
    np.testing.assert_allclose(exact, THREE, rtol=1e-12)
    np.testing.assert_allclose(naive, THREE if 0 <= c <= 80 else [np.nan] * 3, rtol=1e-6)


def test_softmax_loss_and_gradient_survive_large_values_when_stable(example: Callable[[str], Run]) -> None:
    loss, gradient = (example("stable_softmax").names[name] for name in ("loss", "gradient"))
    for way in (("naive_loss", 0.0), ("stable_loss", 0.0), ("stable_loss", 1000.0)):
        assert loss[way] == pytest.approx(np.log(1 + np.e + np.e**2), rel=1e-6)
        np.testing.assert_allclose(gradient[way], THREE - [1, 0, 0], rtol=1e-6)
    assert loss["naive_loss", 1000.0] == np.inf
    assert np.isnan(gradient["naive_loss", 1000.0]).all()


# -- Modules and a training loop --------------------------------------------------------------------------------------------


def test_scale_add_parameters_are_found_recursively(example: Callable[[str], Run]) -> None:
    run = example("scale_add")
    names = ["path_a.s", "path_a.b", "path_b.s", "path_b.b"]
    assert [name for name, _ in run.names["model"].named_parameters()] == names
    assert all(name in run.text for name in names)


def test_scale_add_learns_its_target_as_gradient_descent_in_float64_does(example: Callable[[str], Run]) -> None:
    run = example("scale_add")
    x = run.names["x"].numpy().astype(np.float64)
    s, b, losses = 0.5, 0.0, []  # the sums of the two paths, each of which gets the whole gradient
    for _ in run.names["losses"]:
        error = s * x + b - (3 * x - 2)
        losses.append(np.mean(error**2))
        s, b = s - 2 * 0.1 * np.mean(2 * error * x), b - 2 * 0.1 * np.mean(2 * error)
    np.testing.assert_allclose(np.sqrt(run.names["losses"]), np.sqrt(losses), rtol=1e-5, atol=1e-6)
    assert run.names["scale"].item() == pytest.approx(3, abs=1e-5)
    assert run.names["offset"].item() == pytest.approx(-2, abs=1e-5)


# -- optimizers -------------------------------------------------------------------------------------------------------------


def heavy_ball(lr: float, momentum: float, steps: int) -> npt.NDArray[np.float64]:
    """The path of momentum on (w_1^2 + 100 w_2^2) / 2 from (10, 1), from Polyak's two-step recurrence."""
    path = [np.array([10.0, 1.0])] * 2
    for _ in range(steps):
        path.append(path[-1] - lr * np.array([1.0, 100.0]) * path[-1] + momentum * (path[-1] - path[-2]))
    return np.array(path[1:])


@pytest.mark.parametrize(("way", "lr", "momentum"), [("SGD", 2 / 101, 0.0), ("with momentum", 4 / 121, (9 / 11) ** 2)])
def test_momentum_paths_follow_polyak(way: str, lr: float, momentum: float, example: Callable[[str], Run]) -> None:
    path = example("momentum").names["paths"][way]
    np.testing.assert_allclose(path, heavy_ball(lr, momentum, len(path) - 1), rtol=1e-3, atol=1e-6)


def test_momentum_needs_a_fifth_of_the_steps(example: Callable[[str], Run]) -> None:
    distances = example("momentum").names["distances"]
    assert all(d[-1] <= 1e-4 for d in distances.values())
    assert 5 * len(distances["with momentum"]) < len(distances["SGD"])


def test_adam_steps_are_those_of_weighted_means(example: Callable[[str], Run]) -> None:
    names = example("adam").names
    gradients = np.array(names["gradients"])
    for t, (step, formula, _) in enumerate(names["rows"], start=1):
        g, ages = gradients[:t], np.arange(t)[::-1]
        mean, square = (
            np.average(g, weights=0.9**ages),
            np.average(g**2, weights=0.999**ages),
        )  # what the correction makes of m and v
        assert step == pytest.approx(0.1 * mean / (np.sqrt(square) + 1e-8), rel=1e-9)
        assert step == pytest.approx(formula, rel=1e-9)


def test_adam_without_correction_would_begin_too_fast(example: Callable[[str], Run]) -> None:
    step, _, uncorrected = example("adam").names["rows"][0]
    assert step == pytest.approx(0.1, rel=1e-7)
    assert uncorrected == pytest.approx(0.1 * 0.1 / np.sqrt(0.001), rel=1e-6)


# -- initialisation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "factor"), [("half of Kaiming", 1 / 4), ("Kaiming", 1), ("twice Kaiming", 4)])
def test_initialisation_multiplies_the_variance_at_each_layer(way: str, factor: float, example: Callable[[str], Run]) -> None:
    variances = example("initialisation").names["variances"][way]
    assert len(variances) == 11
    ratio = np.array(variances) / factor ** np.arange(11.0)
    assert ratio.min() > 0.5
    assert ratio.max() < 2


@pytest.mark.parametrize("name", ["initialisation", "momentum"])
def test_plots_are_saved_in_the_folder_given(name: str, example: Callable[[str], Run]) -> None:
    run = example(name)
    assert (run.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert str(run.folder / f"{name}.png") in run.text


# -- the variational autoencoder --------------------------------------------------------------------------------------------


def test_vae_divergence_is_the_integral(example: Callable[[str], Run]) -> None:
    m, v = np.array([[0.0, 1.5], [-2.0, 0.3]]), np.array([[0.0, -1.0], [0.5, 1.0]])
    z = np.linspace(-30, 30, 20001)[:, np.newaxis, np.newaxis]
    log_q = -((z - m) ** 2) / (2 * np.exp(v)) - v / 2  # both without -log(2 pi) / 2
    q = np.exp(log_q) / np.sqrt(2 * np.pi)
    expected = np.trapezoid(q * (log_q + z**2 / 2), z, axis=0).sum(axis=1).mean()
    zeros = ndl.zeros((2, 4))
    _, divergence = example("vae").names["loss_of"](zeros, ndl.Tensor(m), ndl.Tensor(v), zeros)
    assert divergence.item() == pytest.approx(expected, rel=1e-6)


def test_vae_reconstruction_is_the_likelihood_of_the_pixels(example: Callable[[str], Run]) -> None:
    scores, x = np.array([[2.0, -1.0], [0.5, 3.0]]), np.array([[1.0, 0.25], [0.0, 1.0]])
    p = 1 / (1 + np.exp(-scores))
    expected = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1).mean()
    zeros = ndl.zeros((2, 1))
    images = ndl.Tensor(x.reshape(2, 2, 1, 1))
    reconstruction, _ = example("vae").names["loss_of"](ndl.Tensor(scores), zeros, zeros, images)
    assert reconstruction.item() == pytest.approx(expected, rel=1e-6)


def test_vae_learns_and_says_so(example: Callable[[str], Run]) -> None:
    run = example("vae")
    losses = run.names["losses"]
    shown = re.findall(r"^epoch +\d+  loss (\d+\.\d\d) = reconstruction \d+\.\d\d \+ KL \d+\.\d\d ", run.text, re.MULTILINE)
    assert shown == [f"{loss:.2f}" for loss in losses]
    # Without z, the best that can be said of a pixel is its mean: the entropy of the mean image.
    mean = np.clip(run.names["images"][:][0].mean(axis=0, dtype=np.float64), 1e-12, 1 - 1e-12)
    blind = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)).sum()
    assert losses[-1] < blind - 2


def test_vae_reconstructions_show_their_images(example: Callable[[str], Run]) -> None:
    names = example("vae").names
    originals, reconstructions = names["originals"], names["reconstructions"]
    assert originals.shape == reconstructions.shape == (16, 8, 8, 1)
    distances = ((originals[:, np.newaxis] - reconstructions) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == np.arange(16)).sum() >= 13
    assert np.median(np.diag(distances) / ((originals - originals.mean(axis=0)) ** 2).sum(axis=(1, 2, 3))) < 0.6


def test_vae_draws_images_of_many_kinds(example: Callable[[str], Run]) -> None:
    samples = example("vae").names["samples"]
    assert samples.shape == (128, 8, 8, 1)
    assert samples.std(axis=0).mean() > 0.1  # of digits it is 0.2; images that are all alike have none


@pytest.mark.parametrize(("name", "rows"), [("vae_reconstructions", 2), ("vae_samples", 8)])
def test_vae_writes_pictures(name: str, rows: int, example: Callable[[str], Run]) -> None:
    run = example("vae")
    content = (run.folder / f"{name}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (16 * 9 * 7, rows * 9 * 7)  # width and height of the header
    assert f"picture in {run.folder / name}.png" in run.text


# -- an op of one's own -----------------------------------------------------------------------------------------------------


def test_own_op_has_the_gradients_of_complex_steps(example: Callable[[str], Run]) -> None:
    names = example("own_op").names
    x, a = names["x"].numpy(), names["a"].numpy()

    def snake(x: npt.NDArray[Any], a: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return x + np.sin(a * x) ** 2 / a

    expected = snake(x + 1e-30j, a).imag / 1e-30, (snake(x, a + 1e-30j).imag / 1e-30).sum(axis=0)
    for gradient, difference, exact in zip(names["gradients"], names["differences"], expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), exact, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(difference, exact, atol=1e-8)


def test_own_op_is_trained_with_its_second_operand(example: Callable[[str], Run]) -> None:
    names = example("own_op").names
    assert names["losses"][-1] < 1e-3 < names["losses"][0]
    assert np.abs(names["model"].a.numpy() - 1).max() > 0.1


# -- classifiers of images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "accuracy"), [("mlp_resnet", 0.95), ("fashion", 0.95), ("resnet9", 0.9)])
def test_classifiers_recognise_digits(name: str, accuracy: float, example: Callable[[str], Run]) -> None:
    run = example(name)
    x, y = run.names["test_images"][:]
    if name == "resnet9":
        some, _ = run.names["images"][:1000]
        x = (x - some.mean()) / some.std()
    with ndl.no_grad():
        right = run.names["model"].eval()(ndl.Tensor(x)).numpy().argmax(axis=1) == y
    assert run.names["history"][-1][1] == pytest.approx(right.mean())
    assert right.mean() >= accuracy


@pytest.mark.parametrize("name", ["mlp_resnet", "fashion", "resnet9"])
def test_classifiers_print_a_line_an_epoch(name: str, example: Callable[[str], Run]) -> None:
    run = example(name)
    lines = re.findall(r"^ +(\d+) +(\d\.\d{4}) +(\d+\.\d{2})% +\d+\.\d$", run.text, re.MULTILINE)
    shown = [
        (str(epoch), f"{loss:.4f}", f"{accuracy:.2%}"[:-1]) for epoch, (loss, accuracy) in enumerate(run.names["history"], 1)
    ]
    assert lines == shown
    assert len(lines) == run.names["options"].epochs


@pytest.mark.parametrize("name", ["fashion", "resnet9"])
def test_classifiers_go_on_from_a_checkpoint_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(checkpoint: Path) -> bytes:
        run_example(name, tmp_path, "--data=digits", "--epochs=2", f"--checkpoint={checkpoint}")
        return checkpoint.read_bytes()

    def save_and_stop(path: Path, tree: Any) -> None:
        save(path, tree)
        raise KeyboardInterrupt

    save, stopped = ndl.checkpoint.save, tmp_path / "stopped.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ndl.checkpoint, "save", save_and_stop)
        train(stopped)
    assert train(stopped) == train(tmp_path / "whole.safetensors")


def test_fashion_shows_what_each_class_is_taken_for(example: Callable[[str], Run]) -> None:
    run = example("fashion")
    confusion = run.names["confusion"]
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(run.names["test_images"][:][1]))
    assert confusion.trace() / confusion.sum() == pytest.approx(run.names["history"][-1][1])
    shown = re.findall(r"^(\d) +(\d+\.\d)% (\d)  ", run.text, re.MULTILINE)
    assert shown == [(str(i), f"{row.max() / row.sum():.1%}"[:-1], str(row.argmax())) for i, row in enumerate(confusion)]


def test_resnet9_reads_cifar10(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = draw.integers(0, 256, (8, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] %= 10  # the labels
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    run = run_example("resnet9", tmp_path, "--data=cifar10", f"--data-dir={tmp_path}", "--epochs=1", "--batch=20")
    assert len(run.names["history"]) == 1
    assert sum(p.size for p in run.names["model"].parameters()) == 431_946  # what PyTorch counts


# -- language models --------------------------------------------------------------------------------------------------------

LANGUAGE_MODELS = ["lstm_text", "gpt"]


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_predict_what_frequencies_alone_do_not(name: str, example: Callable[[str], Run]) -> None:
    run = example(name)
    text = run.names["text"]
    end = text[len(run.names["corpus"].train) :]
    entropy = -sum(n / len(end) * math.log2(n / len(end)) for n in Counter(end).values())
    step, training, testing = run.names["history"][-1]
    assert run.names["entropy"] == pytest.approx(entropy, rel=1e-12)
    assert f"{len(text):,} characters, {len(set(text))} different ones; {entropy:.3f} bits" in run.text
    assert step == run.names["options"].steps
    assert training < 0.8 * entropy
    assert testing < 0.8 * entropy


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_print_their_progress(name: str, example: Callable[[str], Run]) -> None:
    run = example(name)
    lines = re.findall(r"^ +(\d+) +(\d\.\d{3}) +(\d\.\d{3}) +\d+\.\d$", run.text, re.MULTILINE)
    assert lines == [(str(step), f"{training:.3f}", f"{testing:.3f}") for step, training, testing in run.names["history"]]
    assert len(lines) == 10


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_write_on_from_the_prompt(name: str, example: Callable[[str], Run]) -> None:
    run = example(name)
    written = run.names["written"]
    assert written.startswith("def ")
    assert len(written) == len("def ") + 40
    assert set(written) <= set(run.names["text"])
    assert run.text.endswith(f"\n\n{written}\n")


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_write_the_same_from_the_same_seed_and_the_likeliest_from_any(
    name: str, example: Callable[[str], Run]
) -> None:
    names = example(name).names

    def written(temperature: float, seed: int) -> str:
        text: str = names["write"](names["prompt"], 30, temperature, ndl.random.Generator(seed))
        return text

    assert written(1.0, 0) == written(1.0, 0) != written(1.0, 1)
    assert written(0.0, 0) == written(0.0, 1)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_draw_characters_as_often_as_softmax_says(name: str, example: Callable[[str], Run]) -> None:
    names = example(name).names
    generator = ndl.random.Generator(0)
    draws = [names["write"](names["prompt"], 1, 2.0, generator)[-1] for _ in range(400)]
    prompt = ndl.Tensor(names["prompt"])
    scores = names["model"](prompt[:, None])[0][-1, 0] if name == "lstm_text" else names["model"](prompt[None])[0, -1]
    p = np.exp(scores.numpy().astype(np.float64) / 2)
    p /= p.sum()
    counts = np.bincount(names["corpus"].vocabulary.encode("".join(draws)), minlength=len(p))
    frequent = p > 0.01
    assert frequent.sum() > 5
    deviations = (counts - 400 * p)[frequent] / np.sqrt(400 * p * (1 - p))[frequent]
    assert np.abs(deviations).max() < 4.5


def test_lstm_keeps_the_values_of_its_state_but_not_their_graph(example: Callable[[str], Run]) -> None:
    state = example("lstm_text").names["state"]
    assert all(s.is_leaf and not s.requires_grad and ndl.abs(s).max().item() > 0 for s in state)


def test_lstm_reads_in_pieces_what_it_reads_at_once(example: Callable[[str], Run]) -> None:
    model = example("lstm_text").names["model"]
    x = ndl.random.Generator(0).integers(0, 50, 10, 3)
    first, state = model(x[:4])
    second, _ = model(x[4:], state)
    whole, _ = model(x)
    np.testing.assert_allclose(ndl.concat(first, second).numpy(), whole.numpy(), rtol=1e-4, atol=1e-5)


def test_gpt_sees_nothing_of_what_comes_later(example: Callable[[str], Run]) -> None:
    model = example("gpt").names["model"]
    x = ndl.random.Generator(0).integers(0, 50, 2, 32)
    np.testing.assert_allclose(model(x[:, :10]).numpy(), model(x)[:, :10].numpy(), rtol=1e-4, atol=1e-5)


def test_gpt_decays_its_matrices_only(example: Callable[[str], Run]) -> None:
    names = example("gpt").names
    decaying, others = names["optimizer"].groups
    assert decaying.hyper["weight_decay"] > 0 == others.hyper["weight_decay"]
    assert {p.ndim for p in decaying.params} == {2}
    assert {p.ndim for p in others.params} == {1}
    assert len(decaying.params) + len(others.params) == len(names["model"].parameters())
