import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createProgress, duration, type Screen } from '../../common/progress.ts'

describe('the progress line', () => {
  function screenOf(isTTY: boolean, columns = 80): Screen & { written: string } {
    const screen = {
      isTTY,
      columns,
      written: '',
      write: (text: string) => void (screen.written += text),
    }
    return screen
  }

  test('is silent in a pipe, where only lines are printed', () => {
    const screen = screenOf(false)
    const progress = createProgress(screen, undefined, 'xterm')
    progress.update(0.5, 'step 1')
    progress.print('a row')
    progress.clear()
    assert.equal(screen.written, 'a row\n')
  })

  test('is erased before a line is printed, and drawn at most ten times a second', () => {
    let seconds = 0
    const screen = screenOf(true)
    const progress = createProgress(screen, () => seconds, 'xterm')
    for (; seconds < 1; seconds += 0.01) progress.update(seconds / 4, `step ${Math.round(seconds * 100)}`)
    const draws = screen.written.split('\r\x1b[K').slice(1)
    assert.ok(draws.length >= 8 && draws.length <= 10, `${draws.length} draws`)
    assert.match(draws[5]!, /^█+░+ \d+%  0:0[34] left  step \d+$/)
    screen.written = ''
    progress.print('a row')
    progress.clear()
    assert.equal(screen.written, '\r\x1b[Ka row\n', 'erased once')
  })

  test('is never wider than the terminal', () => {
    const screen = screenOf(true, 40)
    createProgress(screen, undefined, 'xterm').update(0.5, 'x'.repeat(100))
    assert.equal(screen.written.replace('\r\x1b[K', '').length, 39)
    for (const columns of [1, 20, 1000]) {
      const other = screenOf(true, columns)
      createProgress(other, undefined, 'xterm').update(0.5, 'x'.repeat(100))
      assert.ok(other.written.replace('\r\x1b[K', '').length < columns, `${columns} columns`)
    }
  })

  test('takes 80 columns where the terminal does not know how many it has', () => {
    const screen = screenOf(true, 0)
    createProgress(screen, undefined, 'xterm').update(0.5, 'x'.repeat(100))
    assert.equal(screen.written.replace('\r\x1b[K', '').length, 79)
  })

  test('is silent on a terminal that cannot erase a line', () => {
    const screen = screenOf(true)
    const progress = createProgress(screen, undefined, 'dumb')
    progress.update(0.5, 'step 1')
    progress.print('a row')
    progress.clear()
    assert.equal(screen.written, 'a row\n')
  })

  test('tells time as people do', () => {
    assert.deepEqual([0, 7.4, 59.6, 179, 3750].map(duration), ['0:00', '0:07', '1:00', '2:59', '1:02:30'])
  })
})
