import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Call } from '../../engine/cpu/passes/lower.ts'
import { scheduleBarriers } from '../../engine/cpu/passes/barriers.ts'
import { withoutPauses } from '../../engine/compiler/pauses.ts'
import { Buffer, type Instruction } from '../../engine/compiler/program.ts'

const buffer = (size = 16) => new Buffer(size, 'float32')

/** A phase of one call that does nothing but read and write. */
function phase(name: string, reads: Buffer[], writes: Buffer[], parallel?: Instruction): Call[] {
  const kernel = { name, wat: '', items: 1, scratchBytes: 0 }
  return [{ kernel, operands: [], reads, writes, flops: 0, bytes: 0, ...(parallel && { parallel }) }]
}

const shown = (phases: Call[][]) =>
  withoutPauses(scheduleBarriers(phases, []))
    .steps.map(({ phase, barrier }) => `${barrier ? '| ' : ''}${phase[0].kernel.name}`)
    .join(' ')

test('chains that do not need each other go on side by side', () => {
  const chain = (name: string) => {
    const [a, b, c] = [buffer(), buffer(), buffer()]
    return [phase(`${name}1`, [], [a]), phase(`${name}2`, [a], [b]), phase(`${name}3`, [b], [c])]
  }
  // What takes the most memory is elsewhere.
  const most = buffer(1 << 16)
  const phases = [phase('most', [], [most]), ...chain('a'), ...chain('b'), ...chain('c')]
  assert.equal(shown(phases), 'most a1 b1 c1 | a2 b2 c2 | a3 b3 c3')
})

test('nothing passes what it needs, what it overwrites, or what overwrites what it reads', () => {
  const [a, b, c, d] = [buffer(), buffer(), buffer(), buffer()]
  const phases = [
    phase('make a', [], [a]),
    phase('use a', [a], [b]),
    phase('use b', [b], [c]),
    phase('replace b', [], [b]),
    phase('replace a', [], [a]),
    phase('use c', [c], [d]),
    phase('free', [], [buffer()]),
  ]
  assert.equal(shown(phases), 'make a free | use a | use b replace a | replace b use c')
})

test('parts of one instruction do not wait for each other, but others do for all of them', () => {
  const [a, b] = [buffer(), buffer()]
  const work = {
    kind: 'rows',
    rows: 1,
    columns: 1,
    rowBlock: 1,
    values: [],
    stores: [],
    columnSums: [],
  } as const
  const whole = { work, reads: [], writes: [a], sharesRowBlocks: false }
  const other = { ...whole }
  const phases = [
    phase('part 1', [], [a], whole),
    phase('part 2', [], [a], whole),
    phase('another', [], [a], other),
    phase('part 3', [], [a], whole),
    phase('use', [a], [b]),
  ]
  assert.equal(shown(phases), 'part 1 part 2 | another | part 3 | use')
})

test('memory is not taken long before it is needed', () => {
  const [a, b] = [buffer(), buffer()]
  const phases = [phase('make', [], [a]), phase('use', [a], [b]), phase('large', [], [buffer(1 << 20)])]
  assert.equal(shown(phases), 'make | use large')
})

test('nor more of it in all: many small pieces, one after the other, stay so', () => {
  const total = buffer()
  const pieces = Array.from({ length: 8 }, (_, i) => {
    const part = buffer(1 << 16)
    return [phase(`make ${i}`, [], [part]), phase(`add ${i}`, [part, total], [total])]
  })
  // One piece is made while the one before it is added.
  assert.ok(withoutPauses(scheduleBarriers(pieces.flat(), [total])).bytes < 3 * 4 * (1 << 16))
})
