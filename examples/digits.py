"""Train a network on handwritten digits: the program of the README."""

import needle_core as ndl
from needle_core import nn

train, test = ndl.data.digits()  # 1,797 handwritten digits, in the package
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
loss_of = nn.SoftmaxLoss()
optimizer = ndl.optim.Adam(model.parameters(), lr=3e-3)  # from the plugin needle-optimizers
batches = ndl.data.DataLoader(train, batch_size=64, shuffle=True)

for epoch in range(1, 21):
    for x, y in batches:
        optimizer.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch:2}  loss {loss:.3f}")

images, labels = test[:]
accuracy = (model(ndl.Tensor(images)).argmax(axis=1) == ndl.Tensor(labels)).mean()
print(f"{accuracy:.1%} of the test images are recognised")
