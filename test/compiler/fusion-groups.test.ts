/** Fusion groups: which row operations may share a kernel. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { canonicalize } from '../../engine/compiler/canonicalize.ts'
import { FusionGroups, isRowOperation, mostMembers } from '../../engine/compiler/fusion-groups.ts'
import { withoutPauses } from '../../engine/compiler/pauses.ts'
import { type Tensor, softmax } from '../../engine/index.ts'
import { indices, input } from '../support/graph.ts'

/** All nodes that some tensors are computed from, inputs first. */
function nodesOf(roots: readonly Tensor[]): Tensor[] {
  const found = new Set(roots)
  // The loop appends to the set.
  for (const node of found) for (const other of node.inputs) found.add(other)
  return [...found].sort((a, b) => a.id - b.id)
}

/** Canonical roots, and the groups of the graph. */
function grouped(...roots: Tensor[]) {
  const made = withoutPauses(canonicalize(roots))
  const groups = withoutPauses(FusionGroups.of(nodesOf(made)))
  return { made, groups, count: groups.descending.length }
}

test('a chain of elementwise operations is one group', () => {
  const [x, y] = [input('x', 10, 4), input('y', 4)]
  const { made, groups, count } = grouped(x.mul(y).tanh().add(1))
  assert.equal(count, 1)
  const group = groups.groupOf(made[0])
  assert.deepEqual([group?.rows, group?.columns, group?.depth], [10, 4, groups.descending[0].depth])
  assert.equal(group?.members.length, 3)
})

test('reductions of rows and what is computed from them are in the group of the rows', () => {
  const { count, groups } = grouped(softmax(input('x', 10, 4)))
  assert.equal(count, 1)
  assert.deepEqual([groups.descending[0].rows, groups.descending[0].columns], [10, 4])
})

test('a product divides what comes before it from what comes after it', () => {
  const [x, w] = [input('x', 10, 4), input('w', 4, 4)]
  const before = x.exp()
  const after = before.matmul(w).tanh().add(before)
  const { made, groups } = grouped(after, before)
  const [last, first] = made.map(tensor => groups.groupOf(tensor))
  assert.ok(last && first && last !== first)
  assert.ok(last.depth > first.depth)
  assert.deepEqual(groups.descending, [last, first])
})

test('operations over other rows or columns are in groups of their own', () => {
  const { made, groups } = grouped(input('x', 10, 4).exp(), input('y', 5, 8).exp(), input('z', 40).exp())
  assert.equal(new Set(made.map(tensor => groups.groupOf(tensor))).size, 3)
})

test('operations that read the same elements share a group; those of different inputs do not', () => {
  const [x, y] = [input('x', 10, 4), input('y', 10, 4)]
  const { made, groups } = grouped(x.exp(), x.sin(), y.sin())
  const [exp, sin, other] = made.map(tensor => groups.groupOf(tensor))
  assert.equal(exp, sin)
  assert.notEqual(sin, other)
})

test('a sum over rows is at hand only once all rows are done', () => {
  const x = input('x', 10, 4).exp()
  const total = x.T.sum(-1)
  const { made, groups } = grouped(x.div(total), total)
  const [quotient, sum] = made.map(tensor => groups.groupOf(tensor))
  assert.ok(quotient)
  assert.notEqual(quotient, sum)
})

test('a gather reads its table from memory', () => {
  const table = input('table', 100, 4).exp()
  const { made, groups } = grouped(table.gather(indices('tokens', 100)).neg(), table)
  const [gathered, computed] = made.map(tensor => groups.groupOf(tensor))
  assert.ok(gathered && computed)
  assert.notEqual(gathered, computed)
  assert.ok(gathered.depth > computed.depth)
})

test('a group has no more than a certain number of members; the parts of a larger one come last first', () => {
  let y = input('x', 4)
  for (let i = 0; i < mostMembers + 10; i++) y = y.sin()
  const { made, groups } = grouped(y)
  const parts = groups.descending
  assert.deepEqual(
    parts.map(({ members, part }) => [members.length, part]),
    [
      [10, 1],
      [mostMembers, 0],
    ],
  )
  assert.equal(parts[0].whole, parts[1].whole)
  assert.equal(groups.groupOf(made[0]), parts[0])
  assert.ok(parts.every(({ members }) => members.every(isRowOperation)))
})
