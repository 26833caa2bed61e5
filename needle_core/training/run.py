"""A training run: a model, its optimizer and its data, and how far they have come.

All that the next number depends on is in `state_dict`: a run that loads it goes on bit for bit as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import needle_core as ndl
from needle_core.data import ArrayDataset, DataLoader, digits, fashion_mnist
from needle_core.errors import ArgumentError, NeedleError
from needle_core.plugins import registry
from needle_core.random import default_generator
from needle_core.tensor import Tensor
from needle_core.training.models import find_model


@dataclass(frozen=True)
class Settings:
    """What determines the numbers of a run. `lr` None is the optimizer's own default."""

    data: str
    model: str
    device: str
    optimizer: str
    lr: float | None
    batch_size: int
    epochs: int
    seed: int
    data_dir: str | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Those that are `given`, and the defaults of their task for the others."""
        task = TASKS[given.get("data", "digits")]
        defaults = {
            "data": "digits",
            "model": "mlp_resnet",
            "device": ndl.default_device().name,
            "optimizer": "Adam",
            "lr": None,
            "batch_size": task.batch_size,
            "epochs": task.epochs,
            "seed": 0,
            "data_dir": None,
        }
        return cls(**{**defaults, **given})

    def extended(self, given: Mapping[str, Any]) -> Settings:
        """These settings, with the `given` ones that do not change the numbers: more epochs, another place of the data.

        Raises:   ArgumentError that lists those that would
        """
        changed = {name: value for name, value in given.items() if value != getattr(self, name)}
        own = {name: "the optimizer's own" if value is None else value for name, value in asdict(self).items()}
        wrong = {
            f"--{name.replace('_', '-')} {value}": f"the run has {own[name]}"
            for name, value in changed.items()
            if name not in ("epochs", "data_dir") or (name == "epochs" and value < self.epochs)
        }
        if wrong:
            raise ArgumentError("a run that resumes keeps its settings; only epochs may be added", details=wrong)
        return replace(self, **changed)


@dataclass(frozen=True)
class Task:
    """Where the samples to train on and to test on come from, and how long training takes by default."""

    read: Callable[[str | None], tuple[ArrayDataset, ArrayDataset]]
    epochs: int
    batch_size: int


TASKS: Final = {
    "digits": Task(lambda directory: digits(), epochs=30, batch_size=50),
    "fashion-mnist": Task(fashion_mnist, epochs=8, batch_size=100),
}


class DivergedError(NeedleError, ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class Score:
    """Loss and hits, summed over samples."""

    samples: int = 0
    loss_sum: float = 0.0
    hits: int = 0

    def add(self, scores: Tensor, labels: Tensor, loss: Tensor) -> None:
        n = len(labels)
        self.samples += n
        self.loss_sum += n * float(loss)
        self.hits += int((scores.argmax(-1) == labels).astype("int64").sum())

    @property
    def loss(self) -> float:
        return self.loss_sum / self.samples

    @property
    def accuracy(self) -> float:
        return self.hits / self.samples


class Run:
    """The run that `settings` describe, at its beginning. Their device becomes the default one, on which models are made.

    Raises:   DataError if the data are not there; ArgumentError, PluginError for a model or an optimizer that is not
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        train, test = TASKS[settings.data].read(settings.data_dir)
        make_model = find_model(settings.model)
        make_optimizer = _find_optimizer(settings.optimizer)
        ndl.set_default_device(settings.device)
        ndl.manual_seed(settings.seed)
        classes = int(train.arrays[1].max()) + 1
        self.model = make_model(train[0][0].shape, classes)
        rate = {} if settings.lr is None else {"lr": settings.lr}
        self.optimizer = make_optimizer(self.model.parameters(), **rate)
        alone = len(train) % settings.batch_size == 1  # a last batch of one sample has no variance to normalise by
        self.loader = DataLoader(train, settings.batch_size, shuffle=True, drop_last=alone)
        self.tests = DataLoader(test, 1000)
        self.score = Score()  # of the epoch so far
        self.history: list[dict[str, Any]] = []
        """For each epoch: its number, loss and accuracy in training, and in testing after it."""

    @property
    def epoch(self) -> int:
        """The number of the running epoch, from 1."""
        return len(self.history) + 1

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.settings.epochs

    def batches(self) -> Iterator[int]:
        """Train through the rest of the running epoch. After each batch, yields how many of the epoch are done.

        Whenever it yields, the state is whole and can be saved.

        Raises:   DivergedError if the loss is infinite or not a number
        """
        self.model.train()
        for x, labels in self.loader:
            self.optimizer.reset_grad()
            scores = self.model(x)
            loss = ndl.cross_entropy(scores, labels)
            loss.backward()
            self.optimizer.step()
            self.score.add(scores.detach(), labels, loss.detach())
            if not math.isfinite(self.score.loss_sum):
                raise DivergedError(f"the loss is {float(loss)} in epoch {self.epoch}", hint="a lower learning rate, --lr")
            yield self.loader.state_dict()["batches"]

    def close_epoch(self) -> dict[str, Any]:
        """Test the model and enter the epoch into the history, after its last batch."""
        test = self._test()
        self.history.append(
            {
                "epoch": self.epoch,
                "train_loss": self.score.loss,
                "train_accuracy": self.score.accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
            }
        )
        self.score = Score()
        return self.history[-1]

    @ndl.no_grad()
    def _test(self) -> Score:
        self.model.eval()
        score = Score()
        for x, labels in self.tests:
            scores = self.model(x)
            score.add(scores, labels, ndl.cross_entropy(scores, labels))
        return score

    def state_dict(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "generator": default_generator().state.data,
            "score": asdict(self.score),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a run with these settings was, except for `epochs` and `data_dir`, which may differ."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        generator = default_generator()
        generator.state.data = state["generator"].to(generator.device)
        self.score = Score(**state["score"])
        self.history = list(state["history"])


def _find_optimizer(name: str) -> Any:
    found = registry.find("optimizers", name)
    if found is None:
        installed = ", ".join(registry.names("optimizers")) or "none"
        raise ArgumentError(
            f"no optimizer is called {name!r}", details={"installed": installed}, hint="`needle plugins` lists all plugins"
        )
    return found
