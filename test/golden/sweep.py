"""PyTorch's values and derivatives of every function of the engine, at special and at random points: for make.py.

Each family is a function that returns the tensors of one file, sweep_FAMILY.safetensors. test/engine/sweep.test.ts has the
same functions under the same names. In a file

- 'x' (and 'y', 'q', ...) are the special points, 'random_x' the random ones; all are float32.
- NAME is the value at the special points, computed in float32 as a user of PyTorch would have it. 'd_NAME_x' is the
  gradient with respect to x of sum(value * weights).
- 'random_NAME' and 'random_d_NAME_x' are the same at the random points, computed in float64 and rounded to float32.
  'random_dd_NAME_x' is the gradient with respect to x of the sum of all first gradients times their weights.
- Weights are 1, -2, 0.5, 4, -0.25 over and over: powers of two, which round nothing. See weights().

Several rows of special points that are one call each (norm, attention) lie along a leading axis.
"""
import math
import torch
import torch.nn.functional as F

INF, NAN = math.inf, math.nan
TINY = 2. ** -126
MOST = 3.4028234663852886e38
HALVES = [0., 1., 2., .5, TINY, 1e-30, 2. ** -130, 2. ** -149, 1e-4, 20., 1e5, 1e20, MOST, INF]
SPECIAL = [s * value for value in HALVES for s in (1, -1)] + [NAN]


def weights(*shape):
    pattern = torch.tensor([1., -2., .5, 4., -.25])
    count = math.prod(shape)
    return pattern.repeat(-(-count // 5))[:count].reshape(shape)


def points(*shape, scale=1.5):
    return torch.randn(*shape) * scale


def gradients(value, inputs, create=False):
    loss = (value * weights(*value.shape).to(value.dtype)).sum()
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(loss, inputs, create_graph=create, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs)]


def evaluated(function, inputs, dtype, second):
    """{'': value, 'd_': {x: gradient}, 'dd_': {x: second gradient}}"""
    leaves = {k: v.to(dtype).clone().requires_grad_() for k, v in inputs.items()}
    value = function(*leaves.values())
    first = gradients(value, list(leaves.values()), second)
    result = {'': value.detach(), 'd_': dict(zip(leaves, (g.detach() for g in first)))}
    if second:
        result['dd_'] = {k: torch.zeros_like(v) for k, v in leaves.items()}
        loss = sum((g * weights(*g.shape).to(dtype)).sum() for g in first)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            result['dd_'] = {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), found)}
    return result


def put(tensors, name, result, prefix=''):
    tensors[prefix + name] = result['']
    for kind in ('d_', 'dd_'):
        for leaf, value in result.get(kind, {}).items():
            tensors[f'{prefix}{kind}{name}_{leaf}'] = value.detach()


def swept(functions, special, random):
    """The tensors of functions (name -> function, or (function, random inputs)) of the same inputs."""
    tensors = {**special, **{'random_' + k: v for k, v in random.items()}}
    for name, function in functions.items():
        function, inputs = function if isinstance(function, tuple) else (function, random)
        if special:
            put(tensors, name, evaluated(function, special, torch.float32, False))
        put(tensors, name, evaluated(function, inputs, torch.float64, True), 'random_')
    return tensors


def each(functions, special, random):
    """swept(), where each entry of the leading axis of the special inputs is a call of its own."""
    tensors = {**special, **swept(functions, {}, random)}
    for name, function in functions.items():
        calls = [evaluated(function, dict(zip(special, call)), torch.float32, False) for call in zip(*special.values())]
        tensors[name] = torch.stack([call[''] for call in calls])
        for leaf in special:
            tensors[f'd_{name}_{leaf}'] = torch.stack([call['d_'][leaf] for call in calls])
    return tensors


POWERS = [0., .5, -.5, 1., -1., 2., 3., 4., 5., 10., -2., -3., 1 / 3, 2.5, -1.7]


