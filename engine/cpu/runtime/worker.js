// A thread of the CPU backend: it receives kernels and runs programs. Plain JavaScript, so that threads need not load
// Node's type stripping.
import { parentPort, workerData } from 'node:worker_threads'

/** @type {import('./threads.ts').ThreadData} */
const { memory, dispatcher, thread, barrier } = workerData
const table = new WebAssembly.Table({ element: 'anyfunc', initial: 0 })
const { run } = new WebAssembly.Instance(dispatcher, { env: { memory, table } }).exports

/** @param {import('./threads.ts').ThreadMessage} message */
function handle(message) {
  if (message.kind === 'kernels') {
    const kernels = new WebAssembly.Instance(message.module, { env: { memory } }).exports
    table.grow(message.names.length)
    message.names.forEach((name, i) => table.set(message.first + i, kernels[name]))
  } else if (typeof run === 'function') {
    const { program, counters, threads, scratch, scratchBytes } = message
    run(program, counters, barrier, threads, scratch + thread * scratchBytes)
    if (thread === 0) parentPort?.postMessage('done')
  }
}

parentPort?.on('message', handle)
