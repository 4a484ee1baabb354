/** Long computations that pause now and then, so that the event loop can handle signals and timers. */
import { setImmediate } from 'node:timers/promises'

/** A computation that yields wherever it could pause. */
export type Pausing<Result> = Generator<void, Result>

/** Milliseconds of work between two pauses. */
const patience = 30

/** Runs a computation, with a turn of the event loop before it starts and at each pause. */
export async function withPauses<Result>(work: Pausing<Result>): Promise<Result> {
  for (;;) {
    await setImmediate()
    const end = performance.now() + patience
    let step = work.next()
    while (!step.done && performance.now() < end) step = work.next()
    if (step.done) return step.value
  }
}

/** Runs a computation without pauses. */
export function withoutPauses<Result>(work: Pausing<Result>): Result {
  let step = work.next()
  while (!step.done) step = work.next()
  return step.value
}
