import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { UserError } from '../../common/errors.ts'
import { bounded, parseOptions } from '../../run/options/options.ts'

const command = {
  summary: 'Trains.',
  flags: {
    seed: { type: 'integer', default: 0, minimum: 0, help: 'repeats a run' },
    threads: { type: 'integer', minimum: 1, help: 'cores' },
    seconds: { type: 'number', default: 180, help: 'how long' },
    data: { type: 'string', value: 'FILE', help: 'a text file' },
    prompt: { type: 'string', default: 'The', help: 'how the sample begins' },
    progress: { type: 'boolean', default: true, help: 'shows a progress line' },
  },
  hyperparameters: {
    net: { dim: 128, tied: false },
    optimizer: {
      name: bounded('adamw', { choices: ['adamw', 'muon'] }),
      learningRate: 4e-3,
      betas: [0.9, 0.95],
      scale: { embedding: 32 },
    },
  },
} as const

const parse = (...args: string[]) => parseOptions(args, command)

test('the defaults', () => {
  const options = parse()
  assert.deepEqual(options, {
    seed: 0,
    threads: undefined,
    seconds: 180,
    data: undefined,
    prompt: 'The',
    progress: true,
    hyperparameters: {
      net: { dim: 128, tied: false },
      optimizer: { name: 'adamw', learningRate: 4e-3, betas: [0.9, 0.95], scale: { embedding: 32 } },
    },
  })
  // What the types say is half of what is tested here.
  const seed: number = options.seed
  const data: string | undefined = options.data
  const dim: number = options.hyperparameters.net.dim
  const betas: readonly number[] = options.hyperparameters.optimizer.betas
  assert.deepEqual([seed, data, dim, betas], [0, undefined, 128, [0.9, 0.95]])
})

test('each type of value', () => {
  const given = [
    '--seed 7 --threads=2 --seconds 1.5 --data text.txt --no-progress --net.dim 192 --net.tied --optimizer.name muon',
    '--optimizer.learningRate 1e-3 --optimizer.betas 0.8,1 --optimizer.scale.embedding 2 --prompt',
  ]
  const options = parse(...given.join(' ').split(' '), 'We the people')
  assert.deepEqual(options, {
    seed: 7,
    threads: 2,
    seconds: 1.5,
    data: 'text.txt',
    prompt: 'We the people',
    progress: false,
    hyperparameters: {
      net: { dim: 192, tied: true },
      optimizer: { name: 'muon', learningRate: 1e-3, betas: [0.8, 1], scale: { embedding: 2 } },
    },
  })
  assert.equal(command.hyperparameters.net.dim, 128, 'the defaults themselves stay')
})

test('booleans in every form', () => {
  const forms = [['--net.tied'], ['--net.tied', 'true'], ['--net.tied=true'], ['--no-net.tied', '--net.tied']]
  for (const args of forms) assert.equal(parse(...args).hyperparameters.net.tied, true, args.join(' '))
  for (const args of [['--net.tied', 'false'], ['--net.tied', '--no-net.tied'], ['--net.tied=false']]) {
    assert.equal(parse(...args).hyperparameters.net.tied, false, args.join(' '))
  }
})

test('the last one given counts', () => {
  assert.equal(parse('--seed', '1', '--seed', '2').seed, 2)
})

