/** What --json prints: all that --explain or --profile knows, for programs to read. */
import { type ExplainedProgram, lineCosts } from './explained.ts'
import { pathOf, sourceOf } from './lines.ts'

/** Programs as an object of JSON. Times are milliseconds, and null where none were measured. */
export function explainJson(programs: readonly ExplainedProgram[]) {
  return {
    programs: programs.map(({ name, compiled, steps }) => ({
      name,
      inputs: compiled.inputs,
      outputs: compiled.outputNames,
      flops: compiled.flops,
      bytesMoved: compiled.bytesMoved,
      variableBytes: compiled.variableBytes,
      temporaryBytes: compiled.temporaryBytes,
      compileTime: compiled.compileTime,
      steps: steps.map(({ kernels, barrier, milliseconds }) => ({
        milliseconds,
        barrier,
        kernels: kernels.map(({ call, words, lines, reads, writes }) => ({
          kernel: call.name,
          words,
          operations: call.instructions.flatMap(({ operations = [] }) =>
            operations.map(({ name, elements, origin }) => ({
              name,
              elements,
              ...(origin && { file: pathOf(origin), line: origin.line, gradient: origin.isGradient }),
            })),
          ),
          lines: lines.map(({ origin, share }) => ({
            file: pathOf(origin),
            line: origin.line,
            function: origin.function ?? name,
            gradient: origin.isGradient,
            share,
          })),
          reads: reads.map(({ name }) => name),
          writes,
          flops: call.flops,
          bytes: call.bytes,
        })),
      })),
    })),
    lines: lineCosts(programs).map(({ origin, function: name, forward, gradient, total }) => ({
      ...(origin && { file: pathOf(origin), line: origin.line, source: sourceOf(origin) }),
      function: name,
      forward,
      gradient,
      total,
    })),
  }
}
