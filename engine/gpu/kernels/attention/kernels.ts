import type { View } from '../../../compiler/program.ts'
import { type Form, type Sum, ampleBytes, float } from './form.ts'
import { fmaForm } from './scalar.ts'
import { matrixForm } from './subgroup-matrix.ts'
import { type Matrices, type Operand, operandsOf } from './operand.ts'
import { Bindings } from '../bindings.ts'
import type { Kernel, Target, TypeOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { lines } from '../wgsl.ts'

/** What the kernels of one attention have in common. */
export interface Heads {
  readonly batch: number
  readonly heads: number
  readonly length: number
  readonly scale: number
  readonly query: View
  readonly key: View
  readonly value: View
  readonly keyDim: number
  readonly valueDim: number
  /** The position bias, one a head. */
  readonly slope: View | undefined
}

/** A kernel with its buffers and the number of its workgroups. */
export interface Call {
  readonly kernel: Kernel
  readonly bindings: Bindings
  readonly workgroups: number
}

/** What a kernel sums for rows of queries or keys: weights · values. */
export interface SumOf {
  /** Of the softmax, or of the gradients of the scores. */
  readonly weights: 'probability' | 'scoreGradient'
  readonly values: 'query' | 'key' | 'value' | 'outGradient'
  readonly out: View
  readonly factor: number
}

/** Scores are kept as powers of two, for which GPUs have an instruction. */
const log2e = Math.LOG2E

/** Below any score but the lowest of float32; from this any score can be subtracted without an overflow. */
const masked = '-1.7e38'

/** The form of products for sums of these widths: the largest tiles that fit the GPU and the sequence. */
function formOf(length: number, target: Target, widths: readonly number[]): Form {
  // Statistics of columns want some, too.
  const bytes = Math.min(target.workgroupBytes, ampleBytes) - 1024
  const tiles = [
    { rows: 64, columns: 64 },
    { rows: 64, columns: 32 },
    { rows: 32, columns: 32 },
    { rows: 16, columns: 16 },
  ].filter(({ rows }) => rows <= 16 || length > rows / 2)
  const forms = [matrixForm, fmaForm].flatMap(make =>
    tiles.map(tile => make({ ...tile, widths, bytes, target })),
  )
  const form = forms.find(form => form !== undefined)
  if (!form) throw new Error('the GPU has too little workgroup memory for attention')
  return form
}

/** Whether one workgroup can make these sums together: all of each, in its registers. */
export function fitTogether(length: number, target: Target, widths: readonly number[]): boolean {
  const { chunks, most } = formOf(length, target, widths)
  return chunks.every((chunk, i) => chunk >= widths[i]) && chunks.reduce((a, b) => a + b, 0) <= most
}

/** The rows of tiles for which a query kernel sums. */
export const queryTiles = (length: number, target: Target, widths: readonly number[]): number =>
  Math.ceil(length / formOf(length, target, widths).rows)

/**
 * What is left of `index` after the number of each part has been taken off, the fastest first, as statements.
 */
function split(index: string, parts: readonly (readonly [name: string, count: number])[]): string {
  let divisor = 1
  return parts
    .map(([name, count], i) => {
      const quotient = divisor === 1 ? index : `${index} / ${divisor}`
      divisor *= count
      const isLast = i === parts.length - 1
      return count === 1 ? `let ${name} = 0u;` : `let ${name} = ${quotient}${isLast ? '' : ` % ${count}`};`
    })
    .join('\n  ')
}

/** The distance j - i of a vector's elements, from queries i to keys j, as a vec4f named distance0, ... */
function distances(form: Form, isOfQueries: boolean): string {
  const { vectors, ownRows, columnStep } = form
  const steps = `vec4f(0, ${columnStep}, ${2 * columnStep}, ${3 * columnStep})`
  return lines(vectors.length, v => {
    const { row, column } = vectors[v]
    const [rowIndex, columnIndex] = [`i32(rowStart + ${ownRows[row]})`, `i32(columnStart + ${column})`]
    return isOfQueries
      ? `let distance${v} = f32(${columnIndex} - ${rowIndex}) + ${steps};`
      : `let distance${v} = f32(${rowIndex} - ${columnIndex}) - ${steps};`
  })
}

/** The scores of a vector of products, as powers of two. The fma is for all kernels to round them alike. */
const scaled = (product: string, vector: number, { scale, slope }: Heads): string => {
  const score = `${product} * ${float(scale * log2e)}`
  return slope ? `fma(vec4f(slope), distance${vector}, ${score})` : score
}

/** The slope of a head, as a power of two. */
const slopeOf = (heads: Heads, bindings: Bindings): string =>
  heads.slope
    ? `let slope = ${bindings.name(heads.slope.buffer)}[${heads.slope.offset} + head] * ${log2e};`
    : ''

/**
 * The logarithm to base 2 of the sum of each query's exponentials of scores, logSumExp [batch, heads, length]. A
 * workgroup has a tile of queries and goes through the keys up to them. Each invocation sums up what it has
 * of a row by itself; only in the end are these put together, in the order of the invocations.
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

/**
 * Sums over the keys up to each query, or over the queries from each key on: of probabilities, exp2(score -
 * logSumExp), or of gradients of scores, probability * (outGradient · value - dot), where dot is the query's
 * out · outGradient.
 * statistics: logSumExp [batch, heads, length], or [batch, heads, length, 2] with dot beside it. Scores and logSumExp
 * count in powers of two.
 * slopeGradient: where each tile's share of it goes, [batch, heads, tiles]: the sum of gradients of scores
 * times j - i.
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
  // Rows past the last have a logSumExp so large that their probabilities are zero.
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
      // The score as in logSumExpCall. A compiler may round it differently here, by much where it is large, so that it
      // would be above its logSumExp. NaN stays NaN.
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

/** The name of a kernel for these shapes. */
function nameOf(what: string, { batch, heads, length, keyDim, valueDim }: Heads, form?: Form): string {
  const shapes = `${batch}×${heads}×${length}×${keyDim}/${valueDim}`
  return ['attention', what, shapes, ...(form ? [`in ${form.name}`] : [])].join(' ')
}

/** Stores the sum over the workgroup of slopeGradient, in the order of the invocations. */
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

function finished(
  name: string,
  body: string,
  operands: readonly Operand[],
  form: Form,
  {
    bindings,
    target,
    workgroups,
    declarations = '',
  }: { bindings: Bindings; target: Target; workgroups: number; declarations?: string },
): Call {
  const code = shader({
    bindings,
    target,
    size: form.size,
    workgroups,
    subgroupMatrix: form.loads === 'f16',
    declarations: `${form.declarations}\n${declarations}\n${operands.map(operand => operand.declarations).join('\n')}`,
    body,
  })
  return { kernel: { name, code }, bindings, workgroups }
}

/**
 * What the backward pass wants to know of each query, [batch, heads, length, 2]: logSumExp, and
 * out · outGradient. 16 invocations go through a row, so that they read quads side by side.
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