describe('refused', () => {
  const cases: [args: string, message: string][] = [
    ['--net.dimm 4', 'There is no option --net.dimm: did you mean --net.dim?'],
    ['--dim 4', 'There is no option --dim: did you mean --net.dim?'],
    ['--learning_rate 1', 'There is no option --learning_rate: did you mean --optimizer.learningRate?'],
    ['--sed 4', 'There is no option --sed: did you mean --seed?'],
    ['--colour red', 'There is no option --colour: --help lists the options.'],
    ['--toString 1', 'There is no option --toString: --help lists the options.'],
    ['-s 1', 'There is no option -s: --help lists the options.'],
    ['--no-seed', 'There is no option --no-seed: --help lists the options.'],
    ['text.txt', '"text.txt" is not an option: these begin with --, and --help lists them.'],
    ['--net.dim abc', '--net.dim takes a whole number of at least 1, not "abc". For example: --net.dim 128'],
    ['--net.dim 2.5', '--net.dim takes a whole number of at least 1, not "2.5". For example: --net.dim 128'],
    ['--net.dim 0', '--net.dim takes a whole number of at least 1, not "0". For example: --net.dim 128'],
    ['--net.dim', '--net.dim takes a whole number of at least 1. For example: --net.dim 128'],
    ['--net.dim --seed 1', '--net.dim takes a whole number of at least 1. For example: --net.dim 128'],
    ['--net.tied maybe', '--net.tied takes true or false, not "maybe". For example: --net.tied false'],
    ['--seconds=', '--seconds takes a number, not "". For example: --seconds 180'],
    ['--seconds Infinity', '--seconds takes a number, not "Infinity". For example: --seconds 180'],
    [
      '--seed 1e99',
      '--seed takes a whole number from 0 to 9007199254740991, not "1e99". For example: --seed 0',
    ],
    ['--data', '--data takes a text. For example: --data FILE'],
    [
      '--optimizer.name sgd',
      '--optimizer.name takes one of adamw, muon, not "sgd". For example: --optimizer.name adamw',
    ],
    [
      '--optimizer.betas 0.9',
      '--optimizer.betas takes 2 numbers of at least 0, a comma between them, not "0.9". For example: --optimizer.betas 0.9,0.95',
    ],
  ]
  for (const [args, message] of cases) {
    test(args, () => assert.throws(() => parse(...args.split(' ')), new UserError(message)))
  }
})

test('a default says which numbers its hyperparameter takes, unless a rule does', () => {
  const takes = (name: string, value: string) => {
    const hyperparameters = {
      count: 3,
      zero: 0,
      share: 0.5,
      below: -1,
      counts: [4, 8],
      norm: bounded(1, { integer: false }),
      even: bounded(2, { minimum: 2 }),
    }
    try {
      parseOptions([`--${name}`, value], { summary: '', flags: {}, hyperparameters })
      return true
    } catch (error) {
      assert.ok(error instanceof UserError)
      return false
    }
  }
  const cases = {
    count: { taken: ['1', '7'], refused: ['0', '-1', '1.5'] },
    zero: { taken: ['0', '7'], refused: ['-1', '0.5'] },
    share: { taken: ['0', '1', '0.1'], refused: ['-0.1'] },
    below: { taken: ['-7', '0', '7'], refused: ['0.5'] },
    counts: { taken: ['1,2'], refused: ['1', '0,1', '1.5,2', '1,2,3', '1,x'] },
    norm: { taken: ['0.5', '0', '2'], refused: ['-1'] },
    even: { taken: ['2'], refused: ['1', '2.5'] },
  }
  for (const [name, { taken, refused }] of Object.entries(cases)) {
    for (const value of taken) assert.ok(takes(name, value), `${name} ${value}`)
    for (const value of refused) assert.ok(!takes(name, `${value}`), `${name} ${value}`)
  }
})

/** What a command prints for these arguments. */
function printed(args: readonly string[], command: object): string {
  const script = `
    import { parseOptions } from '${pathToFileURL(resolve(import.meta.dirname, '../../run/options/options.ts'))}'
    parseOptions(${JSON.stringify(args)}, ${JSON.stringify(command)})
    console.log('not reached')`
  const { status, stdout } = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
  })
  assert.equal(status, 0)
  return stdout
}

test('--help is made from the same tables, and fits a screen', () => {
  assert.equal(
    printed(['--net.dim', '4', '--help'], { ...command, hyperparameters: parse().hyperparameters }),
    `Trains.

  --seed N       repeats a run (0)
  --threads N    cores
  --seconds N    how long (180)
  --data FILE    a text file
  --prompt TEXT  how the sample begins (The)
  --progress     shows a progress line (true)
  --help         print this help

Hyperparameters, with their defaults (set one with --group.name VALUE):
  --net.              dim 128, tied false
  --optimizer.        name adamw, learningRate 0.004, betas 0.9,0.95
  --optimizer.scale.  embedding 32
`,
  )
})

