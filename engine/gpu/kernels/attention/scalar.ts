// The products of attention by multiply-add.
import { type Form, type FormOptions, type Sum, chunkOf, coveredBy, float, roundUp, sliceOf } from './form.ts'
import type { Operand } from './operand.ts'
import { lines } from '../wgsl.ts'

/**
 * Products by multiply-add in float32, on any GPU. An invocation has 4 x 4 elements of a tile of scores, and 4 rows by up
 * to 12 columns of a sum. For each step of the depth it loads a quad of each factor from workgroup memory and makes 16
 * products (for a sum, 48 with 4 quads). Both factors lie there with the depth outermost. The rows of the left one and of
 * the weights are padded by a quad, so that writing them transposed takes at most twice the minimum.
 */
export function fmaForm({ rows, columns, widths, bytes, target }: FormOptions): Form | undefined {
  const [rowQuads, columnQuads] = [rows / 4, columns / 4]
  const size = rowQuads * columnQuads
  const [leftStride, rightStride] = [rowQuads + 1, columnQuads + 1]
  const most = 3 * columns
  const chunks = widths.map(width => chunkOf(width, most, columns))
  const chunk = Math.max(columns, ...chunks)
  /** Quads of workgroup memory for the weights and so many rows of values. */
  const withWeights = (step: number) => columns * leftStride + step * (chunk / 4)
  const valueStep = [columns, 32, 16, 8].find(
    step => step <= columns && withWeights(step) * 16 <= Math.min(bytes, 32768),
  )
  const depthStep = [32, 16, 8].find(step => step * (leftStride + rightStride) * 16 <= bytes)
  // put() needs memory, too.
  if (!valueStep || !depthStep || size * 4 * 16 > bytes || size > target.workgroupSize) return undefined
  const quads = Math.max(withWeights(valueStep), depthStep * (leftStride + rightStride), size * 4)

  const element = (vector: string, e: number) => `vec4f(${vector}[${e}])`
  const product = (name: string, left: Operand, right: Operand): string => {
    const step = sliceOf(left.width, depthStep, 4)
    const depth = roundUp(left.width, step)
    const [leftBlocks, rightBlocks] = [rowQuads, columnQuads].map(blocks => (blocks * step) / 4)
    const stage = (operand: Operand, start: string, index: string, stride: number, offset: number) => `
      let block = ${index} / ${step / 4};
      let quad = ${index} % ${step / 4};
      ${lines(4, e => `let row${e} = ${operand.load(`${start} + block * 4 + ${e}`, `depth + quad`, depth)};`)}
      ${lines(
        4,
        e =>
          `tiles[(quad * 4 + ${e}) * ${stride} + ${offset} + block] = vec4f(${lines(4, row => `row${row}[${e}]`, ', ')});`,
      )}`
    return `
  ${lines(4, v => `var ${name}${v} = vec4f();`)}
  for (var depth = 0u; depth < ${depth / 4}; depth += ${step / 4}) {
    workgroupBarrier();
    for (var i = thread; i < ${leftBlocks + rightBlocks}; i += ${size}) {
      if (i < ${leftBlocks}) {
        ${stage(left, 'rowStart', 'i', leftStride, 0)}
      } else {
        ${stage(right, 'columnStart', `(i - ${leftBlocks})`, rightStride, step * leftStride)}
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < ${step}; k++) {
      let a = tiles[k * ${leftStride} + rowQuad];
      let b = tiles[k * ${rightStride} + ${step * leftStride} + columnQuad];
      ${lines(4, v => `${name}${v} = fma(${element('a', v)}, b, ${name}${v});`)}
    }
  }`
  }

  const perRow = ({ chunk }: Sum) => chunk / columns
  const begin = (sum: Sum): string =>
    lines(4, row => lines(perRow(sum), v => `var ${sum.name}${row}_${v} = vec4f();`, ' '))
  const accumulate = (sum: Sum): string => {
    const { name, weights, values } = sum
    const valueQuads = sum.chunk / 4
    const offset = columns * leftStride
    return `
  workgroupBarrier();
  ${lines(
    4,
    e =>
      `tiles[(columnQuad * 4 + ${e}) * ${leftStride} + rowQuad] = vec4f(${lines(4, v => `${weights}${v}[${e}]`, ', ')});`,
  )}
  for (var first = 0u; first < ${columns}; first += ${valueStep}) {
    workgroupBarrier();
    for (var i = thread; i < ${valueStep * valueQuads}; i += ${size}) {
      let row = columnStart + first + i / ${valueQuads};
      tiles[${offset} + i] = ${values.load('row', `chunk * ${valueQuads} + i % ${valueQuads}`, coveredBy(sum))};
    }
    workgroupBarrier();
    for (var k = 0u; k < ${valueStep}; k++) {
      let weights = tiles[(first + k) * ${leftStride} + rowQuad];
      ${lines(perRow(sum), v => `let value${v} = tiles[${offset} + k * ${valueQuads} + ${v * columnQuads} + columnQuad];`)}
      ${lines(4, row =>
        lines(
          perRow(sum),
          v => `${name}${row}_${v} = fma(${element('weights', row)}, value${v}, ${name}${row}_${v});`,
        ),
      )}
    }
  }`
  }
  const finish = (sum: Sum): string =>
    lines(4, row =>
      lines(perRow(sum), v =>
        sum.out.store(
          `rowStart + rowQuad * 4 + ${row}`,
          `chunk * ${sum.chunk / 4} + ${v * columnQuads} + columnQuad`,
          `${float(sum.factor)} * ${sum.name}${row}_${v}`,
          coveredBy(sum),
        ),
      ),
    )
  return {
    name: `${rows}x${columns}`,
    rows,
    columns,
    size,
    most,
    chunks,
    loads: 'f32',
    ownRows: [0, 1, 2, 3].map(e => `(rowQuad * 4 + ${e})`),
    vectors: [0, 1, 2, 3].map(row => ({ row, column: 'columnQuad * 4' })),
    columnStep: 1,
    sharers: { count: columnQuads, index: 'columnQuad' },
    declarations: `var<workgroup> tiles: array<vec4f, ${quads}>;`,
    prologue: `
  let rowQuad = thread / ${columnQuads};
  let columnQuad = thread % ${columnQuads};`,
    product,
    begin,
    accumulate,
    finish,
    put: (index, first, second) => `tiles[${index}] = vec4f(${first}, ${second}, 0, 0);`,
    get: index => `tiles[${index}].xy`,
  }
}
