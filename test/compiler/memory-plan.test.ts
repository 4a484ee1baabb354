/** The memory plan: buffers that are alive at the same time do not overlap, and memory is reused. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { planMemory } from '../../engine/compiler/memory-plan.ts'
import { seeded } from '../support/reference.ts'

test('the plan of memory: what is alive at once never overlaps', () => {
  const random = seeded(1)
  for (let round = 0; round < 300; round++) {
    const lifetimes = Array.from({ length: 1 + Math.floor(random() * 40) }, () => {
      const first = Math.floor(random() * 30)
      return { bytes: Math.floor(random() ** 3 * 5000), first, last: first + Math.floor(random() * 8) }
    })
    const { addresses, bytes } = planMemory(lifetimes)
    const atOnce = Array.from({ length: 40 }, (_, at) =>
      lifetimes.reduce((sum, { first, last, bytes }) => sum + (first <= at && at <= last ? bytes : 0), 0),
    )
    assert.ok(bytes >= Math.max(...atOnce))
    lifetimes.forEach((a, i) => {
      assert.ok(addresses[i] % 64 === 0 && addresses[i] + a.bytes <= bytes)
      lifetimes.slice(0, i).forEach((b, j) => {
        const together = a.first <= b.last && b.first <= a.last
        const apart = addresses[i] + a.bytes <= addresses[j] || addresses[j] + b.bytes <= addresses[i]
        assert.ok(!together || apart || a.bytes === 0 || b.bytes === 0, `round ${round}: ${i} and ${j}`)
      })
    })
  }
})

test('the plan of memory reuses what is free', () => {
  const lifetimes = Array.from({ length: 10 }, (_, i) => ({ bytes: 64, first: 2 * i, last: 2 * i + 1 }))
  assert.equal(planMemory(lifetimes).bytes, 64)
})
