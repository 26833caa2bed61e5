"""A variational autoencoder: it learns to describe images in a few numbers, then draws new images from random ones.

    python examples/vae.py
    python examples/vae.py --data fashion-mnist --epochs 20

The encoder describes an image x by normal numbers z, of which it gives the means m and log variances v; the decoder says how
likely each pixel is to be white for such numbers. Trained is a bound of -log p(x), in nats an image,

    loss = -E[log p(x | z)] + KL(N(m, e^v) || N(0, 1)),    KL = 1/2 sum(m^2 + e^v - v - 1)

with z = m + e^(v/2) noise, so that the gradient passes through to m and v (reparametrisation). Since the KL term keeps the
numbers of all images together close to N(0, 1), those drawn from there give images too.

Source: Kingma and Welling 2014, arXiv:1312.6114
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

import needle_core as ndl
from needle_core import nn


class VAE(nn.Module):
    """Images of `shape` (n, h, w, 1) -> scores of their pixels (n, h w), means (n, k) and log variances (n, k) of their z."""

    def __init__(self, shape, hidden, k):
        pixels = math.prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * k))
        self.decoder = nn.Sequential(nn.Linear(k, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.k = k

    def forward(self, x):
        described = self.encoder(x)
        m, v = described[:, : self.k], described[:, self.k :]
        z = m + ndl.exp(v / 2) * nn.init.randn(*m.shape) if self.training else m
        return self.decoder(z), m, v


def loss_of(scores, m, v, x):
    """The two terms of the loss, of the mean image. A grey pixel is white to a degree."""
    n = len(x)
    reconstruction = ndl.bce_with_logits(scores, x.reshape((n, -1)), reduction="sum") / n
    divergence = (m**2 + ndl.exp(v) - v - 1).sum() / (2 * n)
    return reconstruction, divergence


def train(model, optimizer, batches):
    """One epoch; the mean of both terms."""
    model.train()
    totals = np.zeros(2)
    for x, _ in batches:
        optimizer.reset_grad()
        reconstruction, divergence = loss_of(*model(x), x)
        (reconstruction + divergence).backward()
        optimizer.step()
        totals += len(x) * np.array([reconstruction.item(), divergence.item()])
    return totals / len(batches.dataset)


def picture(path, images):
    """Write a PNG file of images (n, h, w, 1), 16 of them side by side with grey lines between, each about 56 pixels wide."""
    n, h, w, _ = images.shape
    framed = np.pad(images[..., 0], [(0, 0), (0, 1), (0, 1)], constant_values=0.5)
    grid = framed.reshape(n // 16, 16, h + 1, w + 1).swapaxes(1, 2).reshape(n // 16 * (h + 1), 16 * (w + 1))
    imsave(path, grid.repeat(56 // h, axis=0).repeat(56 // w, axis=1), cmap="gray", vmin=0, vmax=1)
    print(f"picture in {path}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/examples"), help="of the pictures (runs/examples)")
parser.add_argument("--data", choices=["digits", "fashion-mnist"], default="digits")
parser.add_argument("--data-dir", help="the folder of the files of Fashion-MNIST (default: where Debian puts them)")
parser.add_argument("--device", help="where to compute (default: as `needle plugins` says)")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--hidden", type=int, default=256, help="features between image and description")
parser.add_argument("--numbers", type=int, default=10, help="how many describe an image")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

if args.device:
    ndl.set_default_device(args.device)
ndl.manual_seed(args.seed)
images, test_images = ndl.data.digits() if args.data == "digits" else ndl.data.fashion_mnist(args.data_dir)
batches = ndl.data.DataLoader(images, args.batch_size, shuffle=True)
shape = images[0][0].shape
model = VAE(shape, args.hidden, args.numbers)
optimizer = ndl.optim.Adam(model.parameters(), lr=args.lr)
losses = []

for epoch in range(1, args.epochs + 1):
    start = time.perf_counter()
    reconstruction, divergence = train(model, optimizer, batches)
    losses.append(reconstruction + divergence)
    terms = f"reconstruction {reconstruction:.2f} + KL {divergence:.2f}"
    print(f"epoch {epoch:3}  loss {losses[-1]:.2f} = {terms}  {time.perf_counter() - start:.1f} s")

model.eval()
with ndl.no_grad():
    originals, _ = test_images[:16]
    reconstructions = ndl.sigmoid(model(ndl.Tensor(originals))[0]).numpy().reshape(originals.shape)
    samples = ndl.sigmoid(model.decoder(nn.init.randn(128, args.numbers))).numpy().reshape(128, *shape)

args.folder.mkdir(parents=True, exist_ok=True)
picture(args.folder / "vae_reconstructions.png", np.concatenate([originals, reconstructions]))
picture(args.folder / "vae_samples.png", samples)
