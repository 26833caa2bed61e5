"""Bugs in modules, and in what is used with them."""

from __future__ import annotations

from typing import Any

import needle_core as ndl
from needle_core import clipping, nn, optim
from needle_core.nn import module
from tests.mutants.planting import Mutant, attribute

Module = nn.Module


def _biased(forward: Any) -> Any:
    def wrong(self: Any, x: Any) -> Any:
        kept = self.running_var.data
        y = forward(self, x)
        if self.training:
            observed = ndl.var(x.detach(), axis=tuple(range(x.ndim - 1)))
            self.running_var.data = (1 - self.momentum) * kept + self.momentum * observed
        return y

    return wrong


def _momentum_inverted(_: Any) -> Any:
    def observe(self: Any, running: Any, observed: Any) -> None:
        running.data = (self.momentum * running + (1 - self.momentum) * observed).astype(running.dtype)

    return observe


def _recorded(_: Any) -> Any:
    def observe(self: Any, running: Any, observed: Any) -> None:
        moved = (1 - self.momentum) * running + self.momentum * observed * self.weight / self.weight.detach()
        running.buffer, running.node, running.tracked = moved.buffer, moved.node, moved.tracked

    return observe


def _batch_statistics_in_evaluation(forward: Any) -> Any:
    def wrong(self: Any, x: Any) -> Any:
        statistics = ndl.batch_statistics(x)
        return forward(self, x) if self.training else ndl.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)

    return wrong


def _moving_in_evaluation(forward: Any) -> Any:
    def wrong(self: Any, x: Any) -> Any:
        y = forward(self, x)
        if not self.training:
            self._observe(self.running_mean, ndl.mean(x.detach(), axis=tuple(range(x.ndim - 1))))
        return y

    return wrong


