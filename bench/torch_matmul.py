#!/usr/bin/env python3
"""Speed of one matrix product, [M, K] x [K, N], in PyTorch: float32 on the CPU, or on a GPU (--gpu), there also float16 (--half).

Needs python3-torch, and libopenblas0-pthread beside it; run with the system's own python3.
usage: torch_matmul.py M N K [--seconds 0.5] [--threads N] [--gpu [--half]]
Prints one JSON line: seconds and GFLOP/s of the fastest of as many as fit into --seconds (three at
least), and what PyTorch ran on (torch_machine.py).
"""
import argparse, json, time
import torch
import torch_machine

cli = argparse.ArgumentParser()
for name in 'mnk':
    cli.add_argument(name, type=int)
cli.add_argument('--seconds', type=float, default=.5)
cli.add_argument('--threads', type=int, default=0)
cli.add_argument('--gpu', action='store_true')
cli.add_argument('--half', action='store_true')
o = cli.parse_args()
torch_machine.use_threads(o.threads)
torch.manual_seed(0)
where = dict(device='cuda' if o.gpu else 'cpu', dtype=torch.float16 if o.half else torch.float32)
a, b, out = torch.randn(o.m, o.k, **where), torch.randn(o.k, o.n, **where), torch.empty(o.m, o.n, **where)
torch.mm(a, b, out=out)
torch_machine.wait(o.gpu)
times = []
at_once = 4 if o.gpu else 1
while len(times) < 3 or sum(times) < o.seconds:
    start = time.perf_counter()
    for _ in range(at_once):
        torch.mm(a, b, out=out)
    torch_machine.wait(o.gpu)
    times.append((time.perf_counter() - start) / at_once)
best = min(times)
print(json.dumps({'m': o.m, 'n': o.n, 'k': o.k, 'seconds': best, 'gflop_per_s': round(2 * o.m * o.n * o.k / best / 1e9, 1),
                  **torch_machine.describe()}))
