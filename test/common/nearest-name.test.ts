import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nearestName } from '../../common/nearest-name.ts'

test('the nearest name is the likely one, or none', () => {
  const names = ['net.dim', 'net.blocks', 'optimizer.learningRate']
  assert.equal(nearestName('net.dims', names), 'net.dim')
  assert.equal(nearestName('optimizer.learning_rate', names), 'optimizer.learningRate')
  assert.equal(nearestName('colour', names), undefined)
  assert.equal(nearestName('x', []), undefined)
})
