/** Long computations that stop now and then, so that signals and timers have their turn. */
import { setImmediate } from 'node:timers/promises'

/** A computation that yields wherever it could stop for a moment. */
export type Pausing<Result> = Generator<void, Result>

/** Milliseconds after which one stops. */
const patience = 30

/** Runs a computation. The event loop takes a turn before it starts, and then again and again. */
export async function withPauses<Result>(work: Pausing<Result>): Promise<Result> {
  for (;;) {
    await setImmediate()
    const end = performance.now() + patience
    let step = work.next()
    while (!step.done && performance.now() < end) step = work.next()
    if (step.done) return step.value
  }
}

/** Runs a computation without a stop. */
export function withoutPauses<Result>(work: Pausing<Result>): Result {
  let step = work.next()
  while (!step.done) step = work.next()
  return step.value
}
