#!/usr/bin/env python3
"""Validation loss against training seconds in PyTorch on the CPU: the peer to race.

Same bytes, same machine, same clock rules: evaluation is off the clock, everything else is on it.
Needs python3-torch and python3-numpy, and libopenblas0-pthread beside them; run with the system's own python3.

usage: torch_train.py NET TRAIN_FILE VAL_FILE SECONDS [--dim 128] [--blocks 4] [--length 256]
       [--tokens 4096] [--lr LR] [--seed 0] [--threads N]

NET 'gpt' is nanoGPT's recipe: LayerNorm, multi-head attention, 4x GELU MLP, learned positions, tied
embedding, AdamW, warm-up then cosine. NET 'latent' is hlb-gpt 0.4's: latent attention blocks, learned
linear position bias, a sequence length that doubles from 32, and its multiples of the learning rate for
the embedding and norms (32), the output layer (2) and the position bias (100), under the same cosine.
Tokens are bytes; --tokens of them make a step. Validation is the mean loss, in nats a byte, over the
first 65,536 bytes, in windows of --length that do not overlap. Prints one JSON line at each
tenth of SECONDS, and one first with what PyTorch runs on (torch_machine.py).
"""
import argparse, json, math, time
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
import torch_machine

cli = argparse.ArgumentParser()
cli.add_argument('net', choices=['gpt', 'latent'])
cli.add_argument('train')
cli.add_argument('val')
cli.add_argument('seconds', type=float)
for name, default in (('dim', 128), ('blocks', 4), ('length', 256), ('tokens', 4096), ('lr', 0.), ('seed', 0), ('threads', 0)):
    cli.add_argument('--' + name, type=type(default), default=default)
o = cli.parse_args()
torch_machine.use_threads(o.threads)
print(json.dumps(torch_machine.describe()), flush=True)
torch.manual_seed(o.seed)
train, val = (torch.from_numpy(np.fromfile(p, dtype=np.uint8).astype(np.int64)) for p in (o.train, o.val))
peak = o.lr or (2e-3 if o.net == 'gpt' else 4e-3)
distance = torch.arange(o.length).float()[None] - torch.arange(o.length).float()[:, None]
future = torch.triu(torch.ones(o.length, o.length), 1).bool()
weight = lambda out, into, std: nn.Parameter(torch.randn(out, into) * std)


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, deep = max(1, o.dim // 32), .02 / (2 * o.blocks) ** .5
        self.norm1, self.norm2 = nn.LayerNorm(o.dim), nn.LayerNorm(o.dim)
        self.qkv, self.out = weight(3 * o.dim, o.dim, .02), weight(o.dim, o.dim, deep)
        self.up, self.down = weight(4 * o.dim, o.dim, .02), weight(o.dim, 4 * o.dim, deep)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in F.linear(self.norm1(x), self.qkv).split(o.dim, -1))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** .5).masked_fill(future[:t, :t], -math.inf)
        x = x + F.linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, o.dim), self.out)
        return x + F.linear(F.gelu(F.linear(self.norm2(x), self.up)), self.down)


class Latent(nn.Module):
    def __init__(self):
        super().__init__()
        self.qk, self.wide = o.dim // 8, 2 * o.dim
        self.norm = nn.LayerNorm(o.dim)
        self.expand = weight(2 * self.qk + 2 * self.wide, o.dim, .25 / o.dim ** .5)
        self.project = weight(o.dim, self.wide, .5 / o.dim ** .5 / o.blocks)
        self.position_bias = nn.Parameter(torch.tensor(1.))

    def forward(self, x):
        t = x.shape[1]
        q, k, linear, gate = F.linear(self.norm(x), self.expand).split((self.qk, self.qk, self.wide, self.wide), -1)
        geglu = linear * F.gelu(gate)
        local, value = geglu.split((self.wide - o.dim, o.dim), -1)
        bias = (F.softplus(self.position_bias) * distance[:t, :t]).masked_fill(future[:t, :t], -math.inf)
        mixed = (q @ k.transpose(-1, -2) / self.qk ** .5 + bias).softmax(-1) @ value
        return x + F.linear(torch.cat((local, mixed), -1), self.project)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        latent = o.net == 'latent'
        self.embedding = weight(256, o.dim, .25 / o.dim ** .5 if latent else .02)
        self.position = None if latent else weight(o.length, o.dim, .02)
        self.output = weight(256, o.dim, .5 / o.dim ** .5) if latent else None
        self.blocks, self.norm = nn.ModuleList([(Latent if latent else Gpt)() for _ in range(o.blocks)]), nn.LayerNorm(o.dim)

    def forward(self, tokens):
        x = F.embedding(tokens, self.embedding)
        if self.position is not None:
            x = x + self.position[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding if self.output is None else self.output)


net = Net()


def group(name):
    if o.net == 'gpt':
        return (1., .1, (.9, .99)) if net.get_parameter(name).dim() > 1 else (1., 0., (.9, .99))
    if 'position_bias' in name:
        return 100., 0., (.9, .95)
    if 'norm' in name or 'embedding' in name:
        return 32., 0., (.9, .95)
    return (2., 0., (.6, .95)) if name == 'output' else (1., .1, (.9, .95))


opt = torch.optim.AdamW([{'params': [p], 'mult': group(n)[0], 'weight_decay': group(n)[1], 'betas': group(n)[2]}
                         for n, p in net.named_parameters()], lr=peak, eps=1e-9)
loss_of = lambda x: F.cross_entropy(net(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


@torch.no_grad()
def validate():
    windows = torch.stack([val[i * o.length:i * o.length + o.length + 1] for i in range((min(65537, len(val)) - 1) // o.length)])
    return sum(loss_of(w).item() * len(w) for w in windows.split(16)) / len(windows)


spent, seen, due = 0., 0, .1
while spent < o.seconds:
    start = time.perf_counter()
    part = spent / o.seconds
    rate = peak * (part / .05 if part < .05 else .1 + .45 * (1 + math.cos(math.pi * (part - .05) / .95)))
    for g in opt.param_groups:
        g['lr'] = rate * g['mult']
    length = o.length if o.net == 'gpt' else min(o.length, 32 * 2 ** int(part * 8))
    at = torch.randint(len(train) - length - 1, (o.tokens // length,))
    loss = loss_of(torch.stack([train[i:i + length + 1] for i in at]))
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.)
    opt.step()
    spent += time.perf_counter() - start
    seen += length * len(at)
    if spent >= due * o.seconds:
        print(json.dumps({'seconds': round(spent, 1), 'tokens': seen, 'val_loss': round(validate(), 4)}), flush=True)
        due += .1
