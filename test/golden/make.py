#!/usr/bin/env python3
"""PyTorch's values for the tests: writes the .safetensors files of this folder.

The files are committed and the tests only read them (golden.ts), so nobody needs Python to run the
tests. To make them again, after changing this script:

    apt-get install python3-torch       # PyTorch 1.13 of Debian 12 made the committed ones
    /usr/bin/python3 test/golden/make.py            # or make.py sweep_: files whose names begin with that

It takes a few seconds, prints what each file holds, and gives the same bytes for the same PyTorch on the same
processor.

What the values mean
- Inputs and weights are random, rounded to bfloat16 and stored as such: half the bytes, and exact in
  float32 and float64 alike.
- Results are computed in float64, so they are the truth to float32's last bit, and stored rounded to
  float32. The same was computed in float32 too; the metadata of each file says how far PyTorch's own
  float32 is from the truth ('float32 error of NAME': the norm of the difference over the norm of the
  value; in 'functions' the largest |difference| / max(1, |value|)), which any tolerance must allow for.
- 'd_NAME' is the gradient with respect to NAME, of sum(out * d_out) for the upstream gradient 'd_out'
  that the file holds, or of the mean loss where there is one.
- Matrices are stored [out, in], as torch.nn.functional.linear takes them: y = x @ w.T.

Files
- latent_72, latent_64: one latent attention block (bench/torch_step.py's Latent). The LayerNorm has a
  bias there, which is zero here, so a block without one gives the same; d_norm_bias is its gradient.
- attention_slope, attention_heads, attention_heads_slope: causal attention alone, scale 1 / sqrt(keyDim).
  q, k are [batch, length, heads, keyDim] and v, out [batch, length, heads, valueDim] (no heads axis in
  attention_slope); the bias on the score of query i and key j is slope * (j - i), one slope a head.
- head: linear and cross-entropy; x [tokens, dim], w [vocabulary, dim], targets; loss of each token,
  mean_loss, correct (1 where the largest logit is the target), and the gradients of the mean loss.
- functions: elementwise functions on a spread grid (with infinities where float32 overflows), and
  LayerNorm without bias (eps 1e-5), softmax and log-softmax along rows of very different magnitude.
- trajectory: 20 steps of training a latent network, see trajectory() below.
- sweep_FAMILY: every function at special and at random points, see sweep.py.
- newton_schulz: Muon's five quintic iterations, on a tall and a wide matrix.
"""
import json, math, os, struct, sys
import torch
import torch.nn.functional as F
import sweep

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
FOLDER = os.path.dirname(os.path.abspath(__file__))
DTYPES = {torch.float32: 'F32', torch.float64: 'F64', torch.int32: 'I32', torch.bfloat16: 'BF16'}


def random(*shape, std=1., mean=0.):
    """Normal values that bfloat16 holds exactly, as float64."""
    return (torch.randn(*shape) * std + mean).bfloat16().double()


def save(name, inputs, results, numbers={}, notes={}):
    """Writes NAME.safetensors: an 8-byte little-endian header length, a JSON header, the raw data."""
    if sys.argv[1:] and not name.startswith(tuple(sys.argv[1:])):
        return
    tensors = {}
    for key, value in inputs.items():
        tensors[key] = value.bfloat16() if value.is_floating_point() else value.int()
        assert torch.equal(tensors[key].to(value.dtype), value), key
    tensors.update({k: v.detach().float() if v.is_floating_point() else v.int() for k, v in results.items()})
    tensors.update({k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()})
    header, data = {'__metadata__': {'made by': f'test/golden/make.py, PyTorch {torch.__version__}', **notes}}, b''
    for key, value in sorted(tensors.items(), key=lambda item: -item[1].element_size()):  # keeps all aligned
        raw = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).contiguous().numpy().tobytes()
        start, data = len(data), data + raw
        header[key] = {'dtype': DTYPES[value.dtype], 'shape': list(value.shape), 'data_offsets': [start, len(data)]}
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(os.path.join(FOLDER, name + '.safetensors'), 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + data)
    print(f'{name}: {8 + len(text) + len(data):,} bytes')
    for key, value in tensors.items():
        print(f'    {DTYPES[value.dtype]:5}{key} {list(value.shape)}')
    for key, value in notes.items():
        print(f'    {key}: {value}')


def relative_error(rough, exact):
    return ((rough.double() - exact).norm() / exact.norm().clamp(min=1e-300)).item()


def pointwise_error(rough, exact):
    """The largest |difference| / max(1, |value|), where infinities that agree are no difference."""
    difference = (rough.double() - exact).masked_fill(rough.double() == exact, 0)
    return (difference / exact.abs().clamp(min=1)).abs().max().item()