test('--help of what has no hyperparameters does not speak of any', () => {
  const bare = { summary: 'Lists.', flags: {}, hyperparameters: {} }
  assert.equal(printed(['--help'], bare), 'Lists.\n\n  --help  print this help\n')
})

test('a rule bounds a hyperparameter, by numbers or by another one', () => {
  const command = {
    summary: '',
    flags: { seconds: { type: 'number', default: 180, above: 0, help: '' } },
    hyperparameters: {
      length: 8,
      tokens: bounded(64, { minimum: 'length' }),
      heads: 2,
      dim: bounded(6, { multipleOf: 'heads' }),
      every: bounded(0.5, { above: 0 }),
      warmup: bounded(0.1, { maximum: 1 }),
      depth: bounded(3, { maximum: 1000 }),
      rows: bounded([4, 8], { length: 'any', powerOf: 2, maximum: 2 ** 30 }),
    },
  } as const
  const take = (line: string) => parseOptions(line.split(' '), command)
  for (const line of [
    '--tokens 8',
    '--length 64',
    '--length 65 --tokens 65',
    '--dim 9 --heads 3',
    '--every 1e-9',
    '--warmup 0',
    '--warmup 1',
    '--depth 1000',
    '--rows 1,2,1073741824',
    '--seconds 1e-3',
    '--length 64 --tokens 2147483647',
  ])
    assert.doesNotThrow(() => take(line), line)
  const refused = {
    '--tokens 7': '--tokens takes a number of at least 8, which is what --length is, not 7.',
    '--length 65': '--tokens takes a number of at least 65, which is what --length is, not 64.',
    '--heads 4': '--dim takes a number that is a multiple of 4, which is what --heads is, not 6.',
    '--every 0': '--every takes a number above 0, not "0". For example: --every 0.5',
    '--warmup 1.5': '--warmup takes a number from 0 to 1, not "1.5". For example: --warmup 0.1',
    '--warmup -0.1': '--warmup takes a number from 0 to 1, not "-0.1". For example: --warmup 0.1',
    '--warmup 1e-400x': '--warmup takes a number from 0 to 1, not "1e-400x". For example: --warmup 0.1',
    '--depth 1001': '--depth takes a whole number from 1 to 1000, not "1001". For example: --depth 3',
    '--rows 4,6':
      '--rows takes powers of 2 from 1 to 1073741824, a comma between them, not "4,6". For example: --rows 4,8',
    '--rows 0.5':
      '--rows takes powers of 2 from 1 to 1073741824, a comma between them, not "0.5". For example: --rows 4,8',
    '--seconds 0': '--seconds takes a number above 0, not "0". For example: --seconds 180',
    // Sizes are int32 and other numbers float32.
    '--length 2147483648':
      '--length takes a whole number from 1 to 2147483647, not "2147483648". For example: --length 8',
    '--every 1e39':
      '--every takes a number above 0 and of at most 3.4028234663852886e+38, not "1e39". For example: --every 0.5',
  }
  for (const [line, message] of Object.entries(refused))
    assert.throws(() => take(line), new UserError(message), line)
})

test('a list of any length may be longer, shorter or empty', () => {
  const of = (text: string) =>
    parseOptions([`--rows=${text}`], {
      summary: '',
      flags: {},
      hyperparameters: { rows: bounded([4, 8], { length: 'any' }) },
    }).hyperparameters.rows
  assert.deepEqual(['', '5', '1,2,3'].map(of), [[], [5], [1, 2, 3]])
  assert.throws(() => of('1,,2'), /--rows takes whole numbers of at least 1/)
  assert.throws(() => of('0'), UserError)
})
