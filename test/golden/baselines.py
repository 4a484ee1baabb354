#!/usr/bin/env python3
"""Twenty steps of each baseline in PyTorch, small: writes baselines.txt, baselines.json and baseline-*.safetensors.

The networks and recipes are those of hlb-gpt's first release and of 0.4.1, put together here from PyTorch's own
parts (MultiheadAttention, Embedding with scale_grad_by_freq, AdamW, OneCycleLR), with the faults mended that the
baselines mend. Token batches and the dithering's random numbers are those of data/batches.ts and data/shuffle.ts,
computed here again. baselines.json has the options to start each baseline with, and for each step its length,
microbatches, loss (of the last microbatch) and gradient norm, in float32 and float64.

    python3 test/golden/baselines.py
"""
import json
import math
import os
import random
import struct

import torch
import torch.nn.functional as F
from torch import nn

from schedules import power_law, scaling

FOLDER = os.path.dirname(os.path.abspath(__file__))
SEED, STEPS = 3, 20
VOCABULARY = 256


# ---------------------------------------------------------------- text and batches

def make_text():
    """Made-up words in an order that can be learned: a word of the next group follows most often."""
    draw = random.Random(1)
    letters = 'etaoinshrdlcumwfgypbvk'
    words = [''.join(draw.choice(letters) for _ in range(draw.randint(2, 7))) for _ in range(60)]
    text, at = '', 0
    while len(text) < 6000:
        at = (at * 7 + draw.randint(0, 3)) % len(words)
        text += words[at] + draw.choice(['. ', ', ', ' ', ' ', ' ', ' '])
    return text[:6000]


def bits_hash(*values):
    bits = 0x9e3779b9
    for value in values:
        bits = ((bits ^ value) + 0x6d2b79f5) & 0xffffffff
        bits = (bits ^ bits >> 16) * 0x85ebca6b & 0xffffffff
        bits = (bits ^ bits >> 13) * 0xc2b2ae35 & 0xffffffff
        bits ^= bits >> 16
    return bits


def shuffled(index, count, key):
    half = 2 ** math.ceil(math.log2(max(count, 4)) / 2)
    while True:
        high, low = divmod(index, half)
        for turn in range(6):
            high, low = low, (high ^ bits_hash(low, key, turn)) % half
        index = high * half + low
        if index < count:
            return index


