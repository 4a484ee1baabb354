/** The baselines' runs: stopped and taken up again, sampled from, and what they leave. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { type MetricsRow, readRows } from '../../run/record/metrics.ts'
import { checkpointsOf, endOrKill, main, makeFolder, start } from '../support/command.ts'

const { folder, runs, fresh, again } = makeFolder()
const data = fresh.slice(0, 2)
after(() => rmSync(folder, { recursive: true }))

const options: Record<string, string> = {
  '0.1':
    '--net.dim 16 --net.heads 2 --net.blocks 1 --batch.length 8 --batch.sequences 4 --batch.accumulate 3 ' +
    '--evaluation.every 6 --evaluation.batches 1',
  // Sequences grow, and steps are of one microbatch, or two, or three.
  '0.4':
    '--net.dim 16 --net.blocks 1 --batch.capacity 128 --batch.firstLength 8 --batch.length 32 --batch.growEvery 7 ' +
    '--microbatch.sampleEvery 2 --microbatch.rate 1 --microbatch.mostOutside 2.5 ' +
    '--evaluation.every 6 --evaluation.tokens 64',
}

/** All of a run that does not depend on the time. */
async function resultOf(run: string) {
  const rows = await readRows(join(runs, run, 'metrics.jsonl'))
  return {
    rows: rows.map((row): MetricsRow => ({ ...row, seconds: 0, tokensPerSecond: 0, peakShare: 0 })),
    hash: checkpointsOf(join(runs, run)).hash,
    sample: readFileSync(join(runs, run, 'sample.txt'), 'utf8'),
  }
}

for (const [version, own] of Object.entries(options)) {
  const args = [
    `baselines/hlb-gpt-${version}.ts`,
    ...data,
    ...again,
    ...own.split(' '),
    '--steps',
    '30',
    '--sample',
    '9',
  ]

  test(`${version}: interrupted, killed and taken up again, a run ends as if nothing had happened`, async () => {
    const { status, stderr } = main([...args, '--run', `${version}-whole`])
    assert.equal(status, 0, stderr)
    const uninterrupted = await resultOf(`${version}-whole`)
    assert.equal(uninterrupted.rows.length, 7, 'five evaluations, and two rows of every tenth step')
    if (version === '0.4') {
      const found = new Set(uninterrupted.rows.map(({ microbatches }) => microbatches))
      assert.ok(found.size > 1, `${[...found]} microbatches`)
      assert.equal(uninterrupted.rows.at(-1)!.length, 32)
    }

    const interrupted = start([...args, '--run', version])
    interrupted
      .stdout!.setEncoding('utf8')
      .on('data', text => /^\| *\d/m.test(text) && interrupted.kill('SIGINT'))
    assert.deepEqual(await once(interrupted, 'exit'), [130, null])
    for (let kills = 0; ; kills++) {
      // What to start is in the run.
      const child = start([...again, '--resume', version])
      child.stdout!.resume()
      await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
      const code = await endOrKill(child, kills < 2 ? Math.random() * 250 : 60_000)
      if (code === null) continue
      assert.equal(code, 0)
      break
    }
    assert.deepEqual(await resultOf(version), uninterrupted)
  })

  test(`${version}: a run leaves what it should, and is sampled from by its name`, () => {
    const names = readdirSync(join(runs, version)).toSorted()
    assert.deepEqual(names, ['checkpoints', 'config.json', 'metrics.jsonl', 'report.html', 'sample.txt'])
    const sample = (...more: string[]) =>
      main([...again, '--no-train', '--run', version, '--sample', '20', ...more])
    const { status, stdout, stderr } = sample('--prompt', 'lazy')
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^lazy.{5,}\n$/s)
    assert.equal(sample('--prompt', 'lazy').stdout, stdout)
  })
}