def unary():
    """Random points of what is not defined for negative numbers are the absolute values of 'random_x'."""
    x = points(40)
    positive = {'x': x.abs()}
    half = lambda function: (function, positive)
    functions = {
        'neg': torch.neg, 'abs': torch.abs, 'exp': torch.exp, 'log': half(torch.log), 'log1p': half(torch.log1p),
        'sqrt': half(torch.sqrt), 'reciprocal': torch.reciprocal, 'rsqrt': half(torch.rsqrt), 'square': torch.square,
        'sin': torch.sin, 'cos': torch.cos, 'tanh': torch.tanh, 'erf': torch.erf, 'floor': torch.floor,
        'detach': lambda x: x.detach(), 'gelu': F.gelu, 'relu': F.relu, 'sigmoid': torch.sigmoid,
        'softplus': F.softplus, 'toFloat': lambda x: x * 1,
    }
    for power in POWERS:
        # Rounded as the engine does it: the number is a float32.
        rounded = torch.tensor(power).item()
        function = lambda x, p=rounded: x.pow(p)
        functions[f'pow {power:g}' if power != 1 / 3 else 'pow 1/3'] = function if power == int(power) else half(function)
    return swept(functions, {'x': torch.tensor(SPECIAL)}, {'x': x})


def binary():
    """The special points are all pairs of 'points': x is each along the rows, y along the columns."""
    values = torch.tensor([0., -0., 1., -1., 3., -.5, TINY, 2. ** -140, -2. ** -149, 1e20, -MOST, MOST, INF, -INF, NAN])
    n = len(values)
    special = {'x': values[:, None].repeat(1, n), 'y': values.repeat(n, 1)}
    arithmetic = {'add': torch.add, 'sub': torch.sub, 'mul': torch.mul, 'div': torch.div,
                  'maximum': torch.maximum, 'minimum': torch.minimum}
    functions = {**arithmetic, 'where': lambda x, y: torch.where(x < y, x, y)}
    tensors = swept(functions, special, {'x': points(40), 'y': points(40)})
    tensors['points'] = values
    del tensors['x'], tensors['y']
    for name, function in {'equal': torch.eq, 'less': torch.lt, 'lessEqual': torch.le}.items():
        tensors[name] = function(special['x'], special['y'])
    return tensors


def whole():
    """Whole numbers: all pairs of 'points', of int32, and of bool those of x != 0 and y != 0; conversions of floats."""
    values = torch.tensor([0, 1, -1, 2, 3, -7, 65536, 65537, 2 ** 31 - 1, -2 ** 31]).int()
    x, y = values[:, None], values[None]
    tensors = {'points': values}
    for name, function in {'add': torch.add, 'sub': torch.sub, 'mul': torch.mul, 'maximum': torch.maximum,
                           'minimum': torch.minimum, 'and': torch.bitwise_and, 'equal': torch.eq, 'less': torch.lt,
                           'lessEqual': torch.le}.items():
        tensors[name] = function(x, y)
    tensors['where'] = torch.where(x < y, x, y)
    tensors['and of bool'] = (x != 0) & (y != 0)
    tensors['equal of bool'] = (x != 0) == (y != 0)
    tensors.update({'neg': -values, 'square': values * values, 'toFloat': values.float(), 'toInt': values})
    tensors['toFloat of bool'] = (values != 0).float()
    tensors['toInt of bool'] = (values != 0).int()
    for power in (0, 1, 2, 3, 5, 8):
        tensors[f'pow {power}'] = values ** power
    tensors['floats'] = torch.tensor([0., -0., .5, -.5, .9999999, -.9999999, 1.5, -1.5, 1e5, -16777217., 2147483520., -2147483648., TINY, -2. ** -149])
    tensors['toInt of floats'] = tensors['floats'].int()
    tensors['arange'] = torch.arange(7).int()
    return tensors


