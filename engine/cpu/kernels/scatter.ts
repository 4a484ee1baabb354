/** Sums rows by index, as the gradient of a gather needs. */
import type { Kernel } from './kernel.ts'

/** Columns of one item: a multiple of a cache line, so that threads share no cache lines of the table. */
const columnBlock = 32

/**
 * Adds rows of values to the rows of out that indices select. One item computes a block of columns and adds all rows in
 * order, so the sums do not depend on the number of threads.
 * Operands: values [count, columns], indices [count], out [rows, columns], and base [rows, columns] if out starts from
 * it. Indices out of range are clamped.
 */
export function scatterKernel(shape: {
  rows: number
  columns: number
  count: number
  valueStride: number
  outStride: number
  /** out starts from this matrix, which may be out itself, instead of zeros. */
  baseStride?: number
}): Kernel {
  const { rows, columns, count, valueStride, outStride, baseStride } = shape
  const name = ['scatter', `${rows}x${columns}`, count, valueStride, outStride, baseStride ?? 'zeros'].join(
    '.',
  )
  const rowOf = (start: string, stride: number) =>
    `(i32.add ${start} (i32.mul (local.get $row) (i32.const ${stride * 4})))`
  const out = rowOf('(local.get $out)', outStride)
  const begin =
    baseStride === undefined
      ? eachRow(rows, `(memory.fill ${out} (i32.const 0) (local.get $width))`)
      : `(local.set $base (i32.add (i32.load offset=12 (local.get $arguments)) (i32.mul (local.get $item) (i32.const ${columnBlock * 4}))))
         (if (i32.ne (local.get $base) (local.get $out))
           (then ${eachRow(rows, `(memory.copy ${out} ${rowOf('(local.get $base)', baseStride)} (local.get $width))`)}))`
  const wat = `(func $${name} (param $arguments i32) (param $item i32) (param $scratch i32)
    (local $base i32) (local $values i32) (local $indices i32) (local $out i32) (local $width i32)
    (local $row i32) (local $index i32) (local $to i32) (local $from i32) (local $column i32)
    (local.set $values (i32.add (i32.load (local.get $arguments)) (i32.mul (local.get $item) (i32.const ${columnBlock * 4}))))
    (local.set $indices (i32.load offset=4 (local.get $arguments)))
    (local.set $out (i32.add (i32.load offset=8 (local.get $arguments)) (i32.mul (local.get $item) (i32.const ${columnBlock * 4}))))
    (local.set $width (i32.sub (i32.const ${columns * 4}) (i32.mul (local.get $item) (i32.const ${columnBlock * 4}))))
    (if (i32.gt_u (local.get $width) (i32.const ${columnBlock * 4})) (then (local.set $width (i32.const ${columnBlock * 4}))))
    ${begin}
    (local.set $row (i32.const 0))
    (loop $rows
      (local.set $index (i32.load (i32.add (local.get $indices) (i32.shl (local.get $row) (i32.const 2)))))
      (if (i32.lt_s (local.get $index) (i32.const 0)) (then (local.set $index (i32.const 0))))
      (if (i32.ge_s (local.get $index) (i32.const ${rows})) (then (local.set $index (i32.const ${rows - 1}))))
      (local.set $to (i32.add (local.get $out) (i32.mul (local.get $index) (i32.const ${outStride * 4}))))
      (local.set $from (i32.add (local.get $values) (i32.mul (local.get $row) (i32.const ${valueStride * 4}))))
      (local.set $column (i32.const 0))
      (block $done
        (loop $vectors
          (br_if $done (i32.gt_u (i32.add (local.get $column) (i32.const 16)) (local.get $width)))
          (v128.store (i32.add (local.get $to) (local.get $column))
            (f32x4.add (v128.load (i32.add (local.get $to) (local.get $column))) (v128.load (i32.add (local.get $from) (local.get $column)))))
          (local.set $column (i32.add (local.get $column) (i32.const 16)))
          (br $vectors)))
      (block $ended
        (loop $rest
          (br_if $ended (i32.ge_u (local.get $column) (local.get $width)))
          (f32.store (i32.add (local.get $to) (local.get $column))
            (f32.add (f32.load (i32.add (local.get $to) (local.get $column))) (f32.load (i32.add (local.get $from) (local.get $column)))))
          (local.set $column (i32.add (local.get $column) (i32.const 4)))
          (br $rest)))
      (local.set $row (i32.add (local.get $row) (i32.const 1)))
      (br_if $rows (i32.lt_u (local.get $row) (i32.const ${count})))))`
  return { name, wat, items: Math.ceil(columns / columnBlock), scratchBytes: 0 }
}

/** A loop over all rows; the local $row is the current one. */
const eachRow = (rows: number, body: string): string => `
  (loop $rows
    ${body}
    (local.set $row (i32.add (local.get $row) (i32.const 1)))
    (br_if $rows (i32.lt_u (local.get $row) (i32.const ${rows}))))`
