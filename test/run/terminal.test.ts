import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { rowOf, trainingColumns } from '../../run/terminal/columns.ts'
import { headerText } from '../../run/terminal/header.ts'
import { createTable } from '../../run/terminal/table.ts'
import { wrapText } from '../../run/terminal/wrap.ts'

describe('the table', () => {
  const full = {
    epoch: 0.125,
    step: 1200,
    trainLoss: 1.23456,
    valLoss: 1.2,
    valPerplexity: Math.exp(1.2),
    trainAccuracy: 0.61234,
    valAccuracy: 0.6,
    gradNorm: 0.4567,
    bitsPerByte: 1.2 / Math.LN2,
    tokensPerSecond: 123456.7,
    peakShare: 0.7123,
    seconds: 59.96,
  }

  test('prints its rows as they come, and one last rule', () => {
    const lines: string[] = []
    const table = createTable(trainingColumns, line => lines.push(line))
    assert.equal(lines.length, 0, 'nothing before the first row')
    table.row({ ...full, step: 0, epoch: 0, trainLoss: undefined, valPerplexity: 1e9, gradNorm: 1e5 })
    assert.equal(lines.length, 4)
    table.row(full)
    table.row({ step: 1210, trainLoss: 1.1 })
    table.close()
    table.close()
    const rule = '-'.repeat(lines[0]!.length)
    assert.deepEqual(lines, [
      rule,
      '| epoch |   step | train_loss | val_loss | val_perplexity | train_acc | val_acc | grad_norm | bits/byte | tokens/s | % peak | seconds |',
      rule,
      '|  0.00 |      0 |            |   1.2000 |         1.0e+9 |     0.612 |   0.600 |    1.0e+5 |     1.731 |   123457 |   71.2 |    60.0 |',
      '|  0.13 |   1200 |      1.235 |   1.2000 |          3.320 |     0.612 |   0.600 |     0.457 |     1.731 |   123457 |   71.2 |    60.0 |',
      '|       |   1210 |      1.100 |          |                |           |         |           |           |          |        |         |',
      rule,
    ])
  })

  test('computes each column from the moment of a row', () => {
    const row = rowOf({
      at: { step: 30, tokens: 3000, seconds: 9 },
      results: { loss: 2, accuracy: 0.5, gradNorm: 1.5 },
      validation: { loss: Math.LN2, accuracy: 0.25 },
      since: { tokens: 1000, flops: 8e9, seconds: 4 },
      epochTokens: 12_000,
      bytesPerToken: 4,
      peakGflops: 8,
    })
    assert.deepEqual(row, {
      epoch: 0.25,
      step: 30,
      trainLoss: 2,
      valLoss: Math.LN2,
      valPerplexity: Math.exp(Math.LN2),
      trainAccuracy: 0.5,
      valAccuracy: 0.25,
      gradNorm: 1.5,
      bitsPerByte: 0.25,
      tokensPerSecond: 250,
      peakShare: 0.25,
      seconds: 9,
    })
  })

  test('closes without a rule when there was no row', () => {
    createTable(trainingColumns, line => assert.fail(line)).close()
  })

  test('keeps the validation loss alone where there is hardly room', () => {
    for (const [width, headings] of [
      [20, ['step', 'val_loss']],
      [1, ['val_loss']],
    ] as const) {
      const lines: string[] = []
      createTable(trainingColumns, line => lines.push(line), width).row(full)
      assert.deepEqual(
        lines[1]!.split('|').flatMap(cell => cell.trim() || []),
        headings,
      )
    }
  })

  for (const width of [140, 120, 100, 80, 60]) {
    test(`fits ${width} columns`, () => {
      const lines: string[] = []
      const table = createTable(trainingColumns, line => lines.push(line), width)
      table.row(full)
      table.close()
      assert.ok(Math.max(...lines.map(line => line.length)) <= width, lines.join('\n'))
      assert.equal(new Set(lines.map(line => line.length)).size, 1)
      for (const kept of ['step', 'train_loss', 'val_loss', 'seconds']) assert.ok(lines[1]!.includes(kept))
      // A terminal of 120 columns has room for all of them.
      if (width >= 120) assert.equal(lines[1]!.split('|').length, 14)
    })
  }
})

describe('wrapped text', () => {
  /** The text that comes out when it goes in whole; it must be the same a character at a time. */
  function wrapped(text: string, width: number): string {
    const outputs = [[text], [...text]].map(pieces => {
      let output = ''
      const wrapper = wrapText(piece => void (output += piece), width)
      for (const piece of pieces) wrapper.write(piece)
      wrapper.end()
      return output
    })
    assert.equal(outputs[0], outputs[1])
    return outputs[0]!
  }

  test('breaks at spaces and keeps its own line feeds', () => {
    assert.equal(wrapped('one two three\n\nfour  five', 8), 'one two\nthree\n\nfour\nfive\n')
    assert.equal(wrapped('12345678 x', 8), '12345678\nx\n')
  })

  test('takes every line end for one', () => {
    assert.equal(wrapped('one\r\ntwo\rthree\n\rfour\r\n\r\nfive', 8), 'one\ntwo\nthree\n\nfour\n\nfive\n')
  })

  test('fits any width', () => {
    assert.equal(wrapped('ab c', 1), 'a\nb\nc\n')
    assert.equal(wrapped('ab c', 1000), 'ab c\n')
  })

  test('cuts a word that is wider than a line', () => {
    assert.equal(wrapped('ab 0123456789', 4), 'ab\n0123\n4567\n89\n')
  })

  test('holds back only the word that is not whole yet', () => {
    let output = ''
    const wrapper = wrapText(piece => void (output += piece))
    wrapper.write('My fellow Amer')
    assert.equal(output, 'My fellow')
    wrapper.write('icans,')
    wrapper.end()
    assert.equal(output, 'My fellow Americans,\n')
  })

  test('lets no byte of the network steer the terminal', () => {
    assert.equal(wrapped('a\x1b[2Jb\u009bc', 80), 'a\ufffd[2Jb\ufffdc\n')
    assert.equal(wrapped('a\u202eb\u2067c', 80), 'a\ufffdb\ufffdc\n')
  })
})

test('the header is aligned', () => {
  assert.equal(headerText({ parameters: '1', seed: '0' }), 'parameters  1\nseed        0')
})