def derived(function, inputs, fixed={}):
    """What save() takes: function's results and gradients in float64, and how far float32 is from them.

    function takes the inputs (which get gradients) and the fixed ones, and returns a dictionary. Its
    first entry is differentiated: itself where it is a scalar, else by a random upstream gradient."""
    upstream, runs = None, []
    for dtype in (torch.float64, torch.float32):
        leaves = {k: v.to(dtype).requires_grad_() for k, v in inputs.items()}
        results = function(**leaves, **fixed)
        name, out = next(iter(results.items()))
        if upstream is None and out.dim():
            upstream = {'d_' + name: random(*out.shape)}
        gradients = torch.autograd.grad(out, list(leaves.values()), upstream and upstream['d_' + name].to(dtype))
        runs.append({**results, **{'d_' + k: g for k, g in zip(leaves, gradients)}})
    exact, rough = runs
    notes = {f'float32 error of {k}': f'{relative_error(rough[k].detach(), exact[k].detach()):.1e}'
             for k in exact if exact[k].is_floating_point()}
    return {'inputs': {**inputs, **fixed, **(upstream or {})}, 'results': exact, 'notes': notes}


# ---------------------------------------------------------------- the latent block and its attention

def distance(length, like):
    """j - i at [i, j]: how many steps back key j is from query i, as a number below zero."""
    steps = torch.arange(length, dtype=like.dtype)
    return steps[None] - steps[:, None]


def future(length):
    return torch.triu(torch.ones(length, length), 1).bool()


def causal_attention(q, k, v, slope):
    """q, k, v are [..., length, width]; slope broadcasts against the scores."""
    length = q.shape[-2]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** .5 + slope * distance(length, q)
    return scores.masked_fill(future(length), -math.inf).softmax(-1) @ v


def latent(x, norm_weight, expand, project, position_bias, norm_bias=None):
    dim = x.shape[-1]
    qk, wide = dim // 8, 2 * dim
    normed = F.layer_norm(x, (dim,), norm_weight, norm_bias)
    q, k, linear, gate = F.linear(normed, expand).split((qk, qk, wide, wide), -1)
    geglu = linear * F.gelu(gate)
    local, value = geglu.split((wide - dim, dim), -1)
    mixed = causal_attention(q, k, value, F.softplus(position_bias))
    return x + F.linear(torch.cat((local, mixed), -1), project)


def latent_case(dim, length, batch):
    qk, wide = dim // 8, 2 * dim
    inputs = {
        'x': random(batch, length, dim),
        'norm_weight': random(dim, std=.25, mean=1.),
        'norm_bias': torch.zeros(dim).double(),
        # Larger than at the start of training, so that no part of the block hides behind the residual.
        'expand': random(2 * qk + 2 * wide, dim, std=1.5 / dim ** .5),
        'project': random(dim, wide, std=1 / wide ** .5),
        'position_bias': torch.tensor(-1.5).double(),
    }
    save(f'latent_{dim}', **derived(lambda **t: {'out': latent(**t)}, inputs))


def attention_case(name, batch, length, heads, key_dim, value_dim, slope):
    shape = (batch, length, heads) if heads else (batch, length)
    inputs = {'q': random(*shape, key_dim), 'k': random(*shape, key_dim), 'v': random(*shape, value_dim)}
    if slope is not None:
        inputs['slope'] = torch.tensor(slope).double()

    def attend(q, k, v, slope=None):
        if not heads:
            return {'out': causal_attention(q, k, v, slope)}
        bias = 0. if slope is None else slope[:, None, None]
        return {'out': causal_attention(*(x.transpose(1, 2) for x in (q, k, v)), bias).transpose(1, 2)}

    save(name, **derived(attend, inputs))


# ---------------------------------------------------------------- the head

def head_case(tokens, dim, vocabulary):
    targets = torch.randint(vocabulary, (tokens,))
    w = random(vocabulary, dim, std=1.5 / dim ** .5)
    x = random(tokens, dim)
    x[::3] = (x[::3] + 4 * w[targets[::3]]).bfloat16()  # a third of the tokens lean to their target

    def head(x, w, targets):
        logits = F.linear(x, w)
        loss = F.cross_entropy(logits, targets, reduction='none')
        return {'mean_loss': loss.mean(), 'loss': loss, 'correct': logits.argmax(-1) == targets}

    save('head', **derived(head, {'x': x, 'w': w}, {'targets': targets}))


# ---------------------------------------------------------------- functions

