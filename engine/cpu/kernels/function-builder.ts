/** Builds the text of a WebAssembly function, one expression at a time. */
import { func } from './wat.ts'

/** The body of a function under construction: its locals and statements. */
export class FunctionBuilder {
  readonly lines: string[] = []
  private readonly locals: string[] = []

  /** A new local of this type; returns its name without the $. */
  local(type: 'i32' | 'f32' | 'v128'): string {
    const name = `t${this.locals.length}`
    this.locals.push(`(local $${name} ${type})`)
    return name
  }

  /** Assigns an expression to a new local. Returns the expression that reads the local. */
  let(type: 'i32' | 'f32' | 'v128', expression: string): string {
    const name = this.local(type)
    this.lines.push(`(local.set $${name} ${expression})`)
    return `(local.get $${name})`
  }

  /** Appends statements. */
  push(...lines: string[]): void {
    this.lines.push(...lines)
  }

  /** The text of the finished function, with this name and a kernel's parameters. */
  kernel(name: string): string {
    const header = `(param $arguments i32) (param $item i32) (param $scratch i32) ${this.locals.join(' ')}`
    return func(name, header, this.lines.join('\n'))
  }
}
