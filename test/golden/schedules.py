#!/usr/bin/env python3
"""The schedules of hlb-gpt's first release and of 0.4.1, as their main.py compute them: writes schedules.json.

Plain Python and PyTorch's own OneCycleLR and LambdaLR. Where the original draws a Bernoulli number, a list of
uniform ones stands for it here, so that its decisions repeat.

    python3 test/golden/schedules.py
"""
import json
import math
import os

import torch

FOLDER = os.path.dirname(os.path.abspath(__file__))


def rates(make, steps):
    """The rates of a PyTorch scheduler over AdamW with a first rate of 1, step by step."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    scheduler, result = make(optimizer), []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return result


def one_cycle(steps):
    return rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=2e-3, total_steps=steps, pct_start=.15, anneal_strategy='cos', cycle_momentum=False,
        div_factor=1e2, final_div_factor=.05), steps)


def power_law(start, peak, exponent):
    def at(step):
        return start + step / peak * (1 - start) if step < peak else (step + 1. - peak) ** exponent
    return at


def of_step(steps):
    lambdas = {'body': power_law(2e-2, 100, -.08), 'output': power_law(1., 0., -.2), 'positionBias': lambda step: .995 ** step}
    return {name: rates(lambda o: torch.optim.lr_scheduler.LambdaLR(o, at), steps) for name, at in lambdas.items()}


def network(scale, tokens=50304):
    width, blocks = round(384 * math.log2(1. + scale) / 64) * 64, round(8 * math.log2(1. + scale))
    capacity = math.floor(114688 / (1.52174 + .482 * scale ** .87))
    block = width + (2 * (width // 8) + 4 * width) * width + width * 2 * width + 1
    return {'modelScale': scale, 'dim': width, 'blocks': blocks, 'tokensPerBatch': capacity,
            'parameters': 2 * tokens * width + width + blocks * block,
            'evaluationBatch': max(math.floor(capacity / 1024 // 16), 1)}


def scaling(parameters):
    log = math.log(parameters)
    base = .007 * (.01 * log) ** -4
    return {'parameters': parameters, 'baseRate': 9e7 / log ** 8.8, 'weightDecayBase': base,
            'gradNormPower': -.677 * log ** -.2, 'gradNormSteps': log * parameters,
            'weightDecays': [[loss, 1. / base ** (loss + 1e-8) * 2. ** 4] for loss in (0., .5, 1., 2., 3.8, 6., 10.82)]}


def run(parameters, grad_norm, steps, growth_steps=80, longest=1024, sample_every=5, scale_lr=1e-1):
    """What each step of a run decides: [length and sequences of its batch, its microbatches, their estimate after it]."""
    of = scaling(parameters)
    capacity = network(1.)['tokensPerBatch']
    length, sequences, estimate, microbatches, rows = 32, capacity // 32, 0., 1, []
    for step in range(steps):
        before = [length, sequences, microbatches]
        if step % growth_steps == 0 and step != 0 and length < longest:
            length = min(2 * length, longest)
            sequences = capacity // length
        if step % sample_every == 0:
            per_parameter = grad_norm(step) / parameters ** .5
            target = (of['gradNormSteps'] * (step + 1e-2)) ** of['gradNormPower']
            estimate *= 1. + sample_every * scale_lr * (per_parameter / target - 1)
            estimate = max(estimate, 1e-1)
        base, probability = divmod(estimate, 1)
        microbatches = max(1, int(base + (uniform(step) < probability)))
        rows.append(before + [estimate])
    return rows


def uniform(step):
    """Well spread over [0, 1): multiples of the golden ratio."""
    return step * .6180339887498949 % 1


# Power laws close to what is expected: microbatches grow in number, or grow and fall again, or stay at one.
NORMS = [[46e6, 2.95, -.381], [46e6, 4.2, -.44], [46e6, 2., -.381], [1.5e9, 5.8, -.368]]

if __name__ == '__main__':
    values = {
        'oneCycle': {str(steps): one_cycle(steps) for steps in (20, 900)},
        'multiples': of_step(1000),
        'networks': [network(scale) for scale in (.5, 1., 2.3, 7., 30., 148.)],
        'scalings': [scaling(p) for p in (28_000_000, 46_014_344, 148_000_000, 1_500_000_000, 3_000_000_000)],
        'runs': [{'parameters': p, 'norm': [scale, power], 'rows': run(p, lambda step: scale * (step + 1) ** power, 600)}
                 for p, scale, power in NORMS],
    }
    rounded = lambda x: float(f'{x:.12g}') if isinstance(x, float) else \
        [rounded(y) for y in x] if isinstance(x, list) else {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else x
    thinned = rounded(values)
    # Of the rates, every step of a run's first part, and then some.
    keep = lambda rows: [[i, row] for i, row in enumerate(rows) if i < 25 or i % 37 == 0 or 97 < i < 103 or i % 80 < 2 or i == len(rows) - 1]
    thinned['oneCycle'] = {k: keep(v) for k, v in thinned['oneCycle'].items()}
    thinned['multiples'] = {k: keep(v) for k, v in thinned['multiples'].items()}
    with open(os.path.join(FOLDER, 'schedules.json'), 'w') as file:
        json.dump(thinned, file, separators=(',', ':'))
        file.write('\n')
    for r in thinned['runs']:
        print(r['parameters'], [r['rows'][i] for i in range(0, 600, 60)])
    print({k: v[-1] for k, v in thinned['oneCycle'].items()}, thinned['networks'], os.path.getsize(os.path.join(FOLDER, 'schedules.json')))
