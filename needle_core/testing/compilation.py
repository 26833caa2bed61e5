"""The checks of what a backend makes of plans: compiled functions on the default device, against the same called eagerly.

Random programs compute with small whole numbers, which no order of additions rounds: the results must be equal. Training steps
compute in float64, so that what rounding does to them stays far below the tolerance of 1e-9.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core import nn
from needle_core.errors import NeedleError
from needle_core.testing.programs import RandomProgram, random_program
from needle_core.testing.samples import Array, Check, MismatchError

PROGRAMS: Final = 200
SMALL: Final = 2**22  # below it, a float32 holds the sum of four whole numbers
TOLERANCE: Final = 1e-9


def checks_of_compilation(seed: int = 0, *, quick: bool = False) -> Iterator[Check]:
    """All checks: random programs, training steps, and what a compiled step does with its state."""
    for i in range(PROGRAMS // 10 if quick else PROGRAMS):
        place = f"compile/program/{i}"
        yield Check(place, partial(_check_program, place, 1000 * seed + i))
    for name, make in STEPS.items():
        place = f"compile/step/{name}"
        yield Check(place, partial(_check_step, place, make, seed))
    for name, check in STATE.items():
        place = f"compile/state/{name}"
        yield Check(place, partial(check, place))


def promised_by_compilation(*, quick: bool = False) -> Counter[str]:
    """How many checks of each kind `checks_of_compilation` gives."""
    return Counter({"program": PROGRAMS // 10 if quick else PROGRAMS, "step": len(STEPS), "state": len(STATE)})


def _check_program(place: str, number: int) -> None:
    program, tensors, expected = _whole_program(number)
    step = ndl.compile(program)
    for call in ("first", "second"):
        for i, (y, z) in enumerate(zip(step(*tensors), expected, strict=True)):
            if y.spec is not z.spec or not np.array_equal(y.numpy(), z.numpy()):
                raise MismatchError(f"{place}: output {i} of the {call} call is {y}, and {z} without compilation\n{step.graph}")
    for t, array in zip(tensors, program.inputs, strict=True):
        if not np.array_equal(t.numpy(), array):
            raise MismatchError(f"{place}: the program wrote into an argument that was not given away\n{step.graph}")


def _whole_program(number: int) -> tuple[RandomProgram, list[ndl.Tensor], list[ndl.Tensor]]:
    """The first program from `number` on whose numbers stay small, its arguments, and its results."""
    for attempt in itertools.count():
        program = random_program(number + 10**6 * attempt, whole=True)
        tensors = [ndl.Tensor(x) for x in program.inputs]
        values = program.values(*tensors)
        if all(_is_small(y.numpy()) for y in values):
            return program, tensors, [values[i] for i in program.outputs]
    raise AssertionError


def _is_small(array: Array) -> bool:
    bits = np.iinfo(np.uint32).max if array.dtype.kind == "i" else SMALL  # of random bits
    return bool(array.dtype == np.bool_ or (np.abs(array.astype(np.float64)) <= bits).all())


# -- training steps ---------------------------------------------------------------------------------------------------------

Made = tuple[Callable[..., ndl.Tensor], Sequence[ndl.Tensor], list[tuple[ndl.Tensor, ...]]]
"""A step, the tensors that it changes, and the arguments of each call."""


def _check_step(place: str, make: Callable[[np.random.Generator], Made], seed: int) -> None:
    """Six calls, each of them against an eager one."""
    runs: list[list[Array]] = []
    for wrap in (lambda step: step, ndl.compile):
        ndl.manual_seed(seed)
        step, state, batches = make(np.random.default_rng(seed))
        run = wrap(step)
        losses = [run(*batch) for batch in batches]
        runs.append([t.numpy() for t in (*losses, *state)])
    for i, (y, z) in enumerate(zip(*runs, strict=True)):
        if not np.allclose(z, y, TOLERANCE, TOLERANCE):
            what = f"the loss of call {i}" if i < len(batches) else f"tensor {i - len(batches)} of the state"
            raise MismatchError(f"{place}: {what} is {z}, and {y} without compilation")


def _training(
    model: nn.Module, loss_of: Callable[..., ndl.Tensor], batches: list[tuple[ndl.Tensor, ...]], *, lr: float = 0.1
) -> Made:
    """Gradient descent with momentum; learning rate and velocities are tensors, as those of optimizers."""
    parameters = model.parameters()
    velocities = [ndl.zeros_like(p) for p in parameters]
    rate = ndl.Tensor(lr, dtype="float64")

    def step(*batch: ndl.Tensor) -> ndl.Tensor:
        for p in parameters:
            p.grad = None
        loss = loss_of(model, *batch)
        loss.backward()
        with ndl.no_grad():
            for p, v in zip(parameters, velocities, strict=True):
                assert p.grad is not None
                v.data = 0.9 * v + p.grad
                p.data = p - rate * v
            rate.data = rate * 0.9
        return loss.detach()

    buffers = [b for _, b in model.named_buffers()]
    return step, [*parameters, *velocities, *buffers, rate], batches


def _drawn(rng: np.random.Generator, *shapes: tuple[int, ...], classes: int = 0) -> list[tuple[ndl.Tensor, ...]]:
    """Six batches: numbers of these shapes, and labels below `classes` for the first axis of the first."""
    made = []
    for _ in range(6):
        arrays: list[Any] = [ndl.Tensor(rng.normal(size=shape)) for shape in shapes]
        if classes:
            arrays.append(ndl.Tensor(rng.integers(0, classes, shapes[0][0])))
        made.append(tuple(arrays))
    return made


def _regression(rng: np.random.Generator) -> Made:
    model = nn.Linear(3, 1, dtype="float64")
    return _training(model, lambda m, x, y: ((m(x) - y) ** 2).mean(), _drawn(rng, (8, 3), (8, 1)))


def _classifier(rng: np.random.Generator) -> Made:
    first, last = nn.Linear(6, 16, dtype="float64"), nn.Linear(16, 4, dtype="float64")
    model = nn.Sequential(first, nn.BatchNorm1d(16, dtype="float64"), nn.ReLU(), nn.Dropout(0.25), last)
    return _training(model, lambda m, x, y: ndl.cross_entropy(m(x), y), _drawn(rng, (10, 6), classes=4))


def _convolutional(rng: np.random.Generator) -> Made:
    first, second = nn.Conv2d(1, 4, 3, dtype="float64"), nn.Conv2d(4, 8, 3, dtype="float64")
    model = nn.Sequential(first, nn.ReLU(), second, nn.GELU(), nn.Flatten(), nn.Linear(8 * 2 * 2, 3, dtype="float64"))
    return _training(model, lambda m, x, y: ndl.cross_entropy(m(x), y), _drawn(rng, (4, 6, 6, 1), classes=3), lr=0.02)


def _recurrent(rng: np.random.Generator) -> Made:
    model = nn.LSTM(3, 5, dtype="float64")
    return _training(model, lambda m, x, y: ((m(x)[0] - y) ** 2).mean(), _drawn(rng, (4, 2, 3), (4, 2, 5)))


def _transformer(rng: np.random.Generator) -> Made:
    model = nn.TransformerEncoderLayer(8, 2, 16, dtype="float64")
    return _training(model, lambda m, x, y: ((m(x) - y) ** 2).mean(), _drawn(rng, (2, 5, 8), (2, 5, 8)), lr=0.01)


def _second_order(rng: np.random.Generator) -> Made:
    """A penalty on the gradient, which is differentiated again."""
    model = nn.Sequential(nn.Linear(3, 8, dtype="float64"), nn.Tanh(), nn.Linear(8, 1, dtype="float64"))

    def loss(m: nn.Module, x: ndl.Tensor) -> ndl.Tensor:
        slope = ndl.grad(lambda x: m(x).sum())(x)
        y: ndl.Tensor = m(x).mean() + (slope**2).sum()
        return y

    return _training(model, loss, _drawn(rng, (6, 3)), lr=0.01)


STEPS: Final[dict[str, Callable[[np.random.Generator], Made]]] = {
    "regression": _regression,
    "classifier": _classifier,
    "convolutional": _convolutional,
    "recurrent": _recurrent,
    "transformer": _transformer,
    "second order": _second_order,
}


# -- state ------------------------------------------------------------------------------------------------------------------


def _check_kept(place: str) -> None:
    """Numbers that somebody has from before a step stay what they were."""
    w = ndl.ones((300, 300))

    @ndl.compile
    def step() -> None:
        w.data = w * 2 + 1

    step()
    copy, other, part = w.numpy(), w.detach(), w.detach()[10]
    step()
    for what, y in {"an array": copy, "a tensor": other.numpy(), "a part of it": part.numpy()}.items():
        if (y != 3).any():
            raise MismatchError(f"{place}: {what} from before the step was overwritten: {y}")
    if (w.numpy() != 7).any():
        raise MismatchError(f"{place}: the new numbers are {w}, not 7")


def _check_views(place: str) -> None:
    """Old numbers that are read in another shape, or kept so, are read before new ones are written."""
    drawn = np.arange(90_000).reshape(300, 300) % 251
    w, turned = ndl.Tensor(drawn, dtype="float32"), ndl.zeros((300, 300))

    @ndl.compile
    def step() -> ndl.Tensor:
        turned.data = w.T
        rows = w.reshape(90_000)
        w.data = w * 0.5 + 1
        return rows - w.reshape(90_000)

    for _ in range(3):
        old = w.numpy().copy()
        found = step().numpy(), turned.numpy(), w.numpy()
        expected = (old * 0.5 - 1).ravel(), old.T, old * 0.5 + 1
        if not all(map(np.array_equal, found, expected)):
            raise MismatchError(f"{place}: the step has read new numbers where the old ones were meant")


def _check_failure(place: str) -> None:
    """A step that fails leaves its state as it was, and raises what an eager call does."""
    w, table = ndl.ones((300, 300)), ndl.Tensor([1.0, 2.0])

    def body(i: ndl.Tensor) -> ndl.Tensor:
        w.data = w * 2
        return ndl.take(table, i)

    step = ndl.compile(body)
    step(ndl.Tensor([1]))
    try:
        step(ndl.Tensor([2]))
    except NeedleError as error:
        if "take" not in str(error):
            raise MismatchError(f"{place}: the error does not begin with the op's name: {error}") from error
    else:
        raise MismatchError(f"{place}: an index that is out of range was taken")
    if (w.numpy() != 2).any():
        raise MismatchError(f"{place}: a step that failed has changed its state")


STATE: Final[dict[str, Callable[[str], None]]] = {"kept": _check_kept, "views": _check_views, "failure": _check_failure}
