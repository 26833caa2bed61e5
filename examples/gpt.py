"""A small GPT: a transformer reads Python's standard library, then writes code of its own.

Each step reads pieces from random places of the text and predicts every next character from those before it in its piece. The
blocks are pre-norm: what is added to the stream of activations comes from a normalised copy of it. The learning rate rises for
a while and then falls in a cosine; weight decay is for matrices only.

Bits per character say how well a text is predicted: with b bits, each character is as uncertain as a choice among 2^b.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners
"""

import argparse
import math
import time
from itertools import chain, islice, repeat

import needle_core as ndl
from needle_core import nn

options = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
options.add_argument("--text", metavar="FILE", help="read this file; without it, Python's standard library")
options.add_argument("--characters", type=int, default=1_000_000, help="how much of the standard library")
options.add_argument("--prompt", default="def ", help="what the written text begins with; if empty, a line")
options.add_argument("--write", type=int, default=500, help="characters to write")
options.add_argument("--temperature", type=float, default=0.8, help="0 writes the likeliest, 1 as the model believes")
options.add_argument("--steps", type=int, default=1000)
options.add_argument("--batch", type=int, default=16, help="pieces a step")
options.add_argument("--length", type=int, default=64, help="characters of a piece, and how far the model looks back")
options.add_argument("--dim", type=int, default=128, help="width of the stream")
options.add_argument("--heads", type=int, default=4)
options.add_argument("--layers", type=int, default=3)
options.add_argument("--dropout", type=float, default=0.0)
options.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
options.add_argument("--seed", type=int, default=0)
options.add_argument("--device", help="where to compute; without it, as `needle plugins` says")
options = options.parse_args()

if options.device:
    ndl.set_default_device(options.device)
ndl.manual_seed(options.seed)

# -- the text ---------------------------------------------------------------------------------------------------------------

text = ndl.data.read_text(options.text) if options.text else ndl.data.standard_library(options.characters)
corpus = ndl.data.Corpus.of(text, test=0.02, source=options.text or "the standard library")
prompt = corpus.vocabulary.encode(options.prompt or "\n")
pieces = corpus.train.windows(options.length)
train = ndl.data.DataLoader(pieces, options.batch, shuffle=True, drop_last=True)
test = ndl.data.DataLoader(corpus.test.windows(options.length, stride=options.length), 4 * options.batch)
entropy = corpus.test.entropy()
print(f"{len(text):,} characters, {len(corpus.vocabulary)} different ones; {entropy:.3f} bits each by their frequencies alone")

# -- the model --------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Every position looks at those before it; then each is processed by itself. Both are added to the stream."""

    def __init__(self, dim, heads, dropout):
        self.norm1, self.attention = nn.LayerNorm(dim), nn.MultiHeadAttention(dim, heads, dropout=dropout)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gelu, self.dropout = nn.GELU(approximate="tanh"), nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.dropout(self.attention(self.norm1(x), causal=True))
        return x + self.dropout(self.down(self.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """The scores of each next character, from the characters so far: (n, t) -> (n, t, c), t up to `length`."""

    def __init__(self, characters, length, dim, heads, layers, dropout):
        self.characters, self.places = nn.Embedding(characters, dim), nn.Embedding(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, characters, bias=False)

        for name, p in self.named_parameters():
            if p.ndim == 2:  # what is added to the stream is smaller the more blocks there are
                added = name.endswith(("out_proj.weight", "down.weight"))
                p.data = nn.init.randn(*p.shape, std=1 / math.sqrt(2 * layers * dim if added else dim))
            elif name.endswith("bias"):
                p.data = nn.init.zeros(*p.shape)

    def forward(self, x):
        places = self.places.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(self.dropout(self.characters(x) + places))))


model = GPT(len(corpus.vocabulary), options.length, options.dim, options.heads, options.layers, options.dropout)
matrices = [p for p in model.parameters() if p.ndim == 2]
others = [p for p in model.parameters() if p.ndim != 2]
warmup = options.steps // 10
optimizer = ndl.optim.AdamW(
    [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
    ndl.optim.Warmup(ndl.optim.CosineDecay(options.lr, max(options.steps - warmup, 1), end=options.lr / 10), warmup),
    beta2=0.99,
)
loss_of = nn.SoftmaxLoss()
print(f"{sum(p.size for p in model.parameters()):,} parameters")

# -- training ---------------------------------------------------------------------------------------------------------------


@ndl.no_grad()
def bits_in_testing():
    model.eval()
    total, count = 0.0, 0
    for x, y in test:
        total += loss_of(model(x), y).item() * y.size
        count += y.size
    model.train()
    return total / count / math.log(2)


history = []  # step, bits per character in training since the line before, in testing
losses, begin = [], time.perf_counter()
print("  step  bits per character: training  testing   seconds")
for step, (x, y) in enumerate(islice(chain.from_iterable(repeat(train)), options.steps), start=1):
    loss = loss_of(model(x), y)
    optimizer.reset_grad()
    loss.backward()
    ndl.optim.clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
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
    for _ in range(count):
        scores = model(ndl.Tensor([written[-options.length :]]))[0, -1]
        # The largest score with such noise is a draw from softmax: the Gumbel distribution.
        noise = -ndl.log(-ndl.log(generator.uniform(scores.size, low=1e-9)))
        written.append((scores + temperature * noise).argmax().item())
    return corpus.vocabulary.decode(written)


written = write(prompt, options.write, options.temperature, ndl.random.Generator(options.seed))
print(f"\n{written}")
