"""Adam's bias correction, in numbers: the first steps of the optimizer beside the formulas.

    m = beta1 m + (1 - beta1) g      m^ = m / (1 - beta1^t)
    v = beta2 v + (1 - beta2) g^2    v^ = v / (1 - beta2^t)      step = lr m^ / (sqrt v^ + eps)

Both averages start at zero and are too small for a while, v for longer: after one step m is g / 10, but sqrt v is |g| / 32, and
without the correction the step would be 3.2 lr instead of lr.

Source: Kingma & Ba 2015, arXiv:1412.6980
"""

import math

import needle_core as ndl
from needle_core import nn

lr, beta1, beta2, eps = 0.1, 0.9, 0.999, 1e-8
gradients = [2.0, 1.5, -0.5, 1.0, 0.25, -1.0, 0.5, 0.125]

w = nn.Parameter(0.0, dtype="float64")
optimizer = ndl.optim.Adam([w], lr=lr, beta1=beta1, beta2=beta2, eps=eps)
m = v = 0.0
rows = []
print(" t     gradient         m         v        m^        v^     step of Adam  by the formula  uncorrected")
for t, g in enumerate(gradients, start=1):
    before = w.item()
    optimizer.reset_grad()
    (g * w).backward()  # whose gradient is g
    optimizer.step()
    step = before - w.item()

    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    formula, uncorrected = lr * m_hat / (math.sqrt(v_hat) + eps), lr * m / (math.sqrt(v) + eps)

    rows.append((step, formula, uncorrected))
    print(f"{t:2} {g:12.3f} {m:9.4f} {v:9.4f} {m_hat:9.4f} {v_hat:9.4f} {step:16.10f} {formula:15.10f} {uncorrected:12.6f}")
