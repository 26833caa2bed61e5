"""Momentum: SGD with and without it, in a long narrow valley.

    f(w) = (w_1^2 + 100 w_2^2) / 2

The curvature is 100 times larger across the valley than along it. Across, a step must be small; along, the same step is far too
small. Momentum adds up the small steps along the valley; across it overshoots at first, and its swings then die out. With the
best constants for curvatures between a and b, and k = b / a, a step leaves of the distance from the minimum, in the long run,

    SGD              (k - 1) / (k + 1)              lr = 2 / (a + b)
    with momentum    (sqrt k - 1) / (sqrt k + 1)    lr = 4 / (sqrt a + sqrt b)^2, momentum = the square of what is left

With momentum these constants make a double root, r: the distance falls like n r^n, so what is measured is a little above r.

Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5
"""

import sys
from math import sqrt
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import needle_core as ndl
from needle_core import nn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
a, b = 1.0, 100.0
rate = {"SGD": (b - a) / (b + a), "with momentum": (sqrt(b) - sqrt(a)) / (sqrt(b) + sqrt(a))}
constants = {
    "SGD": {"lr": 2 / (a + b)},
    "with momentum": {"lr": 4 / (sqrt(a) + sqrt(b)) ** 2, "momentum": rate["with momentum"] ** 2},
}

paths, distances = {}, {}
for way in rate:
    w = nn.Parameter([10.0, 1.0])
    optimizer = ndl.optim.SGD([w], **constants[way])
    path = [w.numpy()]
    while np.hypot(*path[-1]) > 1e-4:
        optimizer.reset_grad()
        f = (ndl.Tensor([a, b]) * w**2).sum() / 2
        f.backward()
        optimizer.step()
        path.append(w.numpy())
    paths[way] = np.array(path)
    distances[way] = d = np.hypot(*paths[way].T)
    left = (d[-1] / d[len(d) // 2]) ** (1 / (len(d) - 1 - len(d) // 2))
    print(f"{way:<14} {len(d) - 1:3} steps; each left {left:.3f} of the distance in the second half, in theory {rate[way]:.3f}")

figure = Figure(figsize=(10, 4), layout="constrained")
valley, curve = figure.subplots(1, 2)
x, y = np.meshgrid(np.linspace(-4, 11, 200), np.linspace(-4, 4, 200))
valley.contour(x, y, (a * x**2 + b * y**2) / 2, levels=[1, 10, 50, 100, 200, 400, 800], colors="lightgray")
for way, path in paths.items():
    valley.plot(*path.T, ".-", label=way, linewidth=0.8, markersize=3)
    curve.semilogy(distances[way], label=way)
valley.set(title="path", xlabel="$w_1$", ylabel="$w_2$")
valley.legend()
curve.set(title="distance from the minimum", xlabel="step")
curve.legend()
folder.mkdir(parents=True, exist_ok=True)
figure.savefig(folder / "momentum.png")
print(f"plot in {folder / 'momentum.png'}")
