import type { View } from '../../../compiler/program.ts'
import type { Bindings } from '../bindings.ts'

/**
 * What a kernel of attention reads or writes: of each head its own columns of a view [batch, length, heads *
 * width].
 */
export interface Matrices {
  readonly name: string
  readonly view: View
  /** Columns of one head. */
  readonly width: number
  readonly isWritten?: boolean
}

/** The kernel that operands are for. */
export interface Place {
  readonly bindings: Bindings
  readonly length: number
  /** That its tiles have. */
  readonly rows: number
  /** What it multiplies. */
  readonly loads: 'f32' | 'f16'
}

/**
 * One head's matrix [length, width] of a sequence in WGSL, four columns at a time: a quad. Where the view is
 * laid out so, a quad is one vector of memory. Loads give zeros where there is no such row or column.
 */
export class Operand {
  readonly name: string
  readonly width: number
  private readonly array: string
  private readonly isHalf: boolean
  private readonly isWritten: boolean
  private readonly loads: Place['loads']
  /** Elements of the array that a quad is: 1 where the array is one of vectors. */
  private readonly quad: 1 | 4
  private readonly view: View
  private readonly length: number
  /** Whether every row, or every quad, that is asked for exists. */
  private readonly hasRows: boolean
  private hasQuads = true

  /** lanes: of the array. */
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

  /** Statement that finds the matrix of a sequence and a head, which are names of variables. */
  locate(sequence: string, head: string): string {
    const { offset, strides } = this.view
    const inArray = (elements: number) => (elements * this.quad) / 4
    const place = `${inArray(offset)} + ${sequence} * ${inArray(this.length * strides[1])}`
    return `let at_${this.name} = ${place} + ${head} * ${inArray(this.width)};`
  }

  /** Expression of a quad. columns: how many there may be asked for. */
  load(row: string, quad: string, columns: number): string {
    this.hasQuads &&= columns <= this.width
    return `load_${this.name}(at_${this.name}, ${row}, ${quad})`
  }

  /** Statement that stores a vec4f; what has no place is left out. */
  store(row: string, quad: string, value: string, columns: number): string {
    this.hasQuads &&= columns <= this.width
    return `store_${this.name}(at_${this.name}, ${row}, ${quad}, ${value});`
  }

  /** The functions. To be asked for after their uses. */
  get declarations(): string {
    return this.isWritten ? this.storeFunction() : this.loadFunction()
  }

  private loadFunction(): string {
    const { name, array, loads } = this
    const type = `vec4<${loads}>`
    const head = `fn load_${name}(at: u32, row: u32, quad: u32) -> ${type}`
    // What is too large for f16 becomes the largest number rather than infinity.
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

/**
 * The operands of a kernel. An array is one of vectors where all that lies in its memory is laid out so.
 */
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
