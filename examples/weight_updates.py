"""Weight updates in place: memory that stays flat, and a graph that grows.

An op that meets a tensor which requires a gradient is recorded. `w = w - lr * g` is such an op: the new weight remembers the
old one, that one the weight before it, and with them stay the loss and the gradient of every step. Two ways out:

    w.data = w.data - lr * w.grad     the new value takes the old one's place, and w stays a leaf
    w = (w - lr * g).detach()         the same value, outside of any graph

The same least squares problem is solved in all three ways. Every 50 steps the nodes of the graph behind w are counted, and the
memory that Python has allocated since the first step.
"""

import gc
import tracemalloc
from itertools import islice

import needle_core as ndl

lr = 0.1
x = ndl.random.Generator(seed=0).normal(64, 5)
solution = ndl.Tensor([1.0, -2.0, 3.0, -4.0, 5.0])
y = x @ solution


def loss_of(w):
    return ((x @ w - y) ** 2).mean()


def in_place():
    w = ndl.Tensor([0.0] * 5, requires_grad=True)
    while True:
        loss_of(w).backward()
        w.data = w.data - lr * w.grad
        w.grad = None
        yield w


def detached():
    w = ndl.Tensor([0.0] * 5)
    while True:
        w.requires_grad = True
        w = (w - lr * ndl.grad(loss_of)(w)).detach()
        yield w


def recorded():
    w = ndl.Tensor([0.0] * 5, requires_grad=True)
    while True:
        w = w - lr * ndl.grad(loss_of)(w)
        yield w


def nodes_behind(w):
    nodes, tensors = set(), [w]
    while tensors:
        node = tensors.pop().node
        if node is not None and node not in nodes:
            nodes.add(node)
            tensors.extend(node.inputs)
    return len(nodes)


measured = {}
print("way        step   nodes   KiB  error")
for way in (in_place, detached, recorded):
    name = way.__name__
    measured[name] = []
    tracemalloc.start()
    for step, w in enumerate(islice(way(), 200), start=1):
        if step % 50 == 0:
            gc.collect()
            kibibytes = tracemalloc.get_traced_memory()[0] / 1024
            measured[name].append((nodes_behind(w), kibibytes, ndl.abs(w - solution).max().item()))
            print("{:<9} {:5} {:7} {:5.0f}  {:.0e}".format(name, step, *measured[name][-1]))
    tracemalloc.stop()
