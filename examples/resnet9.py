"""ResNet-9: a small residual network learns the photographs of CIFAR-10, or with --data fashion-mnist clothes.

Four convolutions shrink the image by their strides; after the second and the fourth, two more add to it what they make of it.
In training, each image is moved and mirrored at random, which stands in for more images.

With --checkpoint FILE, the state is kept in a file after each epoch; the same command goes on from there, bit for bit.

Source: He et al. 2016, arXiv:1512.03385
"""

import argparse
import sys
import time
from pathlib import Path

from rich.progress import track

import needle_core as ndl
from needle_core import nn

options = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
options.add_argument("--data", choices=["cifar10", "fashion-mnist", "digits"], default="cifar10")
options.add_argument("--data-dir", metavar="FOLDER", help="of the files; without it, $NEEDLE_DATA")
options.add_argument("--epochs", type=int, default=20)
options.add_argument("--batch", type=int, default=128, help="images a step")
options.add_argument("--lr", type=float, default=4e-3, help="highest learning rate: rises in the first epoch, then falls to 0")
options.add_argument("--checkpoint", type=Path, metavar="FILE", help="where to keep the state, and go on from if it exists")
options.add_argument("--seed", type=int, default=0)
options.add_argument("--device", help="where to compute; without it, as `needle plugins` says")
options = options.parse_args()

if options.device:
    ndl.set_default_device(options.device)
ndl.manual_seed(options.seed)

# -- the images -------------------------------------------------------------------------------------------------------------

if options.data == "digits":
    images, test_images = ndl.data.digits()
    augment = None  # they are small, and no digit is one in a mirror
else:
    read = ndl.data.cifar10 if options.data == "cifar10" else ndl.data.fashion_mnist
    images, test_images = read(options.data_dir)
    augment = ndl.data.compose(ndl.data.RandomCrop(4), ndl.data.RandomFlip())
some = images[:1_000][0]
normalize = ndl.data.Normalize(some.mean(axis=(0, 1, 2)), some.std(axis=(0, 1, 2)))
train = ndl.data.DataLoader(images, options.batch, shuffle=True, augment=augment, transform=normalize)
test = ndl.data.DataLoader(test_images, 500, transform=normalize)

# -- the model --------------------------------------------------------------------------------------------------------------


def convolution(channels, filters, size, stride=1):
    return nn.Sequential(nn.Conv2d(channels, filters, size, stride, padding=size // 2), nn.BatchNorm2d(filters), nn.ReLU())


def block(channels):
    return nn.Residual(nn.Sequential(convolution(channels, channels, 3), convolution(channels, channels, 3)))


model = nn.Sequential(  # an image of 32 x 32 becomes one of
    convolution(some.shape[-1], 16, 7, stride=4),  # 8 x 8
    convolution(16, 32, 3, stride=2),  # 4 x 4
    block(32),
    convolution(32, 64, 3, stride=2),  # 2 x 2
    convolution(64, 128, 3, stride=2),  # 1 x 1
    block(128),
    nn.Flatten(),
    nn.Linear(128, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
)
rate = ndl.optim.Warmup(ndl.optim.CosineDecay(options.lr, max(options.epochs - 1, 1) * len(train)), len(train))
optimizer = ndl.optim.Adam(model.parameters(), rate)
loss_of = nn.SoftmaxLoss()
generator = ndl.random.default_generator()
print(model.summary())

# -- training ---------------------------------------------------------------------------------------------------------------


@ndl.no_grad()
def accuracy_in_testing():
    model.eval()
    right = sum((model(x).argmax(axis=1) == y).sum().item() for x, y in test)
    model.train()
    return right / len(test_images)


history = []  # for each epoch: mean loss in training, accuracy in testing
if options.checkpoint and options.checkpoint.exists():
    state = ndl.checkpoint.load(options.checkpoint)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator.state.data = state["generator"]
    history = state["history"]

begin = time.perf_counter()
print("epoch    loss  test accuracy  seconds")
for epoch in range(len(history) + 1, options.epochs + 1):
    total = 0.0
    for x, y in track(train, f"epoch {epoch}", transient=True, disable=not sys.stdout.isatty()):
        optimizer.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    history.append((total / len(images), accuracy_in_testing()))
    print("{:5} {:7.4f} {:14.2%} {:8.1f}".format(epoch, *history[-1], time.perf_counter() - begin), flush=True)
    if options.checkpoint:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        ndl.checkpoint.save(options.checkpoint, {**state, "generator": generator.state.data, "history": history})
