/** Assigns variables in a traced function. */
import { ShapeError, sameShape, showShape } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'
import { Trace } from '../graph/trace.ts'
import type { Variable } from './variable.ts'

/**
 * Sets the value that a variable has after the call that is being traced. Throws outside of compile(), when the function
 * has assigned the variable before, and when shape or dtype differ (ShapeError).
 */
export function assign(variable: Variable, value: Tensor): void {
  const trace = Trace.active
  if (!trace)
    throw new Error('assign() works within a function given to compile(); elsewhere use variable.write()')
  if (trace.assignments.has(variable))
    throw new Error('assign: this variable has been assigned in this function already')
  if (!sameShape(variable.shape, value.shape) || variable.dtype !== value.dtype) {
    throw new ShapeError(
      `assign: a variable ${variable.dtype} ${showShape(variable.shape)} cannot take ${value.dtype} ${showShape(value.shape)}`,
    )
  }
  trace.assignments.set(variable, value)
}
