"""The usual optimizers for Needle: SGD, Adam, AdamW, RMSprop, Adagrad, Lion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from needle_core.plugins import hookimpl

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar

needle_api = 1


@hookimpl
def needle_register_optimizers(registrar: Registrar) -> None:
    from needle_optimizers.adagrad import Adagrad, RMSprop
    from needle_optimizers.adam import Adam, AdamW
    from needle_optimizers.lion import Lion
    from needle_optimizers.sgd import SGD

    for optimizer in (SGD, Adam, AdamW, RMSprop, Adagrad, Lion):
        registrar.optimizer(optimizer)


@hookimpl
def needle_conformance(registrar: Registrar) -> None:
    from needle_optimizers.conformance import CASES

    for case in CASES:
        registrar.optimizer_case(case)
