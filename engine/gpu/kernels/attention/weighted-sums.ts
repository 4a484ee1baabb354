// The kernel of attention that sums rows weighted by probabilities, or by gradients of scores.
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
  nameOf,
  scaled,
  slopeOf,
  split,
} from './common.ts'
import type { Form, Sum } from './form.ts'
import { type Matrices, operandsOf } from './operand.ts'

/** A sum that a kernel computes for rows of queries or keys: weights · values. */
export interface SumOf {
  /** The probabilities of the softmax, or the gradients of the scores. */
  readonly weights: 'probability' | 'scoreGradient'
  readonly values: 'query' | 'key' | 'value' | 'outGradient'
  readonly out: View
  readonly factor: number
}

/**
 * Sums over the keys up to each query, or over the queries from each key on. The weights are probabilities, exp2(score -
 * logSumExp), or gradients of scores, probability * (outGradient · value - dot), where dot is the query's
 * out · outGradient.
 * statistics: logSumExp [batch, heads, length], or [batch, heads, length, 2] with dot beside it. Scores and logSumExp
 * count in powers of two.
 * slopeGradient: receives each tile's share of it, [batch, heads, tiles], the sum of gradients of scores times j - i.
 */
export function sumsCall(
  given: Heads,
  {
    rows,
    statistics,
    outGradient,
    sums,
    slopeGradient,
  }: {
    rows: 'queries' | 'keys'
    statistics: { view: View; isOfBackward: boolean }
    outGradient?: View
    sums: readonly SumOf[]
    slopeGradient?: View
  },
  typeOf: TypeOf,
  target: Target,
): Call {
  const { batch, heads, length, keyDim, valueDim } = given
  const isOfQueries = rows === 'queries'
  const matrices: Record<string, Omit<Matrices, 'name'>> = {
    query: { view: given.query, width: keyDim },
    key: { view: given.key, width: keyDim },
    value: { view: given.value, width: valueDim },
    ...(outGradient && { outGradient: { view: outGradient, width: valueDim } }),
  }
  const hasGradients = sums.some(({ weights }) => weights === 'scoreGradient')
  const used = new Set(['query', 'key', ...(hasGradients ? ['value', 'outGradient'] : [])])
  for (const { values } of sums) used.add(values)
  const form = formOf(
    length,
    target,
    sums.map(({ values }) => matrices[values].width),
  )
  const bindings = new Bindings(typeOf)
  const operands = operandsOf(
    Object.fromEntries([
      ...Object.entries(matrices).filter(([name]) => used.has(name)),
      ...sums.map(({ out, values }, i) => [
        `sum${i}`,
        { view: out, width: matrices[values].width, isWritten: true },
      ]),
    ]),
    { bindings, length, rows: form.rows, loads: form.loads },
  )
  const tiles = Math.ceil(length / form.rows)
  const parts = Math.ceil(operands.sum0.width / form.chunks[0])
  const workgroups = batch * heads * tiles * parts
  const { ownRows, vectors, columnStep } = form
  const all: Sum[] = sums.map(({ weights, values, factor }, i) => ({
    name: `sum${i}_`,
    weights,
    values: operands[values],
    out: operands[`sum${i}`],
    factor,
    chunk: form.chunks[i],
  }))
  const { query, key, value } = operands
  const inputs = bindings.name(statistics.view.buffer, { lanes: statistics.isOfBackward ? 2 : 1 })
  // The logSumExp of rows past the last is so large that their probabilities are zero.
  const statisticsAt = (row: string) => {
    const isWhole = length % form.rows === 0
    const at = `(sequence * ${heads} + head) * ${length} + ${isWhole ? row : `min(${row}, ${length - 1})`}`
    const pair = statistics.isOfBackward
      ? `${inputs}[${at}]`
      : `vec2f(${inputs}[${statistics.view.offset} + ${at}], 0)`
    return isWhole ? pair : `statisticsOf(${row} < ${length}, ${pair})`
  }
  const ofVector = (v: number, component: 'x' | 'y') => {
    const { row, column } = vectors[v]
    if (isOfQueries) return `statistics${row}.${component}`
    const elements = [0, 1, 2, 3].map(
      e => `columnStatistics[${column}${e ? ` + ${e * columnStep}` : ''}].${component}`,
    )
    return `vec4f(${elements.join(', ')})`
  }
  const products = isOfQueries
    ? form.product('probability', query, key)
    : form.product('probability', key, query)
  const gradients = isOfQueries
    ? () => form.product('scoreGradient', operands.outGradient, value)
    : () => form.product('scoreGradient', value, operands.outGradient)
  const body = `
  ${form.prologue}
  ${split('group', [
    ['chunk', parts],
    ['order', tiles],
    ['head', heads],
    ['sequence', batch],
  ])}
  // The longest rows first.
  let rowStart = ${isOfQueries ? `(${tiles - 1} - order)` : 'order'} * ${form.rows};
  ${Object.values(operands)
    .map(operand => operand.locate('sequence', 'head'))
    .join('\n  ')}
  ${slopeOf(given, bindings)}
  ${isOfQueries ? lines(ownRows.length, row => `let statistics${row} = ${statisticsAt(`(rowStart + ${ownRows[row]})`)};`) : ''}
  ${all.map(sum => form.begin(sum)).join('\n  ')}
  ${slopeGradient ? 'var slopeGradient = 0f;' : ''}
  for (var columnStart = ${isOfQueries ? '0u' : 'rowStart'}; columnStart < ${
    isOfQueries ? `min(rowStart + ${form.rows}, ${length})` : `${length}`
  }; columnStart += ${form.columns}) {
    ${
      isOfQueries
        ? ''
        : `for (var i = thread; i < ${form.columns}; i += ${form.size}) {
      columnStatistics[i] = ${statisticsAt('(columnStart + i)')};
    }`
    }
    ${products}
    ${distances(form, isOfQueries)}
    ${lines(vectors.length, v => {
      // The same score as in logSumExpCall. A compiler may still round a large one differently here, so that it would exceed
      // its logSumExp. NaN stays NaN.
      return `
    let exponent${v} = ${scaled(`probability${v}`, v, given)} - ${ofVector(v, 'x')};
    let over${v} = exponent${v} > vec4f();
    probability${v} = select(vec4f(), exp2(select(exponent${v}, vec4f(), over${v})), distance${v} <= vec4f());`
    })}
    ${
      hasGradients
        ? `${gradients()}
    ${lines(vectors.length, v => `scoreGradient${v} = probability${v} * (scoreGradient${v} - ${ofVector(v, 'y')});`)}
    ${slopeGradient ? lines(vectors.length, v => `slopeGradient += dot(scoreGradient${v}, distance${v});`) : ''}`
        : ''
    }
    ${all.map(sum => form.accumulate(sum)).join('\n    ')}
  }
  ${all.map(sum => form.finish(sum)).join('\n  ')}
  ${slopeGradient ? sumOfWorkgroup(form, tiles, heads, bindings, slopeGradient) : ''}`
  const what = [rows, ...sums.map(({ weights, values }) => `${weights}·${values}`)].join(' ')
  const declarations = `
${isOfQueries ? '' : `var<workgroup> columnStatistics: array<vec2f, ${form.columns}>;`}
fn statisticsOf(isThere: bool, pair: vec2f) -> vec2f {
  return select(vec2f(1.7e38, 0), pair, isThere);
}`
  return finished(nameOf(what, given, form), body, Object.values(operands), form, {
    bindings,
    target,
    workgroups,
    declarations,
  })
}

/** Stores the workgroup's sum of slopeGradient, added in the order of the invocations. */
function sumOfWorkgroup(form: Form, tiles: number, heads: number, bindings: Bindings, out: View): string {
  const results = bindings.name(out.buffer, { writes: true })
  return `
  workgroupBarrier();
  ${form.put('thread', 'slopeGradient', '0')}
  workgroupBarrier();
  if (thread == 0 && chunk == 0) {
    var sum = 0f;
    for (var i = 0u; i < ${form.size}; i++) {
      sum += ${form.get('i')}.x;
    }
    ${results}[${out.offset} + (sequence * ${heads} + head) * ${tiles} + order] = sum;
  }`
}