def batch(tokens, sequences, length, seen):
    windows = max(1, len(tokens) // length - 1)
    rows = []
    for row in range(seen // length, seen // length + sequences):
        epoch, place = divmod(row, windows)
        key = bits_hash(SEED, epoch, length)
        offset = key % min(length, len(tokens) - windows * length)
        start = offset + shuffled(place, windows, key) * length
        rows.append(tokens[start:start + length + 1])
    both = torch.stack(rows)
    return both[:, :-1], both[:, 1:]


# ---------------------------------------------------------------- networks

class Norm(nn.Module):
    """LayerNorm without a bias, which PyTorch 1 does not have."""
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight)


def causal(length):
    return torch.ones(length, length).triu(1).bool()


class Heads(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm, self.attention = Norm(width), nn.MultiheadAttention(width, heads, bias=False, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y, attn_mask=causal(x.shape[1]), need_weights=False)[0]


class Perceptron(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = Norm(width)
        self.expand, self.project = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return x + self.project(F.gelu(self.expand(self.norm(x))))


class Latent(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.sizes = [width // 8, width // 8, 2 * width, 2 * width]
        self.norm = Norm(width)
        self.expand = nn.Parameter(torch.randn(sum(self.sizes), width) * .25 / width ** .5)
        self.project = nn.Parameter(torch.randn(width, 2 * width) * .25 / width ** .5)
        self.position_bias_mult = nn.Parameter(torch.tensor(1.))

    def forward(self, x):
        length, width = x.shape[1:]
        query, key, linear, gate = F.linear(self.norm(x), self.expand).split(self.sizes, -1)
        local, value = (linear * F.gelu(gate)).split([width, width], -1)
        place = torch.arange(length, dtype=x.dtype)
        scores = query @ key.mT / self.sizes[0] ** .5 + F.softplus(self.position_bias_mult) * (place[None] - place[:, None])
        mixed = scores.masked_fill(causal(length), -math.inf).softmax(-1) @ value
        return x + F.linear(torch.cat([local, mixed], -1), self.project)


class Net(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        self.net_dict = nn.ModuleDict(parts)

    def forward(self, tokens):
        parts = self.net_dict
        x = parts['embedding'](tokens)
        if 'position' in parts:
            x = x + parts['position'].position_embedding.weight[:tokens.shape[1]]
        for i, layer in enumerate(parts['attn_layers']):
            x = layer(x)
            if 'mlp_layers' in parts:
                x = parts['mlp_layers'][i](x)
        return parts['outputs'](parts['norm'](x))


def first_net(width=24, heads=2, blocks=2, length=32):
    position = nn.Module()
    position.position_embedding = nn.Embedding(length, width)
    net = Net(embedding=nn.Embedding(VOCABULARY, width), position=position, norm=Norm(width),
              mlp_layers=nn.ModuleList([Perceptron(width) for _ in range(blocks)]),
              attn_layers=nn.ModuleList([Heads(width, heads) for _ in range(blocks)]),
              outputs=nn.Linear(width, VOCABULARY, bias=False))
    net.net_dict['embedding'].weight = net.net_dict['outputs'].weight
    for name, parameter in net.named_parameters():
        if 'norm' not in name:
            nn.init.normal_(parameter, std=.1)  # so large that every part has its share in the loss
    return net


def latent_net(width=24, blocks=2):
    net = Net(embedding=nn.Embedding(VOCABULARY, width, scale_grad_by_freq=True),
              attn_layers=nn.ModuleList([Latent(width) for _ in range(blocks)]),
              norm=Norm(width), outputs=nn.Linear(width, VOCABULARY, bias=False))
    nn.init.normal_(net.net_dict['embedding'].weight, std=.25 / width ** .5)
    nn.init.normal_(net.net_dict['outputs'].weight, std=1.5 / width ** .5)  # for a gradient norm that calls for microbatches
    return net


# ---------------------------------------------------------------- recipes

def gradient_norm(net):
    return sum(p.grad.norm().double() ** 2 for p in net.parameters()).sqrt().item()


def loss_of(net, inputs, targets):
    return F.cross_entropy(net(inputs).flatten(0, 1), targets.flatten())


def train_first(net, tokens, sequences=6, length=32, accumulate=3):
    free, decayed = [], []
    for name, parameter in net.named_parameters():
        (free if any(word in name for word in ('norm', 'embedding')) else decayed).append(parameter)
    optimizer = torch.optim.AdamW([{'params': free, 'weight_decay': 0.}, {'params': decayed, 'weight_decay': .1}],
                                  lr=2e-3, eps=1e-8, betas=(.9, .95))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=STEPS, pct_start=.15, anneal_strategy='cos', cycle_momentum=False,
        div_factor=1e2, final_div_factor=.05)
    seen = 0
    for _ in range(STEPS):
        for _ in range(accumulate):
            loss = loss_of(net, *batch(tokens, sequences, length, seen))
            loss.backward()
            seen += sequences * length
        norm = gradient_norm(net) / accumulate
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        yield {'length': length, 'microbatches': accumulate, 'loss': loss.item(), 'norm': norm}


def train_latent(net, tokens, capacity=512, longest=32, growth=6, sample_every=2, scale_lr=.7, warmup=10, multiple=.2):
    parameters = max(27.8e6, sum(p.numel() for p in net.parameters()))
    of = scaling(parameters)
    rate, per_batch = of['baseRate'] * multiple, math.floor(capacity / (1.52174 + .482))
    body = power_law(2e-2, warmup, -.08)
    kinds = {  # multiple of the rate, its schedule, first beta
        'decay': (1., body, .9), 'position_bias_mult': (100., lambda step: .995 ** step, .9),
        'other': (32., body, .9), 'output': (2., power_law(1., 0., -.2), .6)}
    groups = {kind: [] for kind in kinds}
    for name, parameter in net.named_parameters():
        kind = 'position_bias_mult' if 'position_bias' in name else 'other' if 'norm' in name or 'embedding' in name \
            else 'output' if 'output' in name else 'decay'
        groups[kind].append(parameter)
    optimizer = torch.optim.AdamW([
        {'params': groups[k], 'lr': rate * kinds[k][0], 'betas': (kinds[k][2], .95), 'eps': 1e-9,
         'weight_decay': 2. ** 4 if k == 'decay' else 0.} for k in kinds])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [kinds[k][1] for k in kinds])
    length, estimate, microbatches, seen = 8, 0., 1, 0
    for step in range(STEPS):
        before = {'length': length, 'microbatches': microbatches}
        sequences = per_batch // length
        for _ in range(microbatches):
            loss = loss_of(net, *batch(tokens, sequences, length, seen))
            (loss / microbatches).backward()
            seen += sequences * length
        optimizer.step()
        optimizer.param_groups[0]['weight_decay'] = 1. / of['weightDecayBase'] ** (loss.item() + 1e-8) * 2. ** 4
        scheduler.step()
        norm = gradient_norm(net)
        if step % growth == 0 and step != 0 and length < longest:
            length = min(2 * length, longest)
        if step % sample_every == 0:
            target = (of['gradNormSteps'] * (step + 1e-2)) ** of['gradNormPower']
            estimate *= 1. + sample_every * scale_lr * (norm / parameters ** .5 / target - 1)
            estimate = max(estimate, 1e-1)
        base, probability = divmod(estimate, 1)
        microbatches = max(1, int(base + (bits_hash(SEED, step) / 2 ** 32 < probability)))
        optimizer.zero_grad()
        yield {**before, 'loss': loss.item(), 'norm': norm}


# ---------------------------------------------------------------- files

def save(name, state):
    """A .safetensors file: an 8-byte little-endian header length, a JSON header, the raw data."""
    header, data = {}, b''
    for key, value in state.items():
        raw = value.float().contiguous().numpy().tobytes()
        header[key] = {'dtype': 'F32', 'shape': list(value.shape), 'data_offsets': [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(os.path.join(FOLDER, name), 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + data)
    print(f'{name}: {8 + len(text) + len(data):,} bytes, {sum(v.numel() for v in state.values()):,} numbers')


CASES = {
    '0.1': (first_net, train_first,
            '--net.dim 24 --net.heads 2 --net.blocks 2 --batch.length 32 --batch.sequences 6 --batch.accumulate 3 '
            '--optimizer.weightDecay 0.1 --evaluation.batches 1'),
    '0.4': (latent_net, train_latent,
            '--net.dim 24 --net.blocks 2 --batch.capacity 512 --batch.firstLength 8 --batch.length 32 '
            '--batch.growEvery 6 --microbatch.sampleEvery 2 --microbatch.rate 0.7 --optimizer.warmup 10 --optimizer.rate 0.2 '
            '--evaluation.tokens 32'),
}

if __name__ == '__main__':
    text = make_text()
    with open(os.path.join(FOLDER, 'baselines.txt'), 'w') as file:
        file.write(text)
    tokens = torch.tensor(list(text.encode()))
    tokens = tokens[:len(tokens) - len(tokens) * 5 // 100]
    golden = {}
    for name, (make, train, options) in CASES.items():
        torch.manual_seed(0)
        net = make()
        # The tied weights are stored once; what the loader needs has the first name.
        state = {k: v.clone() for k, v in net.state_dict().items() if name != '0.1' or 'outputs' not in k}
        save(f'baseline-{name}.safetensors', state)
        first = {k: v.clone() for k, v in net.state_dict().items()}
        rows = list(train(net, tokens))
        net.load_state_dict(first)
        torch.set_default_dtype(torch.float64)
        exact = list(train(net.double(), tokens))
        torch.set_default_dtype(torch.float32)
        golden[name] = {
            'options': f'{options} --evaluation.every 1 --steps {STEPS} --seed {SEED} --sample 0'.split(),
            'steps': [{**row, 'loss64': other['loss'], 'norm64': other['norm']} for row, other in zip(rows, exact)]}
        for row in golden[name]['steps']:
            print(row)
        print('float32 is off by', max(abs(r['loss'] - r['loss64']) for r in golden[name]['steps']))
    with open(os.path.join(FOLDER, 'baselines.json'), 'w') as file:
        json.dump(golden, file, indent=1)
        file.write('\n')
