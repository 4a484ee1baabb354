// Products that are cut along k: memory for the slices' partial sums, and the kernel that adds them up.
import { Buffer, type Matmul, type Matrix } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import { type Dispatch, type Target, type TypeOf, bytesOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { bindResult, storeFunction } from './operands.ts'

/** Invocations in a workgroup. */
const size = 256

/** Room for the partial sums of each slice of k: [slices, batch, m, n]. */
export function partialSums({ batch, m, n }: Matmul, slices: number): Matrix {
  const buffer = new Buffer(slices * batch * m * n, 'float32')
  return { buffer, offset: 0, rowStride: n, transposed: false, batchStride: m * n }
}

/** The kernel that adds the slices' partial sums up in order, and the addend, to c. c must not be transposed. */
export function sumSlices(
  work: Matmul,
  partial: Matrix,
  slices: number,
  typeOf: TypeOf,
  target: Target,
): Dispatch {
  const { batch, m, n } = work
  const bindings = new Bindings(typeOf)
  const lanes = n % 4 === 0 ? 4 : 1
  const array = bindings.name(partial.buffer, { lanes })
  const { c, addend } = bindResult(work, bindings)
  const quads = Math.ceil(n / 4)
  const count = batch * m * quads
  const workgroups = Math.ceil(count / size)
  const between = batch * m * n
  const body = `
  let item = group * ${size}u + thread;
  if (item >= ${count}u) { return; }
  let line = item / ${quads}u;
  let column = item % ${quads}u * 4u;
  let first = line * ${n}u + column;
  var sums = vec4f();
  for (var slice = 0u; slice < ${slices}u; slice++) {
    let at = first + slice * ${between}u;
    ${
      lanes === 4
        ? `sums += ${array}[at / 4u];`
        : [0, 1, 2, 3]
            .map(i => `if (column + ${i}u < ${n}u) { sums[${i}] += ${array}[at + ${i}u]; }`)
            .join('\n    ')
    }
  }
  store(line / ${m}u, line % ${m}u, column, sums);`
  const declarations = storeFunction({ c, addend }, work, { rows: 1, columns: 4 })
  return {
    kernel: {
      name: `sum of ${slices} slices ${batch > 1 ? `${batch}×` : ''}${m}×${n} → ${c.type}`,
      code: shader({ bindings, target, size, workgroups, declarations, body }),
    },
    buffers: bindings.buffers,
    writes: bindings.writes,
    workgroups,
    flops: 0,
    bytes: between * (4 * slices + bytesOf[c.type] + (addend ? bytesOf[addend.type] : 0)),
  }
}
