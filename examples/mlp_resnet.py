"""MLPResNet: a residual network without convolutions learns handwritten digits, or with --data fashion-mnist clothes.

A block adds to its input what two linear layers make of it: relu(x + f(x)). Backwards, the gradient reaches x past f as well as
through it, so that many blocks can be trained. BatchNorm keeps the sums of one size; Dropout keeps features from relying on
each other.

Source: He et al. 2016, arXiv:1512.03385
"""

import argparse
import math
import time

import needle_core as ndl
from needle_core import nn

options = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
options.add_argument("--data", choices=["digits", "fashion-mnist"], default="digits")
options.add_argument("--data-dir", metavar="FOLDER", help="of Fashion-MNIST; without it, where Debian's package puts the files")
options.add_argument("--epochs", type=int, default=20)
options.add_argument("--batch", type=int, default=100, help="images a step")
options.add_argument("--hidden", type=int, default=100, help="width of the stream; inside of a block it is half of that")
options.add_argument("--blocks", type=int, default=3)
options.add_argument("--dropout", type=float, default=0.1)
options.add_argument("--lr", type=float, default=3e-3, help="learning rate of the first step; falls to 0 in a cosine")
options.add_argument("--seed", type=int, default=0)
options.add_argument("--device", help="where to compute; without it, as `needle plugins` says")
options = options.parse_args()

if options.device:
    ndl.set_default_device(options.device)
ndl.manual_seed(options.seed)

# -- the images -------------------------------------------------------------------------------------------------------------

images, test_images = ndl.data.digits() if options.data == "digits" else ndl.data.fashion_mnist(options.data_dir)
train = ndl.data.DataLoader(images, options.batch, shuffle=True)
test = ndl.data.DataLoader(test_images, 1000)

# -- the model --------------------------------------------------------------------------------------------------------------


def block(dim, hidden, dropout):
    layers = nn.Sequential(
        nn.Linear(dim, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, dim),
        nn.BatchNorm1d(dim),
    )
    return nn.Sequential(nn.Residual(layers), nn.ReLU())


model = nn.Sequential(
    nn.Flatten(),
    nn.Linear(math.prod(images[0][0].shape), options.hidden),
    nn.ReLU(),
    *(block(options.hidden, options.hidden // 2, options.dropout) for _ in range(options.blocks)),
    nn.Linear(options.hidden, 10),
)
optimizer = ndl.optim.Adam(model.parameters(), ndl.optim.CosineDecay(options.lr, options.epochs * len(train)))
loss_of = nn.SoftmaxLoss()
print(model.summary())

# -- training ---------------------------------------------------------------------------------------------------------------


@ndl.no_grad()
def accuracy_in_testing():
    model.eval()
    right = sum((model(x).argmax(axis=1) == y).sum().item() for x, y in test)
    model.train()
    return right / len(test_images)


history = []  # for each epoch: mean loss in training, accuracy in testing
begin = time.perf_counter()
print("epoch    loss  test accuracy  seconds")
for epoch in range(1, options.epochs + 1):
    total = 0.0
    for x, y in train:
        optimizer.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    history.append((total / len(images), accuracy_in_testing()))
    print("{:5} {:7.4f} {:14.2%} {:8.1f}".format(epoch, *history[-1], time.perf_counter() - begin), flush=True)
