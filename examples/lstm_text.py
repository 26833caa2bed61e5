"""A language model of characters: an LSTM reads Python's standard library, then writes code of its own.

The text is cut into columns that are read side by side. A step reads the next rows of all of them, beginning with the state in
which the step before ended. That state is detached: its value goes on, but no gradient goes back beyond the step. This is
truncated backpropagation through time. The gradients of a recurrent network can explode, so their norm is clipped.

Bits per character say how well a text is predicted: with b bits, each character is as uncertain as a choice among 2^b.

Source: Graves 2013, arXiv:1308.0850
"""

import argparse
import math
import time
from itertools import islice

import needle_core as ndl
from needle_core import nn

options = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
options.add_argument("--text", metavar="FILE", help="read this file; without it, Python's standard library")
options.add_argument("--characters", type=int, default=1_000_000, help="how much of the standard library")
options.add_argument("--prompt", default="def ", help="what the written text begins with; if empty, a line")
options.add_argument("--write", type=int, default=500, help="characters to write")
options.add_argument("--temperature", type=float, default=0.8, help="0 writes the likeliest, 1 as the model believes")
options.add_argument("--steps", type=int, default=500)
options.add_argument("--columns", type=int, default=32, help="places of the text that are read side by side")
options.add_argument("--length", type=int, default=64, help="characters a step, through which gradients go back")
options.add_argument("--hidden", type=int, default=256, help="units of a layer")
options.add_argument("--layers", type=int, default=1)
options.add_argument("--dropout", type=float, default=0.0, help="between layers")
options.add_argument("--lr", type=float, default=5e-3, help="learning rate of the first step; falls to 0 in a cosine")
options.add_argument("--seed", type=int, default=0)
options.add_argument("--device", help="where to compute; without it, as `needle plugins` says")
options = options.parse_args()

if options.device:
    ndl.set_default_device(options.device)
ndl.manual_seed(options.seed)

# -- the text ---------------------------------------------------------------------------------------------------------------

text = ndl.data.read_text(options.text) if options.text else ndl.data.standard_library(options.characters)
corpus = ndl.data.Corpus.of(text, test=0.05, source=options.text or "the standard library")
prompt = corpus.vocabulary.encode(options.prompt or "\n")
train, test = (
    ndl.data.DataLoader(part.columns(options.columns), batch_size=options.length) for part in (corpus.train, corpus.test)
)
entropy = corpus.test.entropy()
print(f"{len(text):,} characters, {len(corpus.vocabulary)} different ones; {entropy:.3f} bits each by their frequencies alone")

# -- the model --------------------------------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    """The scores of each next character, from the characters so far: (t, n) -> (t, n, c), and the state after the last."""

    def __init__(self, characters, hidden, layers, dropout):
        self.embedding = nn.Embedding(characters, 64)
        self.lstm = nn.LSTM(64, hidden, layers, dropout=dropout)
        self.head = nn.Linear(hidden, characters)

    def forward(self, x, state=None):
        y, state = self.lstm(self.embedding(x), state)
        return self.head(y), state


model = LanguageModel(len(corpus.vocabulary), options.hidden, options.layers, options.dropout)
optimizer = ndl.optim.Adam(model.parameters(), ndl.optim.CosineDecay(options.lr, options.steps))
loss_of = nn.SoftmaxLoss()
print(model.summary())

# -- training ---------------------------------------------------------------------------------------------------------------


@ndl.no_grad()
def bits_in_testing():
    model.eval()
    state, total, count = None, 0.0, 0
    for x, y in test:
        scores, state = model(x, state)
        total += loss_of(scores, y).item() * y.size
        count += y.size
    model.train()
    return total / count / math.log(2)


history = []  # step, bits per character in training since the line before, in testing
losses, step, begin = [], 0, time.perf_counter()
print("  step  bits per character: training  testing   seconds")
while step < options.steps:
    state = None  # a pass over the text begins at the top of every column
    for x, y in islice(train, options.steps - step):
        scores, state = model(x, state)
        state = [s.detach() for s in state]
        loss = loss_of(scores, y)
        optimizer.reset_grad()
        loss.backward()
        ndl.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if 10 * step % options.steps < 10:  # ten times
            history.append((step, sum(losses) / len(losses) / math.log(2), bits_in_testing()))
            print("{:6} {:29.3f} {:8.3f} {:9.1f}".format(*history[-1], time.perf_counter() - begin), flush=True)
            losses.clear()

# -- writing ----------------------------------------------------------------------------------------------------------------


@ndl.no_grad()
def write(prompt, count, temperature, generator):
    """The prompt, and `count` characters drawn one after the other from softmax(scores / temperature)."""
    model.eval()
    written = prompt.tolist()
    x, state = ndl.Tensor(prompt[:, None]), None
    for _ in range(count):
        scores, state = model(x, state)
        # The largest score with such noise is a draw from softmax: the Gumbel distribution.
        noise = -ndl.log(-ndl.log(generator.uniform(scores.shape[-1], low=1e-9)))
        x = (scores[-1:] + temperature * noise).argmax(axis=-1)
        written.append(x.item())
    return corpus.vocabulary.decode(written)


written = write(prompt, options.write, options.temperature, ndl.random.Generator(options.seed))
print(f"\n{written}")
