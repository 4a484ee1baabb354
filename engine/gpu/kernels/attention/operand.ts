// The operands of attention's kernels in WGSL: loads and stores of one head's matrix.
import type { View } from '../../../compiler/program.ts'
import type { Bindings } from '../bindings.ts'

/** An operand of an attention kernel. Each head has its own columns of a view [batch, length, heads * width]. */
export interface Matrices {
  readonly name: string
  readonly view: View
  /** Columns of one head. */
  readonly width: number
  readonly isWritten?: boolean
}

/** The kernel that uses the operands. */
export interface Place {
  readonly bindings: Bindings
  readonly length: number
  /** The rows of its tiles. */
  readonly rows: number
  /** The type that it multiplies. */
  readonly loads: 'f32' | 'f16'
}

/**
 * One head's matrix [length, width] of a sequence in WGSL, accessed four columns at a time: a quad. Where the layout of the
 * view allows, a quad is one vector of memory. Loads return zeros beyond the last row or column.
 */
export class Operand {
  readonly name: string
  readonly width: number
  private readonly array: string
  private readonly isHalf: boolean
  private readonly isWritten: boolean
  private readonly loads: Place['loads']
  /** Array elements in a quad: 1 in an array of vectors. */
  private readonly quad: 1 | 4
  private readonly view: View
  private readonly length: number
  /** Whether kernels access only rows, or quads, that exist. */
  private readonly hasRows: boolean
  private hasQuads = true

  /** lanes: of the array's elements. */
  constructor(
    { name, view, width, isWritten = false }: Matrices,
    { bindings, length, rows, loads, lanes }: Place & { lanes: 1 | 4 },
  ) {
    this.name = name
    this.view = view
    this.width = width
    this.isWritten = isWritten
    this.length = length
    this.hasRows = length % rows === 0
    this.quad = lanes === 4 ? 1 : 4
    this.loads = loads
    this.array = bindings.name(view.buffer, { writes: isWritten, lanes })
    this.isHalf = bindings.type(view.buffer) === 'f16'
  }

  /** A statement that locates the matrix of a sequence and a head, which are names of variables. */
  locate(sequence: string, head: string): string {
    const { offset, strides } = this.view
    const inArray = (elements: number) => (elements * this.quad) / 4
    const place = `${inArray(offset)} + ${sequence} * ${inArray(this.length * strides[1])}`
    return `let at_${this.name} = ${place} + ${head} * ${inArray(this.width)};`
  }

  /** An expression for a quad. columns: the number of columns that the kernel accesses. */
  load(row: string, quad: string, columns: number): string {
    this.hasQuads &&= columns <= this.width
    return `load_${this.name}(at_${this.name}, ${row}, ${quad})`
  }

  /** A statement that stores those elements of a vec4f that lie within the matrix. */
  store(row: string, quad: string, value: string, columns: number): string {
    this.hasQuads &&= columns <= this.width
    return `store_${this.name}(at_${this.name}, ${row}, ${quad}, ${value});`
  }

  /** The functions. Read this after all calls of load() and store(). */
  get declarations(): string {
    return this.isWritten ? this.storeFunction() : this.loadFunction()
  }

  private loadFunction(): string {
    const { name, array, loads } = this
    const type = `vec4<${loads}>`
    const head = `fn load_${name}(at: u32, row: u32, quad: u32) -> ${type}`
    // Numbers too large for f16 become its largest one rather than infinity.
    const loaded = (value: string) =>
      loads === 'f16' && !this.isHalf
        ? `${type}(clamp(${value}, vec4f(-65504), vec4f(65504)))`
        : `${type}(${value})`
    if (this.quad === 1) {
      const missing = this.missing()
      return `${head} {
  ${missing ? `if (${missing}) { return ${type}(); }` : ''}
  return ${loaded(`${array}[at + ${this.rowStart()} + quad]`)};
}`
    }
    return `${head} {
  var value = vec4<${this.isHalf ? 'f16' : 'f32'}>();
  let first = at + ${this.rowStart()} + quad * 4;
  ${this.eachElement(e => `value[${e}] = ${array}[first + ${e}];`)}
  return ${loaded('value')};
}`
  }

  private storeFunction(): string {
    const { name, array, isHalf } = this
    const stored = isHalf ? 'vec4<f16>(clamp(value, vec4f(-65504), vec4f(65504)))' : 'value'
    const head = `fn store_${name}(at: u32, row: u32, quad: u32, value: vec4f)`
    if (this.quad === 1) {
      const missing = this.missing()
      return `${head} {
  ${missing ? `if (${missing}) { return; }` : ''}
  ${array}[at + ${this.rowStart()} + quad] = ${stored};
}`
    }
    return `${head} {
  let stored = ${stored};
  let first = at + ${this.rowStart()} + quad * 4;
  ${this.eachElement(e => `${array}[first + ${e}] = stored[${e}];`)}
}`
  }

  private rowStart(): string {
    return `row * ${(this.view.strides[1] * this.quad) / 4}`
  }

  private missing(): string {
    const row = this.hasRows ? [] : [`row >= ${this.length}`]
    const quad = this.hasQuads ? [] : [`quad >= ${this.width / 4}`]
    return [...row, ...quad].join(' || ')
  }

  private eachElement(statement: (element: number) => string): string {
    return [0, 1, 2, 3]
      .map(e => `if (row < ${this.length} && quad * 4 + ${e} < ${this.width}) { ${statement(e)} }`)
      .join('\n  ')
  }
}

/** The operands of a kernel. An array is one of vectors where the layout of all operands in its memory allows. */
export function operandsOf<Name extends string>(
  matrices: Readonly<Record<Name, Omit<Matrices, 'name'>>>,
  place: Place,
): Record<Name, Operand> {
  const all = Object.entries<Omit<Matrices, 'name'>>(matrices)
  const lanesOf = ({ view }: Omit<Matrices, 'name'>) =>
    all.every(([, other]) => other.view.buffer.allocation !== view.buffer.allocation || isInQuads(other))
      ? 4
      : 1
  const operands = all.map(([name, given]) => [
    name,
    new Operand({ ...given, name }, { ...place, lanes: lanesOf(given) }),
  ])
  return Object.fromEntries(operands)
}

const isInQuads = ({ view, width }: Omit<Matrices, 'name'>): boolean =>
  [view.offset, view.strides[1], width].every(elements => elements % 4 === 0)
