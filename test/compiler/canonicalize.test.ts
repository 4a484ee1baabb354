/** Canonicalization: the graphs that it makes of chains of movements, of transposed products, and of equal nodes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { canonicalize } from '../../engine/compiler/canonicalize.ts'
import { withoutPauses } from '../../engine/compiler/pauses.ts'
import type { Tensor } from '../../engine/index.ts'
import { chainOf, input } from '../support/graph.ts'

const canonical = (...roots: Tensor[]) => withoutPauses(canonicalize(roots))

test('a chain of reshapes becomes one, and none where it ends in the shape that it starts from', () => {
  const x = input('x', 3, 4)
  const [other, same] = canonical(
    x.reshape(12).reshape(2, 6).reshape(4, 3),
    x.reshape(12).reshape(2, 6).reshape(3, 4),
  )
  assert.deepEqual(chainOf(other), ['reshape', 'input'])
  assert.deepEqual(other.shape, [4, 3])
  assert.equal(same, x)
})

test('a chain of broadcasts becomes one', () => {
  const x = input('x', 1, 4)
  const [wide] = canonical(x.broadcastTo([3, 4]).broadcastTo([2, 3, 4]))
  assert.deepEqual(chainOf(wide), ['broadcast', 'input'])
  assert.deepEqual(wide.shape, [2, 3, 4])
})

test('a chain of transposes becomes one, and none where they undo each other', () => {
  const x = input('x', 2, 3, 4)
  const [turned, same] = canonical(
    x.permute([1, 2, 0]).permute([1, 0, 2]),
    x.permute([1, 2, 0]).permute([2, 0, 1]),
  )
  assert.deepEqual(chainOf(turned), ['transpose', 'input'])
  assert.deepEqual(turned.operation, { kind: 'transpose', permutation: [2, 1, 0] })
  assert.deepEqual(turned.shape, [4, 3, 2])
  assert.equal(same, x)
})

test('a product takes in the transposes of its operands', () => {
  const [a, b] = [input('a', 5, 3), input('b', 4, 5)]
  const [c] = canonical(a.T.matmul(b.T))
  assert.deepEqual(c.operation, { kind: 'matmul', transposeA: true, transposeB: true })
  assert.deepEqual(c.inputs, [a, b])
  const [plain] = canonical(b.T.T.matmul(a))
  assert.deepEqual(plain.operation, { kind: 'matmul', transposeA: false, transposeB: false })
  assert.deepEqual(plain.inputs, [b, a])
})

test('a product keeps a transpose of other axes', () => {
  const [a, b] = [input('a', 4, 2, 3), input('b', 2, 3, 5)]
  const [c] = canonical(a.permute([1, 0, 2]).matmul(b))
  assert.deepEqual(c.operation, { kind: 'matmul', transposeA: false, transposeB: false })
  assert.deepEqual(chainOf(c), ['matmul', 'transpose', 'input'])
})

test('nodes that compute the same become one', () => {
  const [x, y] = [input('x', 8), input('y', 8)]
  const [first, second, other] = canonical(x.add(y).exp(), x.add(y).exp(), y.add(x).exp().neg())
  assert.equal(first, second)
  assert.notEqual(other.inputs[0], first)
})

test('a slice of an elementwise operation is that operation on slices', () => {
  const [x, y] = [input('x', 4, 6), input('y', 6)]
  const [part] = canonical(x.mul(y).tanh().slice(1, 2, 5))
  assert.deepEqual(chainOf(part), ['unary', 'binary', 'slice', 'input'])
  assert.deepEqual(part.shape, [4, 3])
})

test('what a graph says in canonical form stays as it is', () => {
  const [x, w] = [input('x', 4, 6), input('w', 6, 5)]
  const [once] = canonical(x.matmul(w).T.exp().sum(-1))
  const [twice] = canonical(once)
  assert.deepEqual(chainOf(twice), chainOf(once))
  assert.deepEqual(twice.shape, [5])
})
