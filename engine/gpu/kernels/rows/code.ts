/** WGSL statements of a kernel under construction, and names for the values that they compute. */
export class Code {
  private readonly statements: string[] = []
  private names = 0

  get text(): string {
    return this.statements.join('\n')
  }

  push(...statements: string[]): void {
    this.statements.push(...statements)
  }

  /** Declares a constant for an expression and returns its name. A name that let or variable gave stays as it is. */
  let(expression: string): string {
    if (/^v\d+$/.test(expression)) return expression
    const name = `v${this.names++}`
    this.push(`let ${name} = ${expression};`)
    return name
  }

  variable(initial: string): string {
    const name = `v${this.names++}`
    this.push(`var ${name} = ${initial};`)
    return name
  }
}

/** The arrays that the invocations of a workgroup share. */
export class WorkgroupMemory {
  private readonly arrays = new Map<string, string>()

  declare(name: string, type: string, count: number): void {
    this.arrays.set(name, `var<workgroup> ${name}: array<${type}, ${count}>;`)
  }

  get isUsed(): boolean {
    return this.arrays.size > 0
  }

  get declarations(): string[] {
    return [...this.arrays.values()]
  }
}
