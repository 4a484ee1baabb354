#!/usr/bin/env python3
"""Speed of one float32 matrix product, [M, K] x [K, N], in PyTorch on the CPU.

Needs python3-torch, and libopenblas0-pthread beside it; run with the system's own python3.
usage: torch_matmul.py M N K [--seconds 0.5] [--threads N]
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
o = cli.parse_args()
torch_machine.use_threads(o.threads)
torch.manual_seed(0)
a, b, out = torch.randn(o.m, o.k), torch.randn(o.k, o.n), torch.empty(o.m, o.n)
torch.mm(a, b, out=out)
times = []
while len(times) < 3 or sum(times) < o.seconds:
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    times.append(time.perf_counter() - start)
best = min(times)
print(json.dumps({'m': o.m, 'n': o.n, 'k': o.k, 'seconds': best, 'gflop_per_s': round(2 * o.m * o.n * o.k / best / 1e9, 1),
                  **torch_machine.describe()}))
