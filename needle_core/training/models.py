"""Models for `needle train`: functions of the shape of a sample and the number of classes.

A model of your own is such a function in a file, `--model path/to/file.py:function`.
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from needle_core import nn
from needle_core.errors import ArgumentError

Factory: TypeAlias = Callable[[tuple[int, ...], int], nn.Module]


def mlp_resnet(shape: tuple[int, ...], classes: int, *, hidden: int = 200, blocks: int = 3, dropout: float = 0.5) -> nn.Module:
    """The residual network of the course, wider and with more dropout: n samples of `shape` -> scores [n, classes]."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), hidden),
        nn.ReLU(),
        *(_residual_block(hidden, hidden // 2, dropout) for _ in range(blocks)),
        nn.Linear(hidden, classes),
    )


def _residual_block(features: int, hidden: int, dropout: float) -> nn.Module:
    branch = nn.Sequential(
        nn.Linear(features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, features),
        nn.BatchNorm1d(features),
    )
    return nn.Sequential(nn.Residual(branch), nn.ReLU())


def mlp(shape: tuple[int, ...], classes: int, *, hidden: int = 100) -> nn.Module:
    """One hidden layer: n samples of `shape` -> scores [n, classes]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))


MODELS: Final[dict[str, Factory]] = {"mlp_resnet": mlp_resnet, "mlp": mlp}


def find_model(name: str) -> Factory:
    """The function that `name` means: one of MODELS, or `path/to/file.py:function`, for which the file is run.

    Raises:   ArgumentError if there is none
    """
    if name in MODELS:
        return MODELS[name]
    path, colon, function = name.rpartition(":")
    if not colon:
        hint = "a model of your own is --model path/to/file.py:function"
        raise ArgumentError(f"no model is called {name!r}", details={"models": ", ".join(MODELS)}, hint=hint)
    if not Path(path).is_file():
        raise ArgumentError(f"no model {name!r}: there is no file {path}")
    factory = runpy.run_path(path, run_name=Path(path).stem).get(function)
    if not callable(factory):
        raise ArgumentError(f"no model {name!r}: the file defines no function {function}")
    return _checked(factory, name)


def _checked(factory: Factory, name: str) -> Factory:
    """`factory`, whose models are made sure to be Modules."""

    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        model = factory(shape, classes)
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model {name!r} must return a Module, not {type(model).__name__}")
        return model

    return make
