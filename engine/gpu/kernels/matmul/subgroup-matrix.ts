// Products in subgroup matrices (tensor cores).
import type { Matmul, Matrix } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import type { Kernel, Target, TypeOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { type Factor, bindOperands, converted, plus, storeFunction, times, typeNames } from './operands.ts'
import { type MatmulPlan, matrixPadding, matrixTileElements, subgroupLayout } from './tiling.ts'
import { fetchFunctions, tileGrid } from './tile.ts'
import { lines } from '../wgsl.ts'

/**
 * A product in subgroup matrices: f16 operands, float32 sums. Each subgroup has blockRows x blockColumns blocks of sums in
 * registers. With 64 x 32 elements of c, it makes 21 operations for a byte read from workgroup memory, and a tile of
 * 128 x 128 makes 64 for a byte from the cache. On an H100, whose L2 delivers about 5.5 TB/s, that suffices for
 * 350 TFLOP/s.
 *
 * Workgroup memory holds the operands' lines as they lie, along k or across it; matrices can be loaded from either. Lines
 * are padded by 16 bytes, so that eight of them start in different banks, at multiples of 16 bytes as loads require. The
 * next depth is read into registers before this one is multiplied. If c is float32 and consists of whole blocks, sums start
 * from the addend and are stored directly. Otherwise they pass through workgroup memory, some blocks of each subgroup at a
 * time.
 *
 * Where a driver may choose among several subgroup sizes, the subgroups that it makes share the work. Surplus ones wait,
 * and with too few the kernel goes through the product several times.
 */
export function matricesKernel(
  work: Matmul,
  plan: MatmulPlan,
  typeOf: TypeOf,
  target: Target,
): { kernel: Kernel; bindings: Bindings; workgroups: number } {
  const { tile } = plan
  const shape = target.subgroupMatrix
  const layout = shape && subgroupLayout(tile, shape, target)
  if (!shape || !layout) throw new Error('the target has no subgroup matrices for this tile')
  const { batch, m, n, k, c: matrixC, addend: matrixAddend } = work
  const isDirect =
    m % shape.m === 0 &&
    n % shape.n === 0 &&
    isStorable(matrixC, batch * plan.slices, typeOf) &&
    (!matrixAddend || isStorable(matrixAddend, batch, typeOf))
  const bindings = new Bindings(typeOf)
  const { a, b, c, addend } = bindOperands(work, bindings, { singleC: isDirect })
  const grid = tileGrid(work, plan)
  const { size, down, across, blockRows, blockColumns } = layout
  const count = down * across
  const elements = matrixTileElements(tile, { a: a.isAlongK, b: b.isAlongK })
  const sides = {
    a: new Side(a, tile.rows, tile.depth, size),
    b: new Side(b, tile.columns, tile.depth, size),
  }
  const both = [sides.a, sides.b]

  const fetchAll = (how: 'whole' | 'tail') => both.map(side => side.fetch(how)).join('\n')
  const fetch = grid.hasTail
    ? `if (k_at + ${tile.depth}u <= k_end) { ${fetchAll('whole')} } else { ${fetchAll('tail')} }`
    : fetchAll('whole')
  const keep = (stage: string) =>
    both.map(side => side.keep(plus(times(stage, elements[side.operand.side])))).join('\n')

  const sum = (i: number, j: number) => `sum${i}_${j}`
  const forBlocks = (text: (i: number, j: number) => string) =>
    lines(blockRows, i => lines(blockColumns, j => text(i, j)))
  const left = `subgroup_matrix_left<f16, ${shape.k}, ${shape.m}>`
  const right = `subgroup_matrix_right<f16, ${shape.n}, ${shape.k}>`
  const result = `subgroup_matrix_result<f32, ${shape.n}, ${shape.m}>`
  const multiply = `
    for (var k = 0u; k < ${tile.depth}u; k += ${shape.k}u) {
      ${lines(blockRows, i => `let left${i} = ${sides.a.load(left, `stage * ${elements.a}u`, `own_row + ${i * shape.m}u`)};`)}
      ${lines(
        blockColumns,
        j => `let right${j} = ${sides.b.load(right, `stage * ${elements.b}u`, `own_column + ${j * shape.n}u`)};
      ${lines(blockRows, i => `${sum(i, j)} = subgroupMatrixMultiplyAccumulate(left${i}, right${j}, ${sum(i, j)});`)}`,
      )}
    }`
  /** Code for the subgroups that have work. */
  const ifActive = (text: string) => (layout.isFixed ? text : `if (is_active) { ${text} }`)

  const blockAt = ({ offset, batchStride, rowStride }: Matrix, i: number, j: number, at: string) =>
    plus(
      `${offset}u`,
      times(at, batch * plan.slices > 1 ? batchStride : 0),
      times(`row0 + own_row + ${i * shape.m}u`, rowStride),
      `column0 + own_column + ${j * shape.n}u`,
    )
  const guards = [
    ...(m % tile.rows === 0 ? [] : [(i: number) => `row0 + own_row + ${i * shape.m}u < ${m}u`]),
    ...(n % tile.columns === 0
      ? []
      : [(_: number, j: number) => `column0 + own_column + ${j * shape.n}u < ${n}u`]),
  ]
  const ifWithin = (i: number, j: number, text: string) =>
    guards.length === 0 ? text : `if (${guards.map(guard => guard(i, j)).join(' && ')}) { ${text} }`
  const start =
    isDirect && addend
      ? ifActive(
          forBlocks((i, j) =>
            ifWithin(
              i,
              j,
              `${sum(i, j)} = subgroupMatrixLoad<${result}, row_major>(&${addend.array}, ${blockAt(addend.matrix, i, j, 'batch')}, ${strideOf(addend.matrix, n)}u);`,
            ),
          ),
        )
      : ''
  // Each subgroup passes so many blocks side by side.
  const passingWidth = layout.passing * shape.n
  const passingSize = shape.m * passingWidth
  const passingCount = layout.isFixed ? `${count * passingSize}u` : `active_count * ${passingSize}u`
  const pass = (i: number, first: number) => `
  ${ifActive(
    lines(
      layout.passing,
      j =>
        `subgroupMatrixStore<row_major>(&sums, subgroup * ${passingSize}u + ${j * shape.n}u, ${sum(i, first + j)}, ${passingWidth}u);`,
    ),
  )}
  workgroupBarrier();
  for (var item = thread * 4u; item < ${passingCount}; item += ${size * 4}u) {
    let owner = ${layout.isFixed ? '' : 'first + '}item / ${passingSize}u;
    let down = owner / ${across}u * ${blockRows * shape.m}u + ${i * shape.m}u + item % ${passingSize}u / ${passingWidth}u;
    let right = owner % ${across}u * ${blockColumns * shape.n}u + ${first * shape.n}u + item % ${passingWidth}u;
    let values = vec4f(sums[item], sums[item + 1u], sums[item + 2u], sums[item + 3u]);
    store(out_batch, row0 + down, column0 + right, values);
  }
  workgroupBarrier();`
  const finish = isDirect
    ? ifActive(
        forBlocks((i, j) =>
          ifWithin(
            i,
            j,
            `subgroupMatrixStore<row_major>(&${c.array}, ${blockAt(c.matrix, i, j, grid.target)}, ${sum(i, j)}, ${strideOf(c.matrix, n)}u);`,
          ),
        ),
      )
    : lines(blockRows, i => lines(blockColumns / layout.passing, j => pass(i, j * layout.passing)))
  const loop =
    tile.stages === 2
      ? `
  var k_at = k_start;
  ${fetch}
  ${keep('0u')}
  workgroupBarrier();
  for (var step = 0u; step < steps; step++) {
    k_at += ${tile.depth}u;
    let has_next = step + 1u < steps;
    if (has_next) { ${fetch} }
    let stage = step % 2u;
    ${ifActive(multiply)}
    if (has_next) { ${keep('(1u - stage)')} }
    workgroupBarrier();
  }`
      : `
  var k_at = k_start;
  let stage = 0u;
  ${fetch}
  for (var step = 0u; step < steps; step++) {
    ${keep('0u')}
    workgroupBarrier();
    k_at += ${tile.depth}u;
    if (step + 1u < steps) { ${fetch} }
    ${ifActive(multiply)}
    workgroupBarrier();
  }`
  const product = `
  let own_row = own / ${across}u * ${blockRows * shape.m}u;
  let own_column = own % ${across}u * ${blockColumns * shape.n}u;
  ${forBlocks((i, j) => `var ${sum(i, j)} = ${result}();`)}
  ${start}
  ${loop}
  ${finish}`
  const body = `
  ${grid.position}
  let out_batch = ${grid.target};
  ${both.map(side => side.prepare()).join('\n')}
  ${
    layout.isFixed
      ? `let own = subgroup;${product}`
      : `if (thread == 0u) { subgroup_count = ${size}u / subgroup_size; }
  let subgroups = workgroupUniformLoad(&subgroup_count);
  for (var first = 0u; first < ${count}u; first += subgroups) {
    let active_count = min(subgroups, ${count}u - first);
    let is_active = subgroup < active_count;
    let own = first + subgroup;
    ${product}
  }`
  }`
  const declarations = `
var<workgroup> tile_a: array<f16, ${elements.a * tile.stages}>;
var<workgroup> tile_b: array<f16, ${elements.b * tile.stages}>;
${layout.isFixed ? '' : 'var<workgroup> subgroup_count: u32;'}
${isDirect ? '' : `var<workgroup> sums: array<f32, ${layout.passingElements}>;`}
${fetchFunctions(a, tile.rows, 'stored')}
${fetchFunctions(b, tile.columns, 'stored')}
${isDirect ? '' : storeFunction({ c, addend }, { ...work, batch: batch * plan.slices }, tile)}`
  const name = `matmul ${batch > 1 ? `${batch}×` : ''}${m}×${n}×${k} ${typeNames(work, typeOf)} in matrices`
  const { workgroups } = grid
  return {
    kernel: {
      name,
      code: shader({ bindings, target, size, workgroups, declarations, body, subgroupMatrix: true }),
    },
    bindings,
    workgroups,
  }
}

/** Whether blocks of float32 sums can be stored to a matrix directly. Vulkan requires rows at multiples of 16 bytes. */
function isStorable(matrix: Matrix, batch: number, typeOf: TypeOf): boolean {
  const { offset, rowStride, batchStride, transposed, buffer } = matrix
  const aligned = [offset, rowStride, batch > 1 ? batchStride : 0].every(number => number % 4 === 0)
  return aligned && !transposed && typeOf(buffer) === 'f32'
}

/** The stride for a block of rows. That of a matrix with a single row may be 0. */
const strideOf = ({ rowStride }: Matrix, columns: number): number => Math.max(rowStride, columns)

/** The tile of a or b in workgroup memory, line by line. Invocations fill it in pieces of four elements. */
class Side {
  readonly operand: Factor
  private readonly size: number
  private readonly pieces: number
  private readonly perLine: number
  private readonly pitch: number

  /** size: the number of invocations that fill it. */
  constructor(operand: Factor, extent: number, depth: number, size: number) {
    const width = operand.isAlongK ? depth : extent
    this.operand = operand
    this.size = size
    this.pieces = (extent * depth) / 4
    this.perLine = width / 4
    this.pitch = width + matrixPadding
  }

  /** Code for a slot, for those invocations that have a piece in it. */
  private guarded(slot: number, text: string): string {
    const rest = this.pieces - slot * this.size
    return rest >= this.size ? text : `if (thread < ${rest}u) { ${text} }`
  }

  private get slots(): number {
    return Math.ceil(this.pieces / this.size)
  }

  /** Computes the places of an invocation's pieces in the operand and in the tile. */
  prepare(): string {
    const { operand, size, perLine, pitch, slots } = this
    const { side, isAlongK } = operand
    const origin = side === 'a' ? 'row0' : 'column0'
    return lines(slots, slot => {
      const piece = slot === 0 ? 'thread' : `(thread + ${slot * size}u)`
      const line = `line_${side}${slot}`
      const column = `${piece} % ${perLine}u * 4u`
      const [k, across] = isAlongK ? [column, line] : [line, column]
      return `
  let ${line} = ${piece} / ${perLine}u;
  let k_${side}${slot} = ${k};
  let across_${side}${slot} = ${origin} + ${across};
  let place_${side}${slot} = ${line} * ${pitch}u + ${column};
  let start_${side}${slot} = ${side}_start(batch, across_${side}${slot});
  var piece_${side}${slot} = vec4<${operand.type}>();`
    })
  }

  /** Reads the pieces into registers as they are stored: a conversion would wait for the read. */
  fetch(how: 'whole' | 'tail'): string {
    const { side } = this.operand
    const end = how === 'tail' ? ', k_end' : ''
    return lines(this.slots, slot =>
      this.guarded(
        slot,
        `piece_${side}${slot} = ${side}_${how}(start_${side}${slot}, across_${side}${slot}, k_at + k_${side}${slot}${end});`,
      ),
    )
  }

  /** Writes the pieces to workgroup memory. */
  keep(base: string): string {
    const { side, type } = this.operand
    return lines(this.slots, slot => {
      const piece = `piece_${side}${slot}`
      const text = `{
      let to = ${plus(base, `place_${side}${slot}`)};
      let values = ${type === 'f16' ? piece : converted(piece, 'f16', 'vec4')};
      ${lines(4, i => `tile_${side}[to + ${i}u] = values[${i}];`)}
    }`
      return this.guarded(slot, text)
    })
  }

  /** Loads a matrix that starts at a row of a or column of b, and at step k of the tile. */
  load(type: string, base: string, across: string): string {
    const { operand, pitch } = this
    const { side, isAlongK } = operand
    const at = isAlongK ? plus(base, times(across, pitch), 'k') : plus(base, times('k', pitch), across)
    const order = isAlongK === (side === 'a') ? 'row_major' : 'col_major'
    return `subgroupMatrixLoad<${type}, ${order}>(&tile_${side}, ${at}, ${pitch}u)`
  }
}