ROWS = torch.tensor([
    [1., 2., NAN, 0., -1., 3.], [1., INF, 0., -1., 2., 3.], [1., -INF, 0., -1., 2., 3.], [INF, -INF, 1., 2., 3., 0.],
    [INF, INF, 1., 2., -3., 0.], [-INF] * 6, [INF] * 6, [NAN] * 6, [INF, NAN, -INF, 0., 1., 2.], [0.] * 6,
    [-0., 0., -0., -0., 0., -0.], [-0.] * 6, [2., 2., 1., 2., 0., 2.], [MOST, MOST, 1e38, 1., 0., 2.], [MOST] * 6,
    [-MOST, 1., 2., 3., 4., 5.], [6 * 2. ** -131, 6 * 2. ** -132, -6 * 2. ** -149, 0., 6 * 2. ** -140, 6 * 2. ** -133], [TINY] * 6,
    [1e-30, -2e-30, 3e-30, 0., 1e-30, 5e-30], [1e20, -2e20, 3e20, 0., 1e20, 5e20], [-1e30, 1e30, 0., 0., 0., 0.],
    [1., 1., 1., 1., 1., 1.], [100., -100., 88., -88., 0., 50.], [4., 5., 6., 4., 4., 7.],
    [3., 1., -2., .5, .25, -4.]])


def rms_norm(x, epsilon=1e-6):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def rows():
    """Along the last axis of rows, the first of their transpose, and the middle one of [rows / 5, 6, 5]."""
    columns = lambda x: x.T
    middle = lambda x: x.reshape(-1, 5, 6).transpose(1, 2)
    functions = {
        'sum': lambda x: x.sum(-1), 'mean': lambda x: x.mean(-1), 'max': lambda x: x.amax(-1),
        'sum of columns': lambda x: columns(x).sum(0), 'mean of columns': lambda x: columns(x).mean(0),
        'max of columns': lambda x: columns(x).amax(0),
        'sum of the middle': lambda x: middle(x).sum(1), 'mean of the middle': lambda x: middle(x).mean(1),
        'max of the middle': lambda x: middle(x).amax(1),
        'softmax': lambda x: x.softmax(-1), 'layerNorm': lambda x: F.layer_norm(x, x.shape[-1:]), 'rmsNorm': rms_norm,
    }
    return swept(functions, {'x': ROWS}, {'x': points(10, 6)})


def scalars():
    """What makes one number of a row."""
    functions = {'sum': lambda x: x.sum(), 'mean': lambda x: x.mean(), 'max': lambda x: x.amax(),
                 'norm': lambda x: torch.linalg.vector_norm(x)}
    return each(functions, {'x': ROWS}, {'x': points(6)})


def head():
    """crossEntropy of logits x; linearCrossEntropy of x and the weight y. 'correct' is whether the target's is the largest."""
    targets = torch.arange(len(ROWS)) % 6
    random_targets = torch.randint(6, (8,))
    loss = lambda x, t: F.cross_entropy(x, t, reduction='none')
    tensors = swept({}, {'x': ROWS}, {'x': points(8, 6), 'y': points(6, 6)})
    tensors.update(targets=targets, random_targets=random_targets, y=torch.eye(6))
    put(tensors, 'crossEntropy', evaluated(lambda x: loss(x, targets), {'x': ROWS}, torch.float32, False))
    tensors['correct'] = ROWS.gather(1, targets[:, None])[:, 0] == ROWS.amax(-1)
    put(tensors, 'crossEntropy', evaluated(lambda x: loss(x, random_targets), {'x': tensors['random_x']}, torch.float64, True), 'random_')
    linear = lambda x, y, t=random_targets: loss(x @ y.T, t)
    put(tensors, 'linearCrossEntropy', evaluated(linear, {'x': tensors['random_x'], 'y': tensors['random_y']}, torch.float64, True), 'random_')
    # A row times the identity is that row, unless it has a number that is not finite.
    special = {'x': ROWS, 'y': tensors['y']}
    identity = evaluated(lambda x, y: linear(x, y, targets), special, torch.float32, False)
    put(tensors, 'linearCrossEntropy', identity)
    return tensors


def spots(base, values):
    """One call for each value: base with the value in the middle of it, in the second row from the end."""
    calls = base.repeat(len(values), *[1] * base.dim())
    for call, value in zip(calls, values):
        call.reshape(-1, base.shape[-1])[-3, 1] = value
    return calls


