/** Where the operands of a row kernel are: their addresses, and those of a row and of an element in it. */
import type { Access } from '../../../compiler/program.ts'
import type { FunctionBuilder } from '../function-builder.ts'
import { type Loop, elementBytes, lanes, loadAt } from './vectors.ts'

export class Addressing {
  private readonly code: FunctionBuilder
  private operands = 0
  /** The address of each access's first element; for an iota, that element. */
  private readonly bases = new Map<Access, string>()
  /** The address of the current row; for an iota, its first element. */
  private readonly rows = new Map<Access, string>()

  constructor(code: FunctionBuilder) {
    this.code = code
  }

  /** Reads the next of the kernel's arguments, which is an address. */
  nextOperand(): string {
    return this.code.let('i32', `(i32.load offset=${this.operands++ * elementBytes} (local.get $arguments))`)
  }

  /** Reads the addresses of these accesses, which are the kernel's next arguments. */
  begin(accesses: readonly Access[]): void {
    for (const access of accesses)
      this.bases.set(access, access.buffer ? this.nextOperand() : `(i32.const ${access.offset})`)
  }

  /** Points at the row with this number in every access that moves along the columns. */
  enterRow(row: string): void {
    for (const access of this.bases.keys())
      if (access.columnStride !== 0) this.rows.set(access, this.rowAddress(access, row))
  }

  /** The address of the current row, for accesses that move along the columns. */
  current(access: Access): string {
    return this.rows.get(access) ?? ''
  }

  /** The address of the row with this number; for an iota, the number there. */
  rowAddress(access: Access, row: string): string {
    const { code } = this
    const base = this.bases.get(access) ?? ''
    const unit = access.buffer ? elementBytes : 1
    if (access.gather) {
      const { indices, rowStride, limit } = access.gather
      const indexAddress = this.rowAddress(indices, row)
      const index = code.let('i32', indices.buffer ? `(i32.load ${indexAddress})` : indexAddress)
      const low = code.let('i32', `(select ${index} (i32.const 0) (i32.gt_s ${index} (i32.const 0)))`)
      const clamped = `(select ${low} (i32.const ${limit - 1}) (i32.lt_s ${low} (i32.const ${limit})))`
      return code.let('i32', `(i32.add ${base} (i32.mul ${clamped} (i32.const ${rowStride * unit})))`)
    }
    let address = base
    let rest = row
    access.rowDims.toReversed().forEach(([extent, stride], i, dims) => {
      const outermost = i === dims.length - 1
      const index = outermost ? rest : `(i32.rem_u ${rest} (i32.const ${extent}))`
      if (stride !== 0) address = `(i32.add ${address} (i32.mul ${index} (i32.const ${stride * unit})))`
      if (!outermost) rest = code.let('i32', `(i32.div_u ${rest} (i32.const ${extent}))`)
    })
    return code.let('i32', address)
  }

  /**
   * Four elements of the current row. column: bytes from its start, of an access whose elements are adjacent; at: adds
   * them to an address.
   */
  load(access: Access, loop: Loop, half: number, column: string, at: (address: string) => string): string {
    const { columnStride } = access
    const address = this.current(access)
    if (!access.buffer) {
      const first = `(i32.add (i32.shr_u ${column} (i32.const 2)) (i32.const ${half * lanes}))`
      const numbers = `(i32x4.add (i32x4.splat ${first}) (v128.const i32x4 0 1 2 3))`
      return `(i32x4.add (i32x4.splat ${address}) (i32x4.mul ${numbers} (i32x4.splat (i32.const ${columnStride}))))`
    }
    if (columnStride === 1) return loadAt(loop, at(address), half)
    const start = `(i32.add ${address} (i32.mul ${column} (i32.const ${columnStride})))`
    if (loop === 'lane') return `(v128.load32_zero ${start})`
    const byte = (lane: number) => (half * lanes + lane) * columnStride * elementBytes
    return [1, 2, 3].reduce(
      (vector, lane) => `(v128.load32_lane offset=${byte(lane)} ${lane} ${start} ${vector})`,
      `(v128.load32_zero offset=${byte(0)} ${start})`,
    )
  }
}