def functions_case():
    """grid -> NAME and d_NAME for each function; positive -> the functions of positive numbers.

    rows -> norm, softmax, log_softmax along the last axis, and their gradients with respect to rows
    for the upstream gradient d_rows_out (and d_norm_weight)."""
    magnitudes = torch.tensor([1e-30, 1e-10, 1e-4, 1e-2, 1e-1]).double()
    large = torch.tensor([15., 20., 30., 50., 80., 87., 88.5, 89., 100., 103., 104., 110., 1e3, 1e6, 1e20, 3e38]).double()
    half = torch.cat((magnitudes, torch.linspace(.125, 14, 112).double(), large))
    grid = torch.cat((-half.flip(0), torch.zeros(1).double(), half)).bfloat16().double()
    positive = half.bfloat16().double()
    elementwise = {'exp': torch.exp, 'erf': torch.erf, 'gelu': F.gelu, 'tanh': torch.tanh, 'sigmoid': torch.sigmoid,
                   'softplus': F.softplus, 'sin': torch.sin, 'cos': torch.cos}
    of_positive = {'log': torch.log, 'log2': torch.log2, 'sqrt': torch.sqrt, 'rsqrt': torch.rsqrt, 'reciprocal': torch.reciprocal}
    inputs, results, notes = {'grid': grid, 'positive': positive}, {}, {}
    for functions, points in ((elementwise, grid), (of_positive, positive)):
        for name, function in functions.items():
            pair = []
            for dtype in (torch.float64, torch.float32):
                leaf = points.to(dtype).requires_grad_()
                value = function(leaf)
                pair.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
            exact, rough = pair
            for key, a, b in ((name, exact[0], rough[0]), ('d_' + name, exact[1], rough[1])):
                a = a.float().double()  # so that what overflows float32 does so in both
                results[key], notes[f'float32 error of {key}'] = a, f'{pointwise_error(b, a):.1e}'
    scales = torch.tensor([1e-4, 1e-2, 1., 1., 10., 100., 1e4, 1e8]).double()[:, None]
    offsets = torch.tensor([0., 0., 0., 10., -30., 100., -1e4, 0.]).double()[:, None]
    rows = (random(8, 37) * scales + offsets).bfloat16().double()
    norm_weight = random(37, std=.25, mean=1.)
    inputs.update(rows=rows, norm_weight=norm_weight)
    of_rows = {'norm': lambda x, w: F.layer_norm(x, (37,), w), 'softmax': lambda x, w: x.softmax(-1),
               'log_softmax': lambda x, w: x.log_softmax(-1)}
    inputs['d_rows_out'] = upstream = random(8, 37)
    for name, function in of_rows.items():
        pair = []
        for dtype in (torch.float64, torch.float32):
            leaves = rows.to(dtype).requires_grad_(), norm_weight.to(dtype).requires_grad_()
            value = function(*leaves)
            gradients = torch.autograd.grad(value, leaves, upstream.to(dtype), allow_unused=True)
            pair.append({name: value.detach(), 'd_' + name: gradients[0], 'd_norm_weight': gradients[1]})
        for key, value in pair[0].items():
            if value is not None:
                results[key], notes[f'float32 error of {key}'] = value, f'{pointwise_error(pair[1][key], value):.1e}'
    save('functions', inputs, results, notes=notes)


# ---------------------------------------------------------------- training

