"""What can go wrong, and the one formatter of its messages.

Every message has one form: a line that can be searched for, then the operands, then a hint where the fix is certain.

    ShapeError: matmul: inner dimensions differ, 784 != 128
      a: float32[32, 784] on numpy
      b: float32[128, 784] on numpy
      hint: a @ b.mT has shape [32, 128]

Whoever finds a fault says only what is wrong; `located` adds where, once, in the engine.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Self


class NeedleError(Exception):
    """Base of every error that Needle raises on purpose; derives further from the built-in class that fits.

    `summary` is the searchable line, `details` are (label, value) lines below it, `hint` is the certain fix.
    """

    def __init__(self, summary: str, *, details: Mapping[str, object] | None = None, hint: str | None = None) -> None:
        super().__init__(summary)
        self.summary = summary
        self.details = dict(details or {})
        self.hint = hint
        self.place: str | None = None

    def located(self, place: str, details: Mapping[str, object]) -> Self:
        """Say where it happened (an op's name) and with which operands, unless an inner op has already said so."""
        if self.place is None:
            self.place = place
            self.details = {**{label: str(value) for label, value in details.items()}, **self.details}
        return self

    def __str__(self) -> str:
        lines = [self.summary if self.place is None else f"{self.place}: {self.summary}"]
        lines += [f"  {label}: {value}" for label, value in self.details.items()]
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def brief(value: object) -> str:
    """What an error shows of a value of any kind: the beginning of its text, and its type unless the text tells it."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    text = text if len(text) <= 60 else text[:57] + "..."
    kind = type(value).__name__
    told = value is None or isinstance(value, int | float | complex | str) or text.startswith(f"{kind}(")
    return text if told else f"{kind} {text}"


def warn(message: str) -> None:
    """Warn at the line outside of Needle that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "needle_core":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


class ShapeError(NeedleError, ValueError):
    """Shapes, axes or sizes do not fit."""


class DtypeError(NeedleError, TypeError):
    """A dtype that the operation does not take, or a value that the dtype cannot hold."""


class DeviceError(NeedleError, ValueError):
    """Operands on different devices, or a device that nobody offers."""


class DeviceUnavailableError(NeedleError, RuntimeError):
    """The backend is installed, but its device cannot be opened; the cause is chained."""


class ArgumentError(NeedleError, TypeError):
    """An argument of the wrong kind, missing, or one too many."""


class BoundsError(NeedleError, IndexError):
    """An index outside of its axis."""


class MissingKernelError(NeedleError, NotImplementedError):
    """The backend has no kernel for a primitive."""


class MissingGradientError(NeedleError, NotImplementedError):
    """The op has no gradient rule for an input that needs one."""


class GradientError(NeedleError, RuntimeError):
    """Differentiation was asked of something that cannot be differentiated."""


class KernelError(NeedleError, RuntimeError):
    """A kernel raised; the cause is chained."""


class StateError(NeedleError, ValueError):
    """A state that does not fit the object that it is loaded into; nothing was loaded."""


class CheckpointError(NeedleError, ValueError):
    """A checkpoint that cannot be read or written."""


class DataError(NeedleError, ValueError):
    """A data file that is missing, truncated or not what it claims to be."""


class CompileError(NeedleError, RuntimeError):
    """A function that cannot be compiled, or a value of a captured computation that was used outside of it."""


class PluginError(NeedleError, ImportError):
    """A plugin failed to load, or does not keep what its entry points promise; the cause is chained."""
