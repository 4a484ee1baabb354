// Products in float32, by multiply-add.
import type { Matmul } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import type { Kernel, Target, TypeOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { type Factor, bindOperands, storeFunction, typeNames } from './operands.ts'
import { type MatmulPlan, numberThreads, threadExtent } from './tiling.ts'
import { fetchFunctions, tileGrid } from './tile.ts'
import { lines, range } from '../wgsl.ts'

/**
 * A product in float32, whatever the types of its operands. Every invocation sums 8 x 8 elements of c in registers (4 for
 * tiles of 32), so that it makes 64 multiplications for four 16-byte reads of workgroup memory. A tile of 128 x 128 makes
 * 64 for each 4 bytes that it reads from the cache.
 *
 * Workgroup memory holds depth x rows of a and depth x columns of b, in vec4 along rows and columns. Operands that lie
 * along k are transposed on the way there, in blocks of 4 x 4. The places of these blocks are permuted (xor), so that eight
 * neighbouring invocations write to different banks. The next depth is read into registers before this one is multiplied.
 */
export function numbersKernel(
  work: Matmul,
  plan: MatmulPlan,
  typeOf: TypeOf,
  target: Target,
): { kernel: Kernel; bindings: Bindings; workgroups: number } {
  const { tile } = plan
  const bindings = new Bindings(typeOf)
  const { a, b, c, addend } = bindOperands(work, bindings)
  const grid = tileGrid(work, plan)
  const size = numberThreads(tile)
  const sides = {
    a: new Side(a, tile.rows, tile.depth, 0),
    b: new Side(b, tile.columns, tile.depth, tile.rows * tile.depth),
  }
  // Both are read as they are stored if they have one type: a conversion would wait for the read.
  const [read, type] = a.type === b.type ? (['stored', a.type] as const) : (['f32', 'f32'] as const)
  const stage = ((tile.rows + tile.columns) * tile.depth) / 4
  const perSide = { a: sides.a.blocks, b: sides.b.blocks }
  const slots = Math.ceil((perSide.a + perSide.b) / size)

  /** Code for the block of a or b in one of an invocation's slots. */
  const forSlot = (slot: number, text: (side: Side, block: string) => string): string => {
    const first = slot * size
    const ofA = () => `{ ${text(sides.a, `thread + ${first}u`)} }`
    const shift = first < perSide.a ? `- ${perSide.a - first}u` : `+ ${first - perSide.a}u`
    const ofB = () => `{ ${text(sides.b, `thread ${shift}`)} }`
    const all = perSide.a + perSide.b
    if (first + size <= perSide.a) return ofA()
    const b = first + size <= all ? ofB() : `if (thread < ${all - first}u) ${ofB()}`
    return first >= perSide.a ? b : `if (thread < ${perSide.a - first}u) ${ofA()} else { ${b} }`
  }
  const prepare = lines(
    slots,
    slot => `
  var place${slot} = 0u; var k${slot} = 0u; var across${slot} = 0u;
  ${range(4)
    .map(i => `var start${slot}_${i} = 0u; var block${slot}_${i} = vec4<${type}>();`)
    .join('\n  ')}
  ${forSlot(slot, (side, block) => side.prepare(slot, block))}`,
  )
  const fetchAll = (how: 'whole' | 'tail') =>
    lines(slots, slot => forSlot(slot, side => side.fetch(slot, how)))
  const fetch = grid.hasTail
    ? `if (k_at + ${tile.depth}u <= k_end) { ${fetchAll('whole')} } else { ${fetchAll('tail')} }`
    : fetchAll('whole')
  const keep = (into: string) =>
    `let base = ${into};\n${lines(slots, slot => forSlot(slot, side => side.keep(slot)))}`

  const rows = threadExtent(tile.rows)
  const columns = threadExtent(tile.columns)
  const sum = (row: number, quad: number) => `sum${row}_${quad}`
  const multiply = `
    for (var quad = 0u; quad < ${tile.depth / 4}u; quad++) {
      ${sides.a.at('down', 'quad')}
      ${sides.b.at('right', 'quad')}
      ${lines(
        4,
        k => `{
        ${lines(rows / 4, i => `let a${i} = tiles[at_a + ${(k * tile.rows) / 4 + (i * tile.rows) / 8}u];`)}
        ${lines(columns / 4, i => `let b${i} = tiles[at_b + ${(k * tile.columns) / 4 + (i * tile.columns) / 8}u];`)}
        ${lines(rows, row =>
          lines(
            columns / 4,
            quad => `${sum(row, quad)} = fma(vec4f(a${row >> 2}[${row & 3}]), b${quad}, ${sum(row, quad)});`,
          ),
        )}
      }`,
      )}
    }`
  const threadsAcross = tile.columns / columns
  const threadsDown = tile.rows / rows
  // 32 neighbouring invocations are eight side by side and four below each other.
  const isBlocked = threadsAcross % 8 === 0 && threadsDown % 4 === 0
  const where = isBlocked
    ? `let right = thread / 32u % ${threadsAcross / 8}u * 8u + thread % 8u;
  let down = thread / ${32 * (threadsAcross / 8)}u * 4u + thread % 32u / 8u;`
    : `let right = thread % ${threadsAcross}u;
  let down = thread / ${threadsAcross}u;`
  const loop =
    tile.stages === 2
      ? `
  var k_at = k_start;
  ${fetch}
  { ${keep('0u')} }
  workgroupBarrier();
  for (var step = 0u; step < steps; step++) {
    k_at += ${tile.depth}u;
    let has_next = step + 1u < steps;
    if (has_next) { ${fetch} }
    let stage = step % 2u * ${stage}u;
    ${multiply}
    if (has_next) { ${keep(`${stage}u - stage`)} }
    workgroupBarrier();
  }`
      : `
  var k_at = k_start;
  ${fetch}
  let stage = 0u;
  for (var step = 0u; step < steps; step++) {
    { ${keep('0u')} }
    workgroupBarrier();
    k_at += ${tile.depth}u;
    if (step + 1u < steps) { ${fetch} }
    ${multiply}
    workgroupBarrier();
  }`
  const body = `
  ${grid.position}
  ${where}
  ${prepare}
  ${lines(rows, row => lines(columns / 4, quad => `var ${sum(row, quad)} = vec4f();`))}
  ${loop}
  let out_batch = ${grid.target};
  ${lines(rows, row =>
    lines(
      columns / 4,
      quad =>
        `store(out_batch, row0 + ${(row >> 2) * (tile.rows / 2)}u + down * 4u + ${row & 3}u, column0 + ${quad * (tile.columns / 2)}u + right * 4u, ${sum(row, quad)});`,
    ),
  )}`
  const declarations = `
var<workgroup> tiles: array<vec4f, ${stage * tile.stages}>;
${fetchFunctions(a, tile.rows, read)}
${fetchFunctions(b, tile.columns, read)}
${storeFunction({ c, addend }, { ...work, batch: work.batch * plan.slices }, tile)}`
  const { batch, m, n, k } = work
  const name = `matmul ${batch > 1 ? `${batch}×` : ''}${m}×${n}×${k} ${typeNames(work, typeOf)}`
  const { workgroups } = grid
  return {
    kernel: { name, code: shader({ bindings, target, size, workgroups, declarations, body }) },
    bindings,
    workgroups,
  }
}

/** The part of workgroup memory for a or b, [depth, extent / 4] in vec4. Invocations fill it in blocks of 4 x 4 elements. */
class Side {
  readonly blocks: number
  private readonly operand: Factor
  private readonly extent: number
  private readonly depth: number
  private readonly first: number

  /** first: its first element in workgroup memory. */
  constructor(operand: Factor, extent: number, depth: number, first: number) {
    this.operand = operand
    this.extent = extent
    this.depth = depth
    this.first = first / 4
    this.blocks = (extent * depth) / 16
  }

  /** Computes a block's place, and the starts of its four lines. */
  prepare(slot: number, block: string): string {
    const { operand, extent, depth, first } = this
    const { side, isAlongK } = operand
    const [quadsK, quadsAcross] = [depth / 4, extent / 4]
    const [quadK, quadAcross] = isAlongK
      ? [`(${block}) % ${quadsK}u`, `(${block}) / ${quadsK}u`]
      : [`(${block}) / ${quadsAcross}u`, `(${block}) % ${quadsAcross}u`]
    const origin = side === 'a' ? 'row0' : 'column0'
    return `
    let quad_k = ${quadK};
    let quad_across = ${quadAcross};
    k${slot} = quad_k * 4u;
    across${slot} = ${origin} + quad_across * 4u;
    place${slot} = ${first}u + k${slot} * ${quadsAcross}u + ${isAlongK ? `(quad_across ^ ${this.turn('quad_k')})` : 'quad_across'};
    ${lines(isAlongK ? 4 : 1, i => `start${slot}_${i} = ${side}_start(batch, across${slot} + ${i}u);`)}`
  }

  /** Reads a block into registers, line by line. */
  fetch(slot: number, how: 'whole' | 'tail'): string {
    const { side, isAlongK } = this.operand
    const end = how === 'tail' ? ', k_end' : ''
    return lines(4, i =>
      isAlongK
        ? `block${slot}_${i} = ${side}_${how}(start${slot}_${i}, across${slot} + ${i}u, k_at + k${slot}${end});`
        : `block${slot}_${i} = ${side}_${how}(start${slot}_0, across${slot}, k_at + k${slot} + ${i}u${end});`,
    )
  }

  /** Writes a block to workgroup memory, transposed where its lines are along k. */
  keep(slot: number): string {
    const line = (i: number) =>
      this.operand.isAlongK
        ? `vec4f(vec4(${range(4)
            .map(j => `block${slot}_${j}[${i}]`)
            .join(', ')}))`
        : `vec4f(block${slot}_${i})`
    return lines(4, i => `tiles[base + place${slot} + ${(i * this.extent) / 4}u] = ${line(i)};`)
  }

  /** Declares at_a or at_b: the index of an invocation's vec4 at the first of four k. */
  at(index: string, quad: string): string {
    const { side, isAlongK } = this.operand
    const across = isAlongK ? `(${index} ^ ${this.turn(quad)})` : index
    return `let at_${side} = stage + ${this.first}u + ${quad} * ${this.extent}u + ${across};`
  }

  /** What the index along rows or columns is xored with, for four k. Eight neighbours then differ in the last three bits. */
  private turn(quadK: string): string {
    return `(${quadK} * ${Math.max(1, 32 / this.depth)}u)`
  }
}
