/** Recursion that is as deep as a graph is: on a stack of its own, since the call stack is too short for it. */

/**
 * Calls a recursive function. It is a generator: where it would call itself, it yields the argument of that call, and is
 * given back the result.
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
