/** Which lines of the user's code the nodes of a graph come from. They are recorded on request only: see recordOrigins. */
import type { GraphNode } from './node.ts'

/** A line of the user's code. */
export interface Origin {
  /** As the runtime names it: in Node a file: URL. */
  readonly file: string
  readonly line: number
  /** The function that has the line; undefined where no function around it has a name. */
  readonly function: string | undefined
  /** Whether grad() made the node, while it differentiated what this line computes. */
  readonly isGradient: boolean
}

/** Stack frames that are searched for the user's. */
const mostFrames = 64

/** Frames of files whose name starts like one of these are not the user's. Undefined while nothing is recorded. */
let libraries: readonly string[] | undefined
/** The origin of the nodes that are being made; undefined where each gets that of the line that makes it. */
let given: Origin | undefined
const origins = new WeakMap<GraphNode, Origin>()

/**
 * Records the origin of every node from here on: the innermost stack frame whose file is neither of the engine nor in one
 * of these folders, which are file: URLs. Returns what stops it. Until it is called, no stack is looked at.
 */
export function recordOrigins(folders: readonly string[] = []): () => void {
  libraries = [new URL('..', import.meta.url).href, ...folders]
  return () => {
    libraries = undefined
  }
}

/** Whether origins are recorded. */
export const recordsOrigins = (): boolean => libraries !== undefined

/** Where a node comes from, if that was recorded. */
export const originOf = (tensor: GraphNode): Origin | undefined => origins.get(tensor)

/** Notes where a node that is being made comes from. */
export function noteOrigin(tensor: GraphNode): void {
  if (!libraries) return
  const origin = given ?? userFrame(libraries)
  if (origin) origins.set(tensor, origin)
}

/** Makes nodes that come from where the first of some tensors with an origin does: those of a rewritten graph, say. */
export function withOriginOf<T>(tensors: readonly GraphNode[], make: () => T): T {
  return libraries ? within(found(tensors), make) : make()
}

/** Makes nodes of a gradient, which come from where the first of some tensors with an origin does. */
export function asGradientOf<T>(tensors: readonly GraphNode[], make: () => T): T {
  if (!libraries) return make()
  const origin = found(tensors)
  return within(origin && { ...origin, isGradient: true }, make)
}

const found = (tensors: readonly GraphNode[]): Origin | undefined =>
  tensors.map(originOf).find(origin => origin !== undefined)

function within<T>(origin: Origin | undefined, make: () => T): T {
  const outer = given
  given = origin ?? outer
  try {
    return make()
  } finally {
    given = outer
  }
}

/** The line of the user's that is being executed. */
function userFrame(libraries: readonly string[]): Origin | undefined {
  const frames = callSites()
  const inLibrary = (file: string) =>
    file.startsWith('node:') || libraries.some(folder => file.startsWith(folder))
  let found: { file: string; line: number } | undefined
  for (const frame of frames) {
    // What is beyond an await has not called this.
    if (frame.isAsync()) break
    const [file, line, name] = [frame.getFileName(), frame.getLineNumber(), frame.getFunctionName()]
    if (!file || line === null || inLibrary(file)) continue
    found ??= { file, line }
    // A function without a name, such as one given to map(), is part of the one that calls it.
    if (file === found.file && name) return { ...found, function: name, isGradient: false }
  }
  return found && { ...found, function: undefined, isGradient: false }
}

/** The stack; empty where the runtime does not tell it frame by frame, as V8 does. */
function callSites(): readonly NodeJS.CallSite[] {
  if (!('captureStackTrace' in Error)) return []
  const { prepareStackTrace, stackTraceLimit } = Error
  let frames: readonly NodeJS.CallSite[] = []
  try {
    Error.stackTraceLimit = mostFrames
    Error.prepareStackTrace = (_, sites) => (frames = sites)
    const holder: { stack?: unknown } = {}
    Error.captureStackTrace(holder)
    // Only reading it calls prepareStackTrace.
    void holder.stack
  } finally {
    Error.prepareStackTrace = prepareStackTrace
    Error.stackTraceLimit = stackTraceLimit
  }
  return frames
}
