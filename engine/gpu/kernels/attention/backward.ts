// The small kernels of attention's backward pass: statistics of queries, and the slopes' gradients.
import type { View } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import type { Target, TypeOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { type Call, type Heads, nameOf, split } from './common.ts'
import { type Operand, operandsOf } from './operand.ts'

/**
 * Each query's statistics for the backward pass, [batch, heads, length, 2]: logSumExp and out · outGradient. 16
 * invocations share a row, so that they read neighbouring quads.
 */
export function statisticsCall(
  given: Heads,
  {
    out,
    logSumExp,
    outGradient,
    statistics,
  }: { out: View; logSumExp: View; outGradient: View; statistics: View },
  typeOf: TypeOf,
  target: Target,
): Call {
  const { batch, heads, length, valueDim } = given
  const [size, sharers] = [Math.min(256, target.workgroupSize), 16]
  const rows = size / sharers
  const total = batch * heads * length
  const workgroups = Math.ceil(total / rows)
  const bindings = new Bindings(typeOf)
  const operands = operandsOf(
    { out: { view: out, width: valueDim }, outGradient: { view: outGradient, width: valueDim } },
    { bindings, length, rows: 1, loads: 'f32' },
  )
  const quads = Math.ceil(valueDim / 4)
  const load = (operand: Operand) => operand.load('row', 'quad', quads * 4)
  const results = bindings.name(statistics.buffer, { writes: true, lanes: 2 })
  const sums = bindings.name(logSumExp.buffer)
  const body = `
  let share = thread % ${sharers};
  let index = group * ${rows} + thread / ${sharers};
  var sum = 0f;
  if (index < ${total}) {
    ${split('index', [
      ['row', length],
      ['head', heads],
      ['sequence', batch],
    ])}
    ${operands.out.locate('sequence', 'head')}
    ${operands.outGradient.locate('sequence', 'head')}
    for (var quad = share; quad < ${quads}; quad += ${sharers}) {
      sum += dot(${load(operands.out)}, ${load(operands.outGradient)});
    }
  }
  shares[thread] = sum;
  workgroupBarrier();
  if (share == 0 && index < ${total}) {
    for (var i = 1u; i < ${sharers}; i++) {
      sum += shares[thread + i];
    }
    ${results}[index] = vec2f(${sums}[${logSumExp.offset} + index], sum);
  }`
  const declarations = `var<workgroup> shares: array<f32, ${size}>;
${operands.out.declarations}
${operands.outGradient.declarations}`
  const code = shader({ bindings, target, size, workgroups, declarations, body })
  return { kernel: { name: nameOf('statistics', given), code }, bindings, workgroups }
}

/** Sums the tiles' shares of the slopes' gradients, [batch, heads, tiles], in order. */
export function slopeGradientCall(
  given: Heads,
  { parts, tiles, out }: { parts: View; tiles: number; out: View },
  typeOf: TypeOf,
  target: Target,
): Call {
  const size = 64
  const total = given.batch * given.heads
  const workgroups = Math.ceil(total / size)
  const bindings = new Bindings(typeOf)
  const [from, to] = [bindings.name(parts.buffer), bindings.name(out.buffer, { writes: true })]
  const body = `
  let index = group * ${size} + thread;
  if (index >= ${total}) { return; }
  var sum = 0f;
  for (var i = 0u; i < ${tiles}; i++) {
    sum += ${from}[index * ${tiles} + i];
  }
  ${to}[${out.offset} + index] = sum;`
  return {
    kernel: {
      name: nameOf('slope gradient', given),
      code: shader({ bindings, target, size, workgroups, body }),
    },
    bindings,
    workgroups,
  }
}
