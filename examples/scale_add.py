"""Modules in modules, and a whole training loop: ScaleAdd and MultiPathScaleAdd of the lecture, L2Loss and SGD.

A Module is an ordinary class. Its parameters are found by looking: in attributes, in lists, tuples and dicts there, and in
Modules there in turn. The model is a line, y = (s_a + s_b) x + (b_a + b_b), and learns y = 3 x - 2.
"""

import needle_core as ndl
from needle_core import nn


class ScaleAdd(nn.Module):
    """y = s x + b."""

    def __init__(self, s=1.0, b=0.0):
        self.s = nn.Parameter([s])
        self.b = nn.Parameter([b])

    def forward(self, x):
        return x * self.s + self.b


class MultiPathScaleAdd(nn.Module):
    """The sum of two ScaleAdds."""

    def __init__(self):
        self.path_a = ScaleAdd(s=1.0)
        self.path_b = ScaleAdd(s=-0.5)

    def forward(self, x):
        return self.path_a(x) + self.path_b(x)


model = MultiPathScaleAdd()
print(model)
for name, parameter in model.named_parameters():
    print(f"  {name:<8} {parameter}")

x = ndl.random.Generator(seed=0).uniform(64, 1, low=-1.0, high=1.0)
y = 3 * x - 2
loss_of = nn.L2Loss()
optimizer = ndl.optim.SGD(model.parameters(), lr=0.1)
losses = []
for step in range(201):
    optimizer.reset_grad()
    loss = loss_of(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if step % 50 == 0:
        print(f"step {step:3}  loss {loss:.2e}")

scale, offset = model.path_a.s + model.path_b.s, model.path_a.b + model.path_b.b
print(f"learned: y = {scale:.4f} x {offset:+.4f}")
