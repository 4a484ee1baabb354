// Products with few rows.
import type { Matmul, Matrix } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import type { Kernel, Target, TypeOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { type Factor, bindOperands, converted, plus, stridesOf, times, typeNames } from './operands.ts'
import { fetchFunctions } from './tile.ts'
import { lines, range } from '../wgsl.ts'

/** The most rows of a for which this form is faster. */
export const mostVectors = 4

/** Invocations in a workgroup. */
const size = 256

/** Steps by which the loop over k is unrolled. */
const unroll = 4

/**
 * A product with few rows, in float32. Its time is that of reading b, once and 16 bytes at a time. Each team of invocations
 * computes some columns, and its members share k. Where columns lie along k, a team has up to four and reads them one after
 * the other; otherwise it has four neighbouring ones. The members' sums are added in order. c and the addend may be
 * transposed.
 */
export function vectorKernel(
  work: Matmul,
  typeOf: TypeOf,
  target: Target,
): { kernel: Kernel; bindings: Bindings; workgroups: number } {
  const { batch, m, n, k, c: matrixC, addend: matrixAddend } = work
  const bindings = new Bindings(typeOf)
  const { a, b, c, addend } = bindOperands(work, bindings, { singleC: true })
  const { isAlongK } = b
  // With few columns in all, a workgroup has fewer, so that there are more workgroups.
  const isWide = batch * n >= 2 ** 13
  const teams = isAlongK || isWide ? 8 : 4
  const members = size / teams
  const columnsEach = isAlongK && !isWide ? 1 : 4
  const columns = teams * columnsEach
  const blocks = Math.ceil(n / columns)
  const workgroups = batch * blocks

  const sum = (row: number, column: number) => `sum${row}_${column}`
  // A sum for each row and column, or a vector for each row and four columns.
  const sumsEach = isAlongK ? columnsEach : 1
  const type = isAlongK ? 'f32' : 'vec4f'
  const multiply = (how: 'whole' | 'tail') => {
    const end = how === 'tail' ? `, ${k}u` : ''
    if (!isAlongK)
      return `let b0 = b_${how}(start_b0, column, k${end});
    ${lines(m, row => `${sum(row, 0)} = fma(vec4f(element_a(batch, ${row}u, k)), b0, ${sum(row, 0)});`)}`
    const quadA = (row: number) =>
      a.isAlongK
        ? `a_${how}(start_a${row}, ${row}u, k${end})`
        : `vec4f(${range(4)
            .map(i => `element_a(batch, ${row}u, k + ${i}u)`)
            .join(', ')})`
    return `${lines(m, row => `let a${row} = ${quadA(row)};`)}
    ${lines(
      columnsEach,
      i => `let b${i} = b_${how}(start_b${i}, column + ${i}u, k${end});
    ${lines(m, row => `${sum(row, i)} += dot(a${row}, b${i});`)}`,
    )}`
  }
  const stepDepth = isAlongK ? members * 4 : members
  const wholeSteps = Math.floor(k / stepDepth)
  // Steps are unrolled, so that many reads are in flight.
  const unrolled = wholeSteps - (wholeSteps % unroll)
  const oneStep = (step: string) => `{
    let k = ${step} * ${stepDepth}u + ${first};
    ${multiply('whole')}
    }`
  const first = isAlongK ? 'member * 4u' : 'member'
  const tail =
    k % stepDepth === 0
      ? ''
      : `
  {
    let k = ${wholeSteps * stepDepth}u + ${first};
    if (k < ${k}u) {
      ${multiply('tail')}
    }
  }`
  const placeOf = (matrix: Matrix, row: number) => {
    const [rowStride, columnStride] = stridesOf(matrix)
    return plus(
      `${matrix.offset}u`,
      times('batch', batch > 1 ? matrix.batchStride : 0),
      times(`${row}u`, m > 1 ? rowStride : 0),
      times('made', n > 1 ? columnStride : 0),
    )
  }
  const finish = (row: number) => {
    const added =
      addend && matrixAddend ? `total += f32(${addend.array}[${placeOf(matrixAddend, row)}]);` : ''
    return `{
      let own = ${row * sumsEach * size}u + ${times(`thread % ${columnsEach}u`, isAlongK ? size : 0)} + thread / ${columnsEach}u;
      var total = 0.0;
      for (var i = 0u; i < ${members}u; i++) { total += sums[own + i * ${teams}u]${isAlongK ? '' : '[thread % 4u]'}; }
      ${added}
      ${c.array}[${placeOf(matrixC, row)}] = ${converted('total', c.type)};
    }`
  }
  const body = `
  let batch = group / ${blocks}u;
  let team = thread ${isAlongK ? `/ ${members}u` : `% ${teams}u`};
  let member = thread ${isAlongK ? `% ${members}u` : `/ ${teams}u`};
  let first = group % ${blocks}u * ${columns}u;
  let column = first + team * ${columnsEach}u;
  ${a.isAlongK ? lines(m, row => `let start_a${row} = a_start(batch, ${row}u);`) : ''}
  ${lines(sumsEach, i => `let start_b${i} = b_start(batch, column + ${i}u);`)}
  ${lines(m, row => lines(sumsEach, i => `var ${sum(row, i)} = ${type}();`))}
  for (var step = 0u; step < ${unrolled}u; step += ${unroll}u) {
    ${lines(unroll, i => oneStep(`(step + ${i}u)`))}
  }
  ${lines(wholeSteps - unrolled, i => oneStep(`${unrolled + i}u`))}
  ${tail}
  let place = member * ${teams}u + team;
  ${lines(m, row => lines(sumsEach, i => `sums[${(row * sumsEach + i) * size}u + place] = ${sum(row, i)};`))}
  workgroupBarrier();
  let made = first + thread;
  if (thread < ${columns}u && made < ${n}u) {
    ${lines(m, finish)}
  }`
  const declarations = `
var<workgroup> sums: array<${type}, ${m * sumsEach * size}>;
${elementFunction(a)}
${a.isAlongK ? fetchFunctions(a, m, 'f32') : ''}
${fetchFunctions(b, columns, 'f32')}`
  const name = `matmul ${batch > 1 ? `${batch}×` : ''}${m}×${n}×${k} ${typeNames(work, typeOf)} by columns`
  return {
    kernel: { name, code: shader({ bindings, target, size, workgroups, declarations, body }) },
    bindings,
    workgroups,
  }
}

/** WGSL for a function that reads an element of a, or returns zero beyond k. */
function elementFunction({ matrix, array, lanes, depth, isAlongK, lineStride, batchStride }: Factor): string {
  const [row, step] = isAlongK ? [lineStride, 1] : [1, lineStride]
  const at = plus(`${matrix.offset}u`, times('batch', batchStride), times('row', row), times('k', step))
  return `fn element_a(batch: u32, row: u32, k: u32) -> f32 {
  if (k >= ${depth}u) { return 0.0; }
  let at = ${at};
  return f32(${array}[${lanes === 1 ? 'at' : `at / ${lanes}u`}]${lanes === 1 ? '' : `[at % ${lanes}u]`});
}`
}
