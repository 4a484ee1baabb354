/** Kernels in words: what they compute and of which shapes. */
import type { KernelCall, TracedOperation, Work } from '../../engine/index.ts'

/** What a kernel computes, such as 'matmul 2048×128 · 128×560'. */
export function wordsOf({ instructions, role }: KernelCall): string {
  const [first, ...others] = instructions
  if (!first) return 'kernel'
  const { work, operations = [] } = first
  if (role === 'pack') return work.kind === 'matmul' ? `pack ${work.k}×${work.n} for matmul` : 'pack'
  const words = work.kind === 'rows' ? rowWords(work, operations) : workWords(work)
  const joined = others.length > 0 ? `${instructions.length} at once, each ` : ''
  return `${joined}${words}${role ? ` (${role})` : ''}`
}

function rowWords(
  { rows, columns }: Extract<Work, { kind: 'rows' }>,
  operations: readonly TracedOperation[],
): string {
  const names = Map.groupBy(operations, ({ name }) => name)
  const counted = [...names].map(([name, equal]) => (equal.length > 1 ? `${name} ×${equal.length}` : name))
  return `${shapeText([rows, columns])}: ${counted.join(', ') || 'copy'}`
}

function workWords(work: Exclude<Work, { kind: 'rows' }>): string {
  switch (work.kind) {
    case 'matmul': {
      const { batch, m, n, k, a, b, addend } = work
      const [left, right] = [shapeText([m, k]), shapeText([k, n])]
      const product = `${left}${a.transposed ? 'ᵀ' : ''} · ${right}${b.transposed ? 'ᵀ' : ''}`
      return `matmul ${batch > 1 ? `${batch} of ` : ''}${product}${addend ? ' + addend' : ''}`
    }
    case 'scatterAdd':
      return `scatter-add ${shapeText([work.count, work.columns])} into ${shapeText([work.rows, work.columns])}`
    case 'attention':
    case 'attentionGradient': {
      const { kind, batch, length, heads, keyDim, valueDim } = work
      const name = kind === 'attention' ? 'attention' : 'attention gradient'
      const widths = `key ${keyDim}, value ${valueDim}`
      return `${name} ${shapeText([batch, length])}, ${heads > 1 ? `${heads} heads of ` : ''}${widths}`
    }
  }
}

/** Such as 2048×128; a scalar is '1'. */
export const shapeText = (shape: readonly number[]): string => shape.join('×') || '1'

const prefixes = ['', 'k', 'M', 'G', 'T', 'P']

/** A number with three digits and the prefix of its unit: '3.22 MB'. */
export function amount(value: number, unit: string): string {
  let [rest, power] = [value, 0]
  while (rest >= 999.5 && power < prefixes.length - 1) [rest, power] = [rest / 1000, power + 1]
  const digits = power === 0 ? 0 : rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2
  return `${rest.toFixed(digits)} ${prefixes[power]}${unit}`
}