SPOTS = torch.tensor([0., -0., INF, -INF, NAN, MOST, -MOST, TINY, 2. ** -140, 1e20, 1.])


def product():
    """Products with one special number in an operand."""
    a, b = points(4, 6), points(6, 5)
    n = len(SPOTS)
    special = {'x': torch.cat((spots(a, SPOTS), a.repeat(n, 1, 1))), 'y': torch.cat((b.repeat(n, 1, 1), spots(b, SPOTS)))}
    return each({'matmul': lambda x, y: x @ y}, special, {'x': a, 'y': b})


def attend(q, k, v, s, heads=2, scale=None, leave_out=False):
    batch, length, _ = q.shape
    q, k, v = (x.reshape(batch, length, heads, -1).transpose(1, 2) for x in (q, k, v))
    steps = torch.arange(length, dtype=q.dtype)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -.5 if scale is None else scale)
    scores = scores + s.reshape(heads, 1, 1) * (steps[None] - steps[:, None])
    future = torch.triu(torch.ones(length, length), 1).bool()
    probabilities = scores.masked_fill(future, -INF).softmax(-1)
    if leave_out:  # even where they are NaN
        probabilities = probabilities.masked_fill(future, 0)
    return (probabilities @ v).transpose(1, 2).reshape(batch, length, -1)


def attention():
    """Attention of two heads; in a call one of query, key, value, slope has one special number.

    'd_masked_v' is the gradient of the values where keys after a query count as nothing, even if the query is NaN."""
    most = torch.where(SPOTS.abs() == MOST, SPOTS / 1e8, SPOTS)  # sums of values are to stay finite
    bases = {'q': points(1, 6, 6), 'k': points(1, 6, 6), 'v': points(1, 6, 4), 's': points(2, scale=.3)}
    n, special = len(SPOTS), {}
    for at, (name, base) in enumerate(bases.items()):
        changed = spots(base, most if name == 'v' else SPOTS) if name != 's' else torch.stack((SPOTS, base[1].repeat(n)), 1)
        special[name] = torch.cat([changed if other == at else base.repeat(n, *[1] * base.dim()) for other in range(4)])
    negative = lambda q, k, v, s: attend(q, k, v, s, scale=-.7)
    left_out = each({'masked': lambda *inputs: attend(*inputs, leave_out=True)}, special, bases)
    return {**each({'attention': attend}, special, bases), **swept({'attention of scale -0.7': negative}, {}, bases),
            'd_masked_v': left_out['d_masked_v']}


def movement():
    """What moves numbers; at the random points what is moved is squared afterwards, so that there are second derivatives."""
    indices = torch.tensor([2, 0, 2, 1, 2])
    add = lambda x: torch.zeros(4, x.shape[1], dtype=x.dtype).index_add(0, indices, x)
    functions = {
        'T': lambda x: x.T, 'transpose': lambda x: x.reshape(5, 2, 3).transpose(0, 2),
        'permute': lambda x: x.reshape(5, 2, 3).permute(1, 2, 0), 'reshape': lambda x: x.reshape(3, 10),
        'broadcastTo': lambda x: x.reshape(5, 1, 6).expand(5, 2, 6), 'slice': lambda x: x[1:4, 2:5],
        'split': lambda x: torch.cat([p * (i + 1) for i, p in enumerate(x.split((1, 3, 2), 1))], 1),
        'concat': lambda x: torch.cat((x, x[:, 1:3], x), 1), 'gather': lambda x: F.embedding(indices, x),
        'scatterAdd': add,
    }
    x = torch.tensor((SPECIAL + [7.])[:30]).reshape(5, 6)
    tensors = {'x': x, 'random_x': points(5, 6), 'indices': indices}
    for name, function in functions.items():
        put(tensors, name, evaluated(function, {'x': x}, torch.float32, False))
        squared = evaluated(lambda x: function(x).square(), {'x': tensors['random_x']}, torch.float64, True)
        put(tensors, name, squared, 'random_')
    return tensors


FAMILIES = (unary, binary, whole, rows, scalars, head, product, attention, movement)
