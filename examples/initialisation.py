"""How weights start decides what arrives: the size of activations through ten layers.

A layer y = relu(x) @ w of n inputs, its weights independent and of mean 0, gives on average over the weights

    E[y^2] = n var(w) E[relu(x)^2] = n var(w) / 2 * E[x^2]

for x symmetric about 0. Kaiming's var(w) = 2 / n makes the factor 1. Half of its standard deviation makes it 1/4, twice
makes it 4: after ten layers a millionth and a million.

Source: He et al. 2015, arXiv:1502.01852
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import needle_core as ndl
from needle_core import nn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
n, layers = 256, 10
ndl.manual_seed(0)
x0 = nn.init.randn(512, n)

variances = {}
for way, scale in {"half of Kaiming": 0.5, "Kaiming": 1.0, "twice Kaiming": 2.0}.items():
    x, variances[way] = x0, [x0.var().item()]
    for _ in range(layers):
        w = scale * nn.init.kaiming_normal(n, n)
        x = ndl.relu(x) @ w
        variances[way].append(x.var().item())
    print(f"{way:<16}", *(f"{v:8.1e}" for v in variances[way]))

figure = Figure(figsize=(6, 4), layout="constrained")
axes = figure.subplots()
for way, values in variances.items():
    axes.semilogy(values, "o-", label=way)
axes.set(title="variance before the activation", xlabel="layer", xticks=range(layers + 1))
axes.legend()
folder.mkdir(parents=True, exist_ok=True)
figure.savefig(folder / "initialisation.png")
print(f"plot in {folder / 'initialisation.png'}")
