/** Recursion as deep as a graph. It keeps a stack of its own, since the call stack is too short. */

/**
 * Calls a recursive function, written as a generator: instead of calling itself it yields the argument, and the yield
 * returns the result.
 */
export function recursive<Argument, Result>(
  body: (argument: Argument) => Generator<Argument, Result, Result>,
  argument: Argument,
): Result {
  const calls = [body(argument)]
  let step = calls[0].next()
  for (;;) {
    if (step.done) {
      const { value } = step
      calls.pop()
      const caller = calls.at(-1)
      if (!caller) return value
      step = caller.next(value)
    } else {
      const call = body(step.value)
      calls.push(call)
      step = call.next()
    }
  }
}
