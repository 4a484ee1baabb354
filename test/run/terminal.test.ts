import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { headerText } from '../../run/terminal/header.ts'
import { nearestName } from '../../common/nearest-name.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { createProgress, duration, type Screen } from '../../common/progress.ts'
import { rowOf, trainingColumns } from '../../run/terminal/columns.ts'
import { createTable } from '../../run/terminal/table.ts'
import { wrapText } from '../../run/terminal/wrap.ts'

const project = pathToFileURL(resolve(import.meta.dirname, '../..')).href

/** The arguments that make Node run a script whose imports from 'project/' are this project's. */
function nodeArguments(script: string): string[] {
  return ['--input-type=module', '--eval', script.replaceAll("'project/", `'${project}/`)]
}

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

test('folders are made with those above them, or the system says why not', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
  try {
    const deep = join(folder, 'a', 'b', 'c')
    await Promise.all([makeFolders(deep), makeFolders(deep)])
    await makeFolders(deep)
    assert.ok(statSync(deep).isDirectory())
    writeFileSync(join(folder, 'file'), '')
    await assert.rejects(makeFolders(join(folder, 'file')), { code: 'EEXIST' })
    await assert.rejects(makeFolders(join(folder, 'file', 'below')), { code: 'EEXIST' })
    // Here Node's own way of making folders never ends.
    if (process.platform === 'linux')
      await assert.rejects(makeFolders('/proc/none/at/all'), { code: 'ENOENT' })
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('the header is aligned', () => {
  assert.equal(headerText({ parameters: '1', seed: '0' }), 'parameters  1\nseed        0')
})

test('the nearest name is the likely one, or none', () => {
  const names = ['net.dim', 'net.blocks', 'optimizer.learningRate']
  assert.equal(nearestName('net.dims', names), 'net.dim')
  assert.equal(nearestName('optimizer.learning_rate', names), 'optimizer.learningRate')
  assert.equal(nearestName('colour', names), undefined)
  assert.equal(nearestName('x', []), undefined)
})

describe('errors', () => {
  function runScript(script: string): { status: number | null; stderr: string } {
    const code = `import { UserError } from 'project/common/errors.ts'; import { handleErrors } from 'project/run/process/handle-errors.ts'; handleErrors(); ${script}`
    const { status, stderr } = spawnSync(process.execPath, nodeArguments(code), { encoding: 'utf8' })
    return { status, stderr }
  }

  test('of the user show their message alone', () => {
    const expected = { status: 1, stderr: 'no such file\n' }
    assert.deepEqual(runScript(`throw new UserError('no such file')`), expected)
    assert.deepEqual(runScript(`void Promise.reject(new UserError('no such file'))`), expected)
  })

  test('of ours keep their stack', () => {
    const { status, stderr } = runScript(`throw new TypeError('oh')`)
    assert.equal(status, 1)
    assert.match(stderr, /TypeError: oh\n +at /)
  })

  test('a reader that goes away ends the run quietly', async () => {
    const script = `
      import { handleErrors } from 'project/run/process/handle-errors.ts'
      handleErrors()
      setInterval(() => console.log('row'), 5)`
    const child = spawn(process.execPath, nodeArguments(script), { stdio: ['ignore', 'pipe', 'pipe'] })
    let stderr = ''
    child.stderr.on('data', piece => void (stderr += piece))
    await once(child.stdout, 'data')
    child.stdout.destroy()
    const [code] = await once(child, 'close')
    assert.equal(code, 0)
    assert.equal(stderr, '')
  })
})

test(
  'a full disk under the output is said once, and ends nothing',
  { skip: !existsSync('/dev/full') },
  () => {
    const script = `
    import { handleErrors } from 'project/run/process/handle-errors.ts'
    handleErrors()
    console.log('row')
    setTimeout(() => (console.log('row'), process.exitCode = 7), 20)`
    const { status, stderr } = spawnSync(process.execPath, nodeArguments(script), {
      stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'],
      encoding: 'utf8',
    })
    assert.equal(status, 7)
    assert.match(stderr, /^The output cannot be written \([^\n]*ENOSPC[^\n]*\): this goes on without\.\n$/)
  },
)

describe('Ctrl-C', { skip: process.platform === 'win32' }, () => {
  const script = `
    import { existsSync } from 'node:fs'
    import { watchInterrupt } from 'project/run/process/interrupt.ts'
    const mode = process.argv[1]
    process.on('exit', () => console.log('cleaned up'))
    const interrupt = watchInterrupt(async () => {
      console.log('heard')
      const end = performance.now() + 400
      if (mode === 'busy at first') while (performance.now() < end || !existsSync(process.argv[2]));
      if (mode !== 'busy for ever') return
      await interrupt.settled()
      console.log('settled')
      while (true);
    })
    if (mode !== 'early') interrupt.begin()
    await interrupt.settled()
    console.log('started')
    const timer = setInterval(() => {
      if (!interrupt.requested || mode === 'busy for ever') return
      clearInterval(timer)
      console.log('closed')
    }, 20)`

  /** A shell's `_` is the command that it started. */
  async function start(mode = '', file = '', command = '') {
    const child = spawn(process.execPath, [...nodeArguments(script), '--', mode, file], {
      stdio: 'pipe',
      env: { ...process.env, _: command },
    })
    let stdout = ''
    child.stdout.on('data', piece => void (stdout += piece))
    const printed = async (text: string) => {
      while (!stdout.includes(text)) await once(child.stdout, 'data')
    }
    const ended = once(child, 'close').then(([code, signal]) => ({ end: code ?? signal, stdout }))
    await printed('started')
    return { child, ended, printed }
  }
  const gentle = 'started\nheard\nclosed\ncleaned up\n'

  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    test(`${signal} lets the run end by itself, with its own exit code`, async () => {
      const { child, ended } = await start()
      child.kill(signal)
      assert.deepEqual(await ended, { end: code, stdout: gentle })
    })
  }

  test('before there is work to save ends it at once, and what is to be tidied up is', async () => {
    const { child, ended } = await start('early')
    child.kill('SIGINT')
    assert.deepEqual(await ended, { end: 130, stdout: 'started\ncleaned up\n' })
  })

  test('once, told twice as npm does, is once', async () => {
    const { child, ended, printed } = await start()
    child.kill('SIGINT')
    await printed('heard')
    child.kill('SIGINT')
    assert.deepEqual(await ended, { end: 130, stdout: gentle })
  })

  test('once, told twice while the process is busy, is once', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
    const file = join(folder, 'sent')
    const { child, ended, printed } = await start('busy at first', file)
    child.kill('SIGINT')
    await printed('heard')
    child.kill('SIGINT')
    writeFileSync(file, '')
    assert.deepEqual(await ended, { end: 130, stdout: gentle })
    rmSync(folder, { recursive: true })
  })

  test('twice ends it at once, however busy it is', async () => {
    const { child, ended, printed } = await start('busy for ever')
    child.kill('SIGINT')
    await printed('settled')
    child.kill('SIGINT')
    assert.deepEqual(await ended, { end: 'SIGINT', stdout: 'started\nheard\nsettled\n' })
  })

  test('does not mean a closed terminal to what nohup started', async () => {
    const { child, ended } = await start('', '', '/usr/bin/nohup')
    child.kill('SIGHUP')
    child.kill('SIGTERM')
    assert.deepEqual(await ended, { end: 143, stdout: gentle })
  })
})
