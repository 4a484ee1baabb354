// The products of attention in subgroup matrices (tensor cores).
import { type Form, type FormOptions, type Sum, chunkOf, coveredBy, float, roundUp, sliceOf } from './form.ts'
import type { Operand } from './operand.ts'
import type { Target } from '../kernel.ts'
import { lines } from '../wgsl.ts'

/**
 * Products in subgroup matrices of f16 with sums in float32. A grid of subgroups shares a tile of scores, and each part of
 * a sum of that width. Matrices are loaded from workgroup memory, which holds rows as the views do, padded by 16 bytes so
 * that eight of them start in different banks. Scores pass through workgroup memory too, since an invocation cannot tell
 * which elements of a subgroup matrix it has. With four invocations to a row, each at every fourth column, and rows padded
 * by 4 floats, no two of 32 neighbours access the same bank.
 */
export function matrixForm({ rows, columns, widths, bytes, target }: FormOptions): Form | undefined {
  const grid = gridOf(rows, columns, target)
  if (!grid) return undefined
  const { m, n, k, down, across, size, isFixed } = grid
  const [rowBlocks, columnBlocks] = [rows / down / m, columns / across / n]
  const sharers = size / rows
  const count = columns / sharers / 4
  const most = Math.floor((48 * size) / rows / columns) * columns
  const chunks = widths.map(width => chunkOf(width, most, columns))
  const scoreStride = columns + 4
  const weightStride = columns + padding
  const left = bytes - rows * scoreStride * 4 - rows * weightStride * 2
  const valueStride = Math.max(0, ...chunks) + padding
  const valueStep = [columns, 32, 16].find(
    step => step <= columns && step % k === 0 && step * valueStride * 2 <= left,
  )
  const depthStep = [64, 32, 16].find(
    step => step % k === 0 && (rows + columns) * (step + padding) * 2 <= left,
  )
  if (!Number.isInteger(count) || !valueStep || !depthStep || most === 0) return undefined
  const staged = Math.max(
    (rows + columns) * (depthStep + padding),
    widths.length > 0 ? valueStep * valueStride : 0,
  )

  const types = {
    left: `subgroup_matrix_left<f16, ${k}, ${m}>`,
    right: `subgroup_matrix_right<f16, ${n}, ${k}>`,
    result: `subgroup_matrix_result<f32, ${n}, ${m}>`,
  }
  /** Code for the subgroups of the grid. Surplus ones wait. */
  const inGrid = (code: string) => (isFixed ? code : `if (subgroup < ${down * across}) {\n${code}\n}`)
  const blocks = (text: (row: number, column: number) => string) =>
    lines(rowBlocks, row => lines(columnBlocks, column => text(row, column)))
  const rowOf = (row: number) => `(blockRow + ${row * m})`
  const columnOf = (column: number) => `(blockColumn + ${column * n})`
  /** Writes a quad to workgroup memory. */
  const stage = (at: string, quad: string) => `
      let at = ${at};
      let quad = ${quad};
      ${lines(4, e => `staged[at + ${e}] = quad[${e}];`, ' ')}`
  const store = (name: string) =>
    blocks(
      (row, column) =>
        `subgroupMatrixStore<row_major>(&scores, ${rowOf(row)} * ${scoreStride} + ${columnOf(column)}, ${name}${row}_${column}, ${scoreStride});`,
    )

  const product = (name: string, left: Operand, right: Operand): string => {
    const step = sliceOf(left.width, depthStep, Math.max(k, 4))
    const depth = roundUp(left.width, step)
    const stride = step + padding
    const stageRows = (operand: Operand, start: string, index: string, offset: number) =>
      stage(
        `(${offset} + ${index} / ${step / 4}) * ${stride} + ${index} % ${step / 4} * 4`,
        operand.load(`${start} + ${index} / ${step / 4}`, `depth + ${index} % ${step / 4}`, depth),
      )
    return `
  ${blocks((row, column) => `var ${name}Block${row}_${column} = ${types.result}();`)}
  for (var depth = 0u; depth < ${depth / 4}; depth += ${step / 4}) {
    workgroupBarrier();
    for (var i = thread; i < ${(rows * step) / 4}; i += ${size}) {${stageRows(left, 'rowStart', 'i', 0)}
    }
    for (var i = thread; i < ${(columns * step) / 4}; i += ${size}) {${stageRows(right, 'columnStart', 'i', rows)}
    }
    workgroupBarrier();
    ${inGrid(`for (var k = 0u; k < ${step}; k += ${k}) {
      ${lines(rowBlocks, row => `let left${row} = subgroupMatrixLoad<${types.left}, row_major>(&staged, ${rowOf(row)} * ${stride} + k, ${stride});`)}
      ${lines(columnBlocks, column => `let right${column} = subgroupMatrixLoad<${types.right}, col_major>(&staged, (${rows} + ${columnOf(column)}) * ${stride} + k, ${stride});`)}
      ${blocks((row, column) => `${name}Block${row}_${column} = subgroupMatrixMultiplyAccumulate(left${row}, right${column}, ${name}Block${row}_${column});`)}
    }`)}
  }
  ${inGrid(store(`${name}Block`))}
  workgroupBarrier();
  ${lines(count, v => {
    const elements = [0, 1, 2, 3].map(
      e => `scores[ownRow * ${scoreStride} + ownColumn + ${(4 * v + e) * sharers}]`,
    )
    return `var ${name}${v} = vec4f(${elements.join(', ')});`
  })}`
  }

  const parts = ({ chunk }: Sum) => chunk / columns
  const begin = (sum: Sum): string =>
    lines(parts(sum), part =>
      blocks((row, column) => `var ${sum.name}${part}_${row}_${column} = ${types.result}();`),
    )
  const accumulate = (sum: Sum): string => {
    const { name, weights, values, chunk } = sum
    const quads = chunk / 4
    const stride = chunk + padding
    return `
  workgroupBarrier();
  ${lines(count, v =>
    lines(
      4,
      e =>
        `weights[ownRow * ${weightStride} + ownColumn + ${(4 * v + e) * sharers}] = f16(clamp(${weights}${v}[${e}], -65504, 65504));`,
    ),
  )}
  for (var first = 0u; first < ${columns}; first += ${valueStep}) {
    workgroupBarrier();
    for (var i = thread; i < ${valueStep * quads}; i += ${size}) {${stage(
      `i / ${quads} * ${stride} + i % ${quads} * 4`,
      values.load(`columnStart + first + i / ${quads}`, `chunk * ${quads} + i % ${quads}`, coveredBy(sum)),
    )}
    }
    workgroupBarrier();
    ${inGrid(`for (var k = 0u; k < ${valueStep}; k += ${k}) {
      ${lines(rowBlocks, row => `let left${row} = subgroupMatrixLoad<${types.left}, row_major>(&weights, ${rowOf(row)} * ${weightStride} + first + k, ${weightStride});`)}
      ${lines(parts(sum), part =>
        lines(columnBlocks, column => {
          const right = `right${part}_${column}`
          return `let ${right} = subgroupMatrixLoad<${types.right}, row_major>(&staged, k * ${stride} + ${part * columns} + ${columnOf(column)}, ${stride});
      ${lines(rowBlocks, row => `${name}${part}_${row}_${column} = subgroupMatrixMultiplyAccumulate(left${row}, ${right}, ${name}${part}_${row}_${column});`)}`
        }),
      )}
    }`)}
  }`
  }
  const finish = (sum: Sum): string =>
    lines(
      parts(sum),
      part => `
  workgroupBarrier();
  ${inGrid(store(`${sum.name}${part}_`))}
  workgroupBarrier();
  for (var i = thread; i < ${(rows * columns) / 4}; i += ${size}) {
    let row = i / ${columns / 4};
    let quad = i % ${columns / 4};
    let at = row * ${scoreStride} + quad * 4;
    let value = vec4f(scores[at], scores[at + 1], scores[at + 2], scores[at + 3]);
    ${sum.out.store('rowStart + row', `chunk * ${sum.chunk / 4} + ${(part * columns) / 4} + quad`, `${float(sum.factor)} * value`, coveredBy(sum))}
  }`,
    )
  return {
    name: `${rows}x${columns} f16`,
    rows,
    columns,
    size,
    most,
    chunks,
    loads: 'f16',
    ownRows: ['ownRow'],
    vectors: Array.from({ length: count }, (_, v) => ({
      row: 0,
      column: `(ownColumn + ${4 * v * sharers})`,
    })),
    columnStep: sharers,
    sharers: { count: sharers, index: 'ownColumn' },
    declarations: `
var<workgroup> scores: array<f32, ${rows * scoreStride}>;
var<workgroup> weights: array<f16, ${rows * weightStride}>;
var<workgroup> staged: array<f16, ${staged}>;`,
    prologue: `
  let ownRow = thread / ${sharers};
  let ownColumn = thread % ${sharers};
  let blockRow = subgroup / ${across} * ${rows / down};
  let blockColumn = subgroup % ${across} * ${columns / across};`,
    product,
    begin,
    accumulate,
    finish,
    put: (index, first, second) =>
      `scores[2 * (${index})] = ${first}; scores[2 * (${index}) + 1] = ${second};`,
    get: index => `vec2f(scores[2 * (${index})], scores[2 * (${index}) + 1])`,
  }
}

/** Padding of rows in workgroup memory, in elements of f16. */
const padding = 8

/**
 * The grid of subgroups that share a tile, of up to 256 invocations. Undefined if the target has no subgroup matrices, or
 * none that fit. If the driver makes subgroups narrower than the largest, there are more of them than the grid has.
 */
function gridOf(rows: number, columns: number, { subgroups, subgroupMatrix, workgroupSize }: Target) {
  if (!subgroups || !subgroupMatrix) return undefined
  const { m, n, k } = subgroupMatrix
  const { smallest, largest } = subgroups
  const grids = [
    [4, 8],
    [4, 4],
    [2, 4],
    [4, 2],
    [2, 2],
    [4, 1],
    [1, 4],
    [2, 1],
    [1, 2],
    [1, 1],
  ]
  const found = grids.find(([down, across]) => {
    const size = down * across * largest
    return (
      size <= Math.min(256, workgroupSize) &&
      rows % (down * m) === 0 &&
      columns % (across * n) === 0 &&
      size % rows === 0 &&
      rows * columns <= 16 * size &&
      columns % k === 0
    )
  })
  if (!found) return undefined
  const [down, across] = found
  return { m, n, k, down, across, size: down * across * largest, isFixed: smallest === largest }
}
