/** Schedules: the order of a program's instructions, its copies, and which results reuse memory. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { makeProgram } from '../../engine/compiler/make-program.ts'
import { withoutPauses } from '../../engine/compiler/pauses.ts'
import type { Buffer, Instruction, Program } from '../../engine/compiler/program.ts'
import { type Tensor, type Variable, concat, full, variable } from '../../engine/index.ts'
import { input } from '../support/graph.ts'

type Assigned = readonly (readonly [Variable, Tensor])[]

function programOf(outputs: Tensor[], assigned: Assigned, ...inputs: Tensor[]): Program {
  const { program, variables } = withoutPauses(makeProgram(outputs, new Map(assigned), inputs))
  assert.deepEqual(
    program.variables.map(buffer => buffer.variable),
    variables,
  )
  checkOrder(program)
  return program
}

/** Every buffer has to be written before it is read, and no memory may be overwritten that is read later. */
function checkOrder({ instructions, inputs, variables }: Program): void {
  const holds = new Map<Buffer, Buffer>([...inputs, ...variables].map(buffer => [buffer, buffer]))
  for (const { reads, writes } of instructions) {
    for (const buffer of reads)
      assert.equal(holds.get(buffer.allocation), buffer, 'the memory holds another result')
    for (const buffer of writes) holds.set(buffer.allocation, buffer)
  }
}

const bufferOf = ({ variables }: Program, of: Variable) => variables.find(buffer => buffer.variable === of)
const kindsOf = ({ instructions }: Program) => instructions.map(({ work }) => work.kind)
const written = ({ writes }: Instruction) => writes[0].allocation
const parameter = (...shape: number[]) => variable(full(shape, 1))

test('an update of a variable is written over it', () => {
  const weight = parameter(8, 8)
  const gradient = input('gradient', 8, 8)
  const program = programOf([], [[weight, weight.sub(gradient.mul(0.1))]], gradient)
  assert.deepEqual(kindsOf(program), ['rows'])
  assert.equal(written(program.instructions[0]), bufferOf(program, weight))
})

test('variables that change places are both saved before either is assigned', () => {
  const [a, b] = [parameter(8), parameter(8)]
  const program = programOf(
    [],
    [
      [a, b],
      [b, a],
    ],
  )
  assert.equal(program.instructions.length, 4)
  const targets = program.instructions.map(written)
  assert.ok(targets.slice(0, 2).every(buffer => !buffer.variable))
  assert.deepEqual(new Set(targets.slice(2)), new Set([bufferOf(program, a), bufferOf(program, b)]))
})

test('a variable that is read after its new value is computed gets it by a copy, at the end', () => {
  const v = parameter(8, 8)
  const next = v.exp()
  const program = programOf([next.matmul(v)], [[v, next]])
  assert.deepEqual(kindsOf(program), ['rows', 'matmul', 'rows'])
  assert.equal(written(program.instructions[2]), bufferOf(program, v))
})

test('a product that reads a variable does not write over it', () => {
  const v = parameter(8, 8)
  const program = programOf([], [[v, v.matmul(v)]])
  assert.deepEqual(kindsOf(program), ['matmul', 'rows'])
  assert.equal(written(program.instructions[1]), bufferOf(program, v))
})

test('other readers of a variable run before it is written over', () => {
  const v = parameter(8, 8)
  const [x, y] = [input('x', 8, 8), input('y', 8, 8)]
  const program = programOf([x.matmul(v)], [[v, v.add(y)]], x, y)
  assert.deepEqual(kindsOf(program), ['matmul', 'rows'])
  assert.equal(written(program.instructions[1]), bufferOf(program, v))
})

test('the old value of a variable that is returned and assigned is copied first', () => {
  const v = parameter(8)
  const program = programOf([v], [[v, v.add(1)]])
  assert.equal(program.instructions.length, 2)
  assert.equal(written(program.instructions[0]), program.outputs[0].buffer)
  assert.equal(written(program.instructions[1]), bufferOf(program, v))
})

test('a variable that is given a transpose is filled by a copy', () => {
  const v = parameter(8, 4)
  const x = input('x', 4, 8)
  const program = programOf([], [[v, x.T]], x)
  assert.deepEqual(program.instructions.map(written), [bufferOf(program, v)])
})

test('a result takes over the memory of an operand that nothing else reads', () => {
  const [x, w] = [input('x', 8, 8), input('w', 8, 8)]
  const program = programOf([x.matmul(w).exp().matmul(w)], [], x, w)
  const [product, exp] = program.instructions
  assert.deepEqual(kindsOf(program), ['matmul', 'rows', 'matmul'])
  assert.equal(exp.writes[0].aliasOf, product.writes[0])
})

test('a result leaves alone an operand that is read elsewhere, an input and an output', () => {
  const [x, w] = [input('x', 8, 8), input('w', 8, 8)]
  const product = x.matmul(w)
  const exp = product.exp().matmul(w)
  const programs = [
    programOf([exp, w.matmul(product)], [], x, w),
    programOf([exp, product], [], x, w),
    programOf([x.exp().matmul(w)], [], x, w),
  ]
  for (const { instructions } of programs)
    for (const { writes } of instructions) assert.ok(writes.every(({ aliasOf }) => !aliasOf))
})

test('a product that is added to a temporary sums in its memory', () => {
  const [x, w] = [input('x', 8, 8), input('w', 8, 8)]
  const program = programOf([x.matmul(w).add(x.matmul(x)).exp()], [], x, w)
  const [first, second] = program.instructions
  assert.deepEqual(kindsOf(program), ['matmul', 'matmul', 'rows'])
  assert.ok(second.work.kind === 'matmul' && second.work.addend?.buffer === first.writes[0])
  assert.equal(second.writes[0].allocation, first.writes[0])
})

test('an output is contiguous, and not a view of what it comes from', () => {
  const x = input('x', 4, 8)
  const { instructions, outputs, inputs } = programOf([x.T, x.reshape(32)], [], x)
  assert.deepEqual(outputs[0].strides, [4, 1])
  assert.equal(instructions.length, 1)
  assert.equal(instructions[0].writes[0], outputs[0].buffer)
  assert.equal(outputs[1].buffer, inputs[0])
})

test('the parts of a concat are computed in its memory', () => {
  const [x, w] = [input('x', 8, 8), input('w', 8, 4)]
  const program = programOf([concat([x.exp(), x.matmul(w)])], [], x, w)
  const { outputs, instructions } = program
  assert.deepEqual(kindsOf(program).sort(), ['matmul', 'rows'])
  assert.ok(instructions.every(({ writes }) => writes[0] === outputs[0].buffer))
})

test('an input of another function is named', () => {
  const [x, other] = [input('x', 4), input('other', 4)]
  assert.throws(() => programOf([x.add(other)], [], x), /input 'other' of another function/)
})