def trajectory():
    """20 steps of AdamW on a latent network: dim 72, 2 blocks, vocabulary 257, length 33, batch 3.

    The network is embedding, blocks, LayerNorm, output (LayerNorms without bias); the loss is the mean
    cross-entropy. Each step: gradients, their global norm (recorded before clipping), clipping at norm
    1 (gradient * min(1, 1 / (norm + 1e-6))), then AdamW with eps 1e-9 and, for each group,

        embedding, norms    learning rate x 32,  betas .9, .95, no weight decay
        position_bias       learning rate x 100, betas .9, .95, no weight decay
        output              learning rate x 2,   betas .6, .95, no weight decay
        expand, project     learning rate x 1,   betas .9, .95, weight decay .1 (of the group's rate)

    with PyTorch's rule: p -= rate * decay * p; m, v as ever;
    p -= rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps). 'rates' are before the multiples.
    The whole is done in float32 and in float64: losses and norms of both are stored ('losses',
    'losses64', both as F64), the final weights ('final.NAME') are float64's, and the metadata says how
    far float32's are. Weights are named as in the list above, with 'blocks.N.' before those of a block."""
    dim, blocks, vocabulary, length, batch, steps = 72, 2, 257, 33, 3, 20
    qk, wide = dim // 8, 2 * dim
    weights = {'embedding': random(vocabulary, dim, std=.25 / dim ** .5)}
    for i in range(blocks):
        weights[f'blocks.{i}.norm'] = torch.ones(dim).double()
        weights[f'blocks.{i}.expand'] = random(2 * qk + 2 * wide, dim, std=.25 / dim ** .5)
        weights[f'blocks.{i}.project'] = random(dim, wide, std=.5 / dim ** .5 / blocks)
        weights[f'blocks.{i}.position_bias'] = torch.ones(()).double()
    weights['norm'] = torch.ones(dim).double()
    weights['output'] = random(vocabulary, dim, std=.5 / dim ** .5)
    # Two tokens in three follow from the one before, so that there is something to learn.
    tokens = torch.randint(vocabulary, (steps, batch, length + 1))
    for i in range(1, length + 1):
        follows = torch.rand(steps, batch) < 2 / 3
        tokens[..., i] = torch.where(follows, (tokens[..., i - 1] * 3 + 7) % 64, tokens[..., i])
    inputs, targets = tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()
    rates = [4e-3 * (min(1, (i + 1) / 5) if i < 5 else .1 + .45 * (1 + math.cos(math.pi * (i - 5) / 15))) for i in range(steps)]

    def group(name):
        if 'position_bias' in name:
            return 100., 0., (.9, .95)
        if 'norm' in name or 'embedding' in name:
            return 32., 0., (.9, .95)
        return (2., 0., (.6, .95)) if name == 'output' else (1., .1, (.9, .95))

    def train(dtype):
        net = {k: v.to(dtype).clone().requires_grad_() for k, v in weights.items()}
        optimizer = torch.optim.AdamW([{'params': [p], 'mult': group(n)[0], 'weight_decay': group(n)[1], 'betas': group(n)[2]}
                                       for n, p in net.items()], lr=1., eps=1e-9)
        losses, norms = [], []
        for step in range(steps):
            for g in optimizer.param_groups:
                g['lr'] = rates[step] * g['mult']
            x = F.embedding(inputs[step], net['embedding'])
            for i in range(blocks):
                block = (net[f'blocks.{i}.{part}'] for part in ('norm', 'expand', 'project', 'position_bias'))
                x = latent(x, *block)
            logits = F.linear(F.layer_norm(x, (dim,), net['norm']), net['output'])
            loss = F.cross_entropy(logits.flatten(0, 1), targets[step].flatten())
            optimizer.zero_grad()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(net.values(), 1.).item())
            optimizer.step()
            losses.append(loss.item())
        return losses, norms, {k: v.detach() for k, v in net.items()}

    losses, norms, net = train(torch.float32)
    losses64, norms64, net64 = train(torch.float64)
    kept = ['blocks.0.project', 'norm'] + [f'blocks.{i}.{part}' for i in range(blocks) for part in ('norm', 'position_bias')]
    notes = {f'float32 error of final.{k}': f'{relative_error(net[k], net64[k]):.1e}' for k in net}
    largest = lambda a, b: f'{max(abs(x - y) / y for x, y in zip(a, b)):.1e}'
    notes['float32 error of losses, largest'] = largest(losses, losses64)
    notes['float32 error of norms, largest'] = largest(norms, norms64)
    save('trajectory', {**weights, 'inputs': inputs, 'targets': targets}, {'final.' + k: net64[k] for k in kept},
         {'rates': rates, 'losses': losses, 'losses64': losses64, 'norms': norms, 'norms64': norms64}, notes)
    for row in zip(range(steps), rates, losses, losses64, norms, norms64):
        print('    step %2d  rate %.5f  loss %.6f (float64 %.6f)  norm %.5f (float64 %.5f)' % row)


def newton_schulz(g):
    """Muon's orthogonalisation: singular values to about 1 (Keller Jordan's coefficients), no bfloat16."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def newton_schulz_case():
    inputs = {'tall': random(40, 24), 'wide': random(24, 40, std=1e-3)}
    results = {'out_' + k: newton_schulz(v) for k, v in inputs.items()}
    notes = {f'float32 error of out_{k}': f'{relative_error(newton_schulz(v.float()), results["out_" + k]):.1e}'
             for k, v in inputs.items()}
    save('newton_schulz', inputs, results, notes=notes)


for seed, case in enumerate((
    lambda: latent_case(dim=72, length=33, batch=3),
    lambda: latent_case(dim=64, length=48, batch=2),
    lambda: attention_case('attention_slope', 3, 33, 0, 9, 24, .375),
    lambda: attention_case('attention_heads', 2, 33, 3, 9, 24, None),
    lambda: attention_case('attention_heads_slope', 2, 33, 3, 9, 24, [.0625, .375, 2.]),
    lambda: head_case(tokens=99, dim=72, vocabulary=257),
    functions_case,
    trajectory,
    newton_schulz_case,
    *(lambda family=family: save(f'sweep_{family.__name__}', {}, family()) for family in sweep.FAMILIES),
)):
    torch.manual_seed(seed)  # each case its own, so that changing one leaves the others' bytes alone
    case()
