"""An op of your own, written as a class: its value, its gradients, a check against differences, and a network that uses it.

    snake(x, a) = x + sin(a x)^2 / a

An activation that, unlike relu, can go on periodically where there are no data. Its second operand, the frequency, is trained.

Source: Ziyin, Hartwig & Ueda 2020, arXiv:2006.08195
"""

import numpy as np

import needle_core as ndl
from needle_core import nn


class Snake(ndl.TensorOp):
    def compute(self, x, a):  # NumPy arrays
        return x + np.sin(a * x) ** 2 / a

    def gradient(self, out_grad, node):  # tensors
        x, a = node.inputs
        slope = ndl.sin(2 * a * x)
        return out_grad * (1 + slope), out_grad * (x * slope / a - (ndl.sin(a * x) / a) ** 2)


snake = Snake()

# The gradients against central differences, in float64.
draw = ndl.random.Generator(seed=0)
x = draw.normal(4, 3, dtype="float64")
a = draw.uniform(3, low=0.5, high=2.0, dtype="float64")  # one frequency a column: the sum over the rows is Needle's work
gradients = ndl.grad(lambda x, a: snake(x, a).sum(), argnums=(0, 1))(x, a)


def difference(f, at, h=1e-6):
    """df/dx[i] ~ (f(x + h e_i) - f(x - h e_i)) / 2h, for every element of `at`."""
    steps = h * ndl.eye(at.size, dtype="float64").reshape(at.size, *at.shape)
    return np.reshape([(f(at + e) - f(at - e)).item() / (2 * h) for e in steps], at.shape)


differences = difference(lambda x: snake(x, a).sum(), x), difference(lambda a: snake(x, a).sum(), a)
for name, gradient, expected in zip("xa", gradients, differences, strict=True):
    print(f"gradient for {name}: off by at most {np.abs(gradient.numpy() - expected).max():.1e}")


# A network with it learns sin(3 t) for t within [-2, 2].
class SnakeNet(nn.Module):
    def __init__(self, hidden):
        self.up, self.down = nn.Linear(1, hidden), nn.Linear(hidden, 1)
        self.a = nn.Parameter(ndl.ones(hidden))

    def forward(self, t):
        return self.down(snake(self.up(t), self.a))


ndl.manual_seed(0)
model, loss_of = SnakeNet(32), nn.MSELoss()
optimizer = ndl.optim.Adam(model.parameters(), lr=0.01)
t = ndl.linspace(-2, 2, 128).reshape(128, 1)
losses = []
for step in range(501):
    optimizer.reset_grad()
    loss = loss_of(model(t), ndl.sin(3 * t))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if step % 100 == 0:
        print(f"step {step:3}  loss {loss:.6f}")
print(f"the frequencies were 1, and are now between {model.a.min():.2f} and {model.a.max():.2f}")
