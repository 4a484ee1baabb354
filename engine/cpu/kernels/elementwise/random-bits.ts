/** Counter-based random numbers. */
import type { FunctionBuilder } from '../function-builder.ts'
import { i32x4 as int } from '../wat.ts'

/** Random bits for counters and a key: two rounds of a 32-bit finalizer (Wellons' lowbias32), each mixed with the key. */
export function randomBits(code: FunctionBuilder, counter: string, key: string): string {
  const shifted = (value: string, bits: number) =>
    `(v128.xor ${value} (i32x4.shr_u ${value} (i32.const ${bits})))`
  const mix = (value: string): string => {
    const first = code.let('v128', `(i32x4.mul ${shifted(value, 16)} ${int(0x21f0aaad)})`)
    const second = code.let('v128', `(i32x4.mul ${shifted(first, 15)} ${int(0x735a2d97)})`)
    return code.let('v128', shifted(second, 15))
  }
  const once = mix(code.let('v128', `(i32x4.add ${counter} (i32x4.mul ${key} ${int(0x9e3779b9 | 0)}))`))
  return mix(code.let('v128', `(v128.xor ${once} ${key})`))
}
