/** Makes the report.html of a run. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Config } from './config.ts'
import { type MetricsRow, divergenceIn, evaluationsIn, whatDiverged } from './metrics.ts'
import { dottedNames } from '../../common/names.ts'

export type Report = {
  readonly config: Config
  readonly options: Readonly<Record<string, unknown>>
  readonly rows: readonly MetricsRow[]
  readonly sample: string
}

/** A page with the charts and the options of a run. It contains all its scripts and data, so it works offline. */
export function reportHtml({ config, options, rows, sample }: Report): string {
  const chart = dirname(createRequire(import.meta.url).resolve('uplot/dist/uPlot.iife.min.js'))
  // JSON has no NaN and Infinity, and a chart cannot show them.
  const of = (name: string) => rows.map(row => (Number.isFinite(row[name]) ? row[name] : null))
  const data = {
    seconds: of('seconds'),
    tokens: of('tokens'),
    train: of('trainLoss'),
    validation: of('valLoss'),
  }
  const last = evaluationsIn(rows).findLast(({ valLoss }) => Number.isFinite(valLoss))
  const diverged = divergenceIn(rows)
  const { hyperparameters, ...flags } = options
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escape(config.name)}</title>
<style>
${readFileSync(join(chart, 'uPlot.min.css'), 'utf8')}
${style}
</style>
<h1>${escape(config.name)}</h1>
${diverged ? `<p><b>Diverged at step ${diverged.step}</b>: its ${whatDiverged(diverged)}.` : ''}
<p>${last ? `Validation loss <b>${last.valLoss.toFixed(4)}</b> after ${last.seconds.toFixed(1)} seconds, ${last.step} steps, ${last.tokens.toLocaleString('en')} tokens.` : 'Not evaluated yet.'}</p>
<div class="charts"><div id="seconds"></div><div id="tokens"></div></div>
${sample ? `<h2>Sample</h2>\n<pre>${escape(sample)}</pre>` : ''}
<div class="columns">
<section><h2>Run</h2>${table({ started: config.started, ...config.about })}</section>
<section><h2>Hyperparameters</h2>${table(dottedNames(hyperparameters))}</section>
<section><h2>Options</h2>${table(dottedNames(flags))}</section>
<section><h2>Environment</h2>${table(config.environment)}</section>
</div>
<h2>Evaluations</h2>
${rowTable(rows)}
<script>${readFileSync(join(chart, 'uPlot.iife.min.js'), 'utf8')}</script>
<script>
const data = ${scriptJson(data)}
${script}
</script>
</html>
`
}

const style = `
:root { color-scheme: light dark; --text: #222; --faint: #ddd }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --faint: #444 } }
body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--text) }
h1, h2 { font-weight: 600; line-height: 1.2 }
h2 { font-size: 1.1rem; margin-top: 2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem }
.columns { columns: 2 460px; margin-top: 2rem }
section { break-inside: avoid; margin-bottom: 1.5rem }
section h2 { margin-top: 0 }
.u-title { font-size: 1rem; font-weight: 600 }
pre { white-space: pre-wrap; padding: 1rem; border: 1px solid var(--faint); border-radius: 6px }
table { border-collapse: collapse }
th, td { padding: .1rem .8rem .1rem 0; text-align: left; vertical-align: top }
th { font-weight: 400; opacity: .7; white-space: nowrap }
td { overflow-wrap: anywhere }
.numbers { display: block; overflow-x: auto; font-variant-numeric: tabular-nums }
.numbers th, .numbers td { text-align: right; white-space: nowrap }
`

const script = `
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name)
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 })
// The first losses, of an untrained network, would compress the scale of the others.
const shown = [data.train, data.validation].flatMap(losses => losses.slice(Math.floor(losses.length / 10)))
const range = [0, 1].map(end => [Math.min, Math.max][end](...shown.filter(loss => loss != null)))
const margin = (range[1] - range[0]) / 20
for (const name of ['seconds', 'tokens']) {
  const box = document.getElementById(name)
  const axis = { stroke: color('--text'), grid: { stroke: color('--faint'), width: 1 }, ticks: { stroke: color('--faint') } }
  const format = (_, value) => value == null ? '–' : value.toFixed(4)
  const plot = new uPlot({
    title: 'Loss against ' + name,
    width: box.clientWidth,
    height: 320,
    scales: { x: { time: false }, y: margin > 0 ? { range: [range[0] - margin, range[1] + margin] } : {} },
    axes: [{ ...axis, values: (_, places) => places.map(place => short.format(place)) }, axis],
    series: [
      { label: name, value: (_, value) => value == null ? '–' : value.toLocaleString('en') },
      { label: 'training', stroke: '#8a8f98', width: 1, points: { size: 4, fill: '#8a8f98' }, value: format },
      { label: 'validation', stroke: '#2f7de1', width: 2, spanGaps: true, points: { size: 4, fill: '#2f7de1' }, value: format },
    ],
  }, [data[name], data.train, data.validation], box)
  addEventListener('resize', () => plot.setSize({ width: box.clientWidth, height: 320 }))
}
`

function table(entries: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(entries).filter(([, value]) => value !== undefined)
  return `<table>${rows.map(([name, value]) => `<tr><th>${escape(name)}<td>${escape(String(value))}`).join('')}</table>`
}

function rowTable(rows: readonly MetricsRow[]): string {
  const names = [...new Set([...evaluationsIn(rows).slice(-1), ...rows].flatMap(row => Object.keys(row)))]
  const number = (value: number | null | undefined) =>
    typeof value !== 'number' ? '' : Number.isInteger(value) ? String(value) : value.toPrecision(5)
  const lines = rows.map(row => `<tr>${names.map(name => `<td>${number(row[name])}`).join('')}`)
  return `<table class="numbers"><tr>${names.map(name => `<th>${escape(name)}`).join('')}${lines.join('')}</table>`
}

const escapes: Readonly<Record<string, string>> = {
  '<': '&lt;',
  '>': '&gt;',
  '&': '&amp;',
  '"': '&quot;',
  "'": '&#39;',
}
/** Escapes a text for HTML. */
const escape = (text: string) => text.replace(/[<>&"']/g, character => escapes[character])

/** A value as JSON inside a script element. The escapes keep it from ending the element or a line of the script. */
const scriptJson = (value: unknown) =>
  JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
