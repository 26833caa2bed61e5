"""Softmax of large values: the formula as it stands in the book, and the one that survives.

    naive     softmax(x)[i] = exp(x[i]) / sum_j exp(x[j])
    stable    softmax(x)[i] = exp(x[i] - max x) / sum_j exp(x[j] - max x)

On paper they are equal. In float32, exp(x) is infinite above 88.7 and 0 below -104, and inf / inf and 0 / 0 are nan. Without
the maximum no exponent is above zero, and one is zero. The loss log(sum_j exp(x[j])) - x[label] and its gradient
softmax(x) - one_hot(label) fare the same.
"""

import numpy as np

import needle_core as ndl


def naive_softmax(x):
    return ndl.exp(x) / ndl.exp(x).sum()


def exact_softmax(x):
    shifted = np.exp(x.numpy().astype(np.float64) - x.numpy().max())
    return shifted / shifted.sum()


def naive_loss(x):
    return ndl.log(ndl.exp(x).sum()) - x[0]


def stable_loss(x):
    return ndl.cross_entropy(x, 0)


softmax = {}
for c in (0.0, 80.0, 100.0, 1000.0, -1000.0):
    x = ndl.Tensor([c, c + 1, c + 2])
    naive, stable, exact = softmax[c] = naive_softmax(x).numpy(), ndl.softmax(x).numpy(), exact_softmax(x)
    print(f"softmax of {x.tolist()}\n  naive  {naive}\n  stable {stable}\n  exact  {exact}")

loss, gradient = {}, {}
for c in (0.0, 1000.0):
    x = ndl.Tensor([c, c + 1, c + 2])
    print(f"loss and gradient at {x.tolist()} with label 0")
    for f in (naive_loss, stable_loss):
        value, slope = ndl.value_and_grad(f)(x)
        loss[f.__name__, c], gradient[f.__name__, c] = value.item(), slope.numpy()
        print(f"  {f.__name__:<11} {value:.6f} {slope.numpy()}")
