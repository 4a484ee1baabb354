// The first kernel of attention: each query's logSumExp.
import type { View } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import type { Target, TypeOf } from '../kernel.ts'
import { lines } from '../wgsl.ts'
import {
  type Call,
  type Heads,
  distances,
  finished,
  formOf,
  masked,
  nameOf,
  scaled,
  slopeOf,
  split,
} from './common.ts'
import { operandsOf } from './operand.ts'

/**
 * Each query's logSumExp [batch, heads, length]: the logarithm to base 2 of the sum of its scores' exponentials. A
 * workgroup goes through the keys up to its tile of queries. Each invocation sums its elements of a row. At the end these
 * sums are combined in the order of the invocations.
 */
export function logSumExpCall(given: Heads, out: View, typeOf: TypeOf, target: Target): Call {
  const { batch, heads, length } = given
  const form = formOf(length, target, [])
  const bindings = new Bindings(typeOf)
  const place = { bindings, length, rows: form.rows, loads: form.loads }
  const { query, key } = operandsOf(
    {
      query: { view: given.query, width: given.keyDim },
      key: { view: given.key, width: given.keyDim },
    },
    place,
  )
  const tiles = Math.ceil(length / form.rows)
  const workgroups = batch * heads * tiles
  const { ownRows, vectors, sharers } = form
  const inRow = (row: number) => vectors.flatMap((vector, v) => (vector.row === row ? [v] : []))
  const results = bindings.name(out.buffer, { writes: true })
  const body = `
  ${form.prologue}
  ${split('group', [
    ['order', tiles],
    ['head', heads],
    ['sequence', batch],
  ])}
  // The longest rows first.
  let rowStart = (${tiles - 1} - order) * ${form.rows};
  ${query.locate('sequence', 'head')}
  ${key.locate('sequence', 'head')}
  ${slopeOf(given, bindings)}
  ${lines(ownRows.length, row => `var top${row} = f32(${masked}); var sum${row} = 0f;`)}
  for (var columnStart = 0u; columnStart < min(rowStart + ${form.rows}, ${length}); columnStart += ${form.columns}) {
    ${form.product('score', query, key)}
    ${distances(form, true)}
    ${lines(vectors.length, v => {
      return `score${v} = select(vec4f(${masked}), ${scaled(`score${v}`, v, given)}, distance${v} <= vec4f());`
    })}
    ${lines(ownRows.length, row => {
      const largest = inRow(row)
        .map(v => `score${v}`)
        .reduce((a, b) => `max(${a}, ${b})`)
      const terms = inRow(row).map(v => `exp2(score${v} - after${row})`)
      return `
    let four${row} = ${largest};
    let after${row} = max(top${row}, max(max(four${row}.x, four${row}.y), max(four${row}.z, four${row}.w)));
    sum${row} = sum${row} * exp2(top${row} - after${row}) + dot(${terms.join(' + ')}, vec4f(1));
    top${row} = after${row};`
    })}
  }
  workgroupBarrier();
  ${lines(ownRows.length, row => form.put(`${ownRows[row]} * ${sharers.count} + ${sharers.index}`, `top${row}`, `sum${row}`))}
  workgroupBarrier();
  for (var row = thread; row < ${form.rows} && rowStart + row < ${length}; row += ${form.size}) {
    var top = f32(${masked});
    for (var i = 0u; i < ${sharers.count}; i++) {
      top = max(top, ${form.get(`row * ${sharers.count} + i`)}.x);
    }
    var sum = 0f;
    for (var i = 0u; i < ${sharers.count}; i++) {
      let part = ${form.get(`row * ${sharers.count} + i`)};
      sum += part.y * exp2(part.x - top);
    }
    ${results}[${out.offset} + (sequence * ${heads} + head) * ${length} + rowStart + row] = top + log2(sum);
  }`
  return finished(nameOf('logSumExp', given, form), body, [query, key], form, {
    bindings,
    target,
    workgroups,
  })
}