def _unscaled(_: Any) -> Any:
    def forward(self: Any, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        generator = self.generator or ndl.random.default_generator(x.device)
        return ndl.where(generator.bernoulli(*x.shape, p=1 - self.p), x, 0)

    return forward


def _mask_kept(_: Any) -> Any:
    def forward(self: Any, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        generator = self.generator or ndl.random.default_generator(x.device)
        if not hasattr(self, "mask") or self.mask.shape != x.shape:
            self.mask = generator.bernoulli(*x.shape, p=1 - self.p)
        return ndl.where(self.mask, x / (1 - self.p), 0)

    return forward


def _probability_inverted(_: Any) -> Any:
    def forward(self: Any, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        generator = self.generator or ndl.random.default_generator(x.device)
        return ndl.where(generator.bernoulli(*x.shape, p=self.p), x / (1 - self.p), 0)

    return forward


def _dropping_in_evaluation(forward: Any) -> Any:
    def wrong(self: Any, x: Any) -> Any:
        mode, self.training = self.training, True
        try:
            return forward(self, x)
        finally:
            self.training = mode

    return wrong


def _unmasked_gradient(forward: Any) -> Any:
    return lambda self, x: forward(self, x).detach() + (x - x.detach())


def _by_time(_: Any) -> Any:
    import itertools

    count = itertools.count()
    return lambda: [~next(count), 0]


def _attributes_only(_: Any) -> Any:
    return lambda self: iter(vars(self).items())


def _twice(each: Any) -> Any:
    return lambda self: self._places()


def _without_buffers(_: Any) -> Any:
    return lambda self: {place.name: place.value.detach() for place in self._each() if not isinstance(place.value, nn.Buffer)}


def _sharing(_: Any) -> Any:
    return lambda self: {place.name: place.value for place in self._each()}


def _as_far_as_it_fits(load: Any) -> Any:
    def loaded(self: Any, state: Any, strict: bool = True) -> Any:
        own = {place.name: place.value for place in self._each()}
        for name, value in state.items():
            if name in own and tuple(value.shape) == own[name].shape:
                own[name].data = value
        return load(self, state, strict)

    return loaded


def _never_strict(load: Any) -> Any:
    return lambda self, state, strict=True: load(self, state, False)


def _itself_only(_: Any) -> Any:
    def train(self: Any, mode: bool = True) -> Any:
        self.training = mode
        return self

    return train


def _gradient_left_behind(_: Any) -> Any:
    def move(t: Any, device: Any) -> None:
        moved = t.detach().to(device)
        t.spec, t.buffer = moved.spec, moved.buffer

    return move


def _parameters_only(to: Any) -> Any:
    def moved(self: Any, device: Any) -> Any:
        for p in self.parameters():
            module._move(p, ndl.device(device))
        return self

    return moved


def _per_tensor(clip: Any) -> Any:
    def clipped(params: Any, max_norm: float) -> Any:
        return [clip(p, max_norm) for p in clipping._listed(params)][-1]

    return clipped


def _transposed(_: Any) -> Any:
    return lambda self, x: (
        x @ self.weight.reshape(self.out_features, self.in_features).mT + (0 if self.bias is None else self.bias)
    )


def _first_axis(_: Any) -> Any:
    def forward(self: Any, x: Any) -> Any:
        y = (x - x.mean(axis=0, keepdims=True)) / ndl.sqrt(x.var(axis=0, keepdims=True) + self.eps)
        return y * self.weight + self.bias

    return forward


def _without_bias_gradient(_: Any) -> Any:
    return lambda self, x: x @ self.weight + (0 if self.bias is None else self.bias.detach())


def _clamped(_: Any) -> Any:
    return lambda self, x: ndl.take(self.weight, ndl.maximum(x, 0), axis=0)


MUTANTS = [
    Mutant("biased running variance", "BatchNorm's running variance is divided by n, not n - 1.",
           attribute(nn.BatchNorm1d, "forward", _biased), ("BatchNorm1d", "modules")),
    Mutant("running momentum inverted", "BatchNorm keeps the share that it should take.",
           attribute(nn.BatchNorm1d, "_observe", _momentum_inverted), ("BatchNorm1d", "modules")),
    Mutant("running statistics with a graph", "BatchNorm's running statistics grow a graph from batch to batch.",
           attribute(nn.BatchNorm1d, "_observe", _recorded), ("BatchNorm1d", "modules")),
    Mutant("batch statistics in evaluation", "BatchNorm normalises by the batch, also in evaluation.",
           attribute(nn.BatchNorm1d, "forward", _batch_statistics_in_evaluation), ("BatchNorm1d", "modules")),
    Mutant("statistics that move in evaluation", "BatchNorm's running mean moves in evaluation too.",
           attribute(nn.BatchNorm1d, "forward", _moving_in_evaluation), ("BatchNorm1d", "modules")),
    Mutant("dropout not scaled", "What dropout keeps is not divided by 1 - p.",
           attribute(nn.Dropout, "forward", _unscaled), ("Dropout", "modules")),
    Mutant("dropout with 1 - p for p", "Dropout drops what it should keep.",
           attribute(nn.Dropout, "forward", _probability_inverted), ("Dropout", "modules")),
    Mutant("mask shared between calls", "Dropout draws its mask once.",
           attribute(nn.Dropout, "forward", _mask_kept), ("Dropout", "modules")),
    Mutant("dropout in evaluation", "Dropout drops in evaluation too.",
           attribute(nn.Dropout, "forward", _dropping_in_evaluation), ("Dropout", "modules")),
    Mutant("dropout's gradient without its mask", "The gradient of dropout is passed on unmasked.",
           attribute(nn.Dropout, "forward", _unmasked_gradient), ("Dropout", "modules")),
    Mutant("seed ignored", "Generators start anywhere, whatever the seed.",
           attribute(ndl.random, "_default_state", _by_time), ("modules",)),
    Mutant("lists not searched", "Parameters and modules in lists, tuples and dicts are not found.",
           attribute(Module, "_inside", _attributes_only), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("shared parameters twice", "A parameter that two modules share is listed twice.",
           attribute(Module, "_each", _twice), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("buffers not saved", "The state lacks the running statistics.",
           attribute(Module, "state_dict", _without_buffers), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("state that goes on changing", "The state holds the parameters themselves.",
           attribute(Module, "state_dict", _sharing), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("state loaded in part", "What fits is loaded before the error is raised.",
           attribute(Module, "load_state_dict", _as_far_as_it_fits), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("never strict", "A state that lacks parameters is loaded without a word.",
           attribute(Module, "load_state_dict", _never_strict), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("mode of the outermost module only", "train() and eval() do not reach the modules inside.",
           attribute(Module, "train", _itself_only), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("gradients left behind", "A module that moves leaves its gradients on the old device.",
           attribute(module, "_move", _gradient_left_behind), ("modules",)),
    Mutant("buffers left behind", "A module that moves leaves its buffers on the old device.",
           attribute(Module, "to", _parameters_only), ("BatchNorm1d", "Sequential", "modules")),
    Mutant("clip by norm per tensor", "Each gradient is clipped by its own norm instead of all by their common one.",
           attribute(optim, "clip_grad_norm", _per_tensor), ("modules",)),
    Mutant("weights by columns", "Linear reads its weights in the wrong order.",
           attribute(nn.Linear, "forward", _transposed), ("Linear",)),
    Mutant("LayerNorm over the batch", "LayerNorm normalises over the first axis instead of the last.",
           attribute(nn.LayerNorm, "forward", _first_axis), ("LayerNorm",)),
    Mutant("bias without gradient", "No gradient reaches the bias of a Linear.",
           attribute(nn.Linear, "forward", _without_bias_gradient), ("Linear",)),
    Mutant("negative rows clamped", "Embedding takes row 0 for negative integers.",
           attribute(nn.Embedding, "forward", _clamped), ("Embedding",)),
]  # fmt: skip
