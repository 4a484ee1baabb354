#!/usr/bin/env python3
"""Throughput of one training step in PyTorch: the peer to measure beside.

Needs python3-torch, and libopenblas0-pthread beside it; run with the system's own python3.
usage: torch_step.py NET DIM BLOCKS VOCAB LENGTH BATCH [STEPS] [--threads N] [--gpu [--half]]
NET is 'latent' (the hlb-gpt 0.4 block: one LayerNorm, one fused expand, GEGLU, single-head
attention with a learned linear position bias, one project) or 'gpt' (the nanoGPT block: LayerNorm,
multi-head attention with heads of 32, LayerNorm, 4x GELU MLP, learned positions).
--gpu runs it on CUDA's first GPU, through torch.compile; --half with autocast to float16.
Prints one JSON line: seconds, tokens a second and GFLOP/s of the fastest step, by 6 FLOP a matmul
weight a token plus the causal half of the attention products; the peak of the process's memory; and
what PyTorch ran on (torch_machine.py).
"""
import argparse, json, math, time
import torch
import torch.nn.functional as F
from torch import nn
import torch_machine

cli = argparse.ArgumentParser()
cli.add_argument('net', choices=['gpt', 'latent'])
for name in ('dim', 'blocks', 'vocab', 'length', 'batch'):
    cli.add_argument(name, type=int)
cli.add_argument('steps', type=int, nargs='?', default=8)
cli.add_argument('--threads', type=int, default=0)
cli.add_argument('--gpu', action='store_true')
cli.add_argument('--half', action='store_true')
o = cli.parse_args()
torch_machine.use_threads(o.threads)
torch.manual_seed(0)
net_kind, dim, blocks, vocab, length, batch = o.net, o.dim, o.blocks, o.vocab, o.length, o.batch


class Latent(nn.Module):
    def __init__(self):
        super().__init__()
        self.qk, self.wide = dim // 8, 2 * dim
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Parameter(torch.randn(2 * self.qk + 2 * self.wide, dim) * .25 / dim ** .5)
        self.project = nn.Parameter(torch.randn(dim, self.wide) * .5 / dim ** .5 / blocks)
        self.position_bias = nn.Parameter(torch.tensor(1.))
        steps_back = torch.arange(length).float()
        self.register_buffer('distance', steps_back[None] - steps_back[:, None])
        self.register_buffer('future', torch.triu(torch.ones(length, length), 1).bool())

    def forward(self, x):
        q, k, linear, gate = F.linear(self.norm(x), self.expand).split((self.qk, self.qk, self.wide, self.wide), -1)
        geglu = linear * F.gelu(gate)
        local, value = geglu.split((self.wide - dim, dim), -1)
        bias = (F.softplus(self.position_bias) * self.distance).masked_fill(self.future, -math.inf)
        mixed = (q @ k.transpose(-1, -2) / self.qk ** .5 + bias).softmax(-1) @ value
        return x + F.linear(torch.cat((local, mixed), -1), self.project)


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = dim // 32
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)
        self.register_buffer('future', torch.triu(torch.ones(length, length), 1).bool())

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(dim, -1))
        scores = (q @ k.transpose(-1, -2) / 32 ** .5).masked_fill(self.future, -math.inf)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, dim))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.position = nn.Parameter(torch.zeros(length, dim)) if net_kind == 'gpt' else None
        self.blocks = nn.ModuleList([(Latent if net_kind == 'latent' else Gpt)() for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


device = 'cuda' if o.gpu else 'cpu'
net = Net().to(device)
opt = torch.optim.AdamW(net.parameters(), lr=1e-3, **({'fused': True} if o.gpu else {}))
tokens = torch.randint(vocab, (batch, length + 1), device=device)


def loss_of(tokens):
    return F.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


if o.gpu:
    loss_of = torch.compile(loss_of)
scaler = torch.cuda.amp.GradScaler(enabled=o.half)


def step():
    with torch.autocast(device, torch.float16 if o.half else torch.bfloat16, enabled=o.half):
        loss = loss_of(tokens)
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()


for _ in range(3 if o.gpu else 1):
    step()
torch_machine.wait(o.gpu)
times = []
for _ in range(o.steps):
    start = time.perf_counter()
    step()
    torch_machine.wait(o.gpu)
    times.append(time.perf_counter() - start)
best, n = min(times), batch * length
if net_kind == 'latent':
    weights = blocks * (dim * (2 * (dim // 8) + 4 * dim) + 2 * dim * dim) + vocab * dim
    attention = blocks * 3 * batch * length * length * (dim // 8 + dim)
else:
    weights = blocks * 12 * dim * dim + vocab * dim
    attention = blocks * 3 * batch * length * length * (2 * dim)
flops = 6 * weights * n + attention
print(json.dumps({'net': net_kind, 'dim': dim, 'blocks': blocks, 'vocab': vocab, 'length': length, 'batch': batch,
                  'params': sum(p.numel() for p in net.parameters()), 'seconds': best, 'tokens_per_s': round(n / best),
                  'gflop_per_s': round(flops / best / 1e9, 1), 'peak_mib': torch_machine.peak_mib(),
                  **torch_machine.describe()}))
