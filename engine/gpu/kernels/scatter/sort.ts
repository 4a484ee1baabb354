// A radix sort of positions by their keys.
import { Buffer } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import type { Dispatch, Target, TypeOf } from '../kernel.ts'
import { shader } from '../shader.ts'

/** Invocations of a workgroup: one for each value of a digit. */
const size = 256
const digitBits = 8

/** The integers to sort by: `count` of them, from an offset in a buffer on, each clamped to 0 ... limit - 1. */
export interface Keys {
  readonly keys: Buffer
  readonly offset: number
  readonly count: number
  readonly limit: number
}

/**
 * Sorts positions by their keys, and equal keys by position: a radix sort by digits of 8 bits, the lowest first, with as
 * many digits as the limit needs. sorted: [count, 2], pairs of a key and its position.
 */
export function radixSort(
  { keys, offset, count, limit }: Keys,
  typeOf: TypeOf,
  target: Target,
): { sorted: Buffer; dispatches: Dispatch[] } {
  const bits = 32 - Math.clz32(limit - 1)
  const digits = Math.max(1, Math.ceil(bits / digitBits))
  // Each workgroup goes through its tile in rounds, and through the counts of all tiles. Both take about as long.
  const rounds = Math.max(1, Math.round(Math.sqrt(count / size) / 3))
  const tiles = Math.ceil(count / (rounds * size))
  const passes = Array.from({ length: digits }, (_, digit) => ({
    digit,
    counts: new Buffer(tiles * size, 'int32'),
    sorted: new Buffer(2 * count, 'int32'),
  }))
  const dispatches = passes.flatMap(({ digit, counts, sorted }, i) => {
    const from = i === 0 ? undefined : passes[i - 1].sorted
    /** WGSL for the pair at i, as the previous digit has sorted it. */
    const source = (bindings: Bindings): string =>
      from
        ? `${bindings.name(from, { lanes: 2 })}[i]`
        : `vec2i(clamp(${bindings.name(keys)}[${offset}u + i], 0, ${limit - 1}), i32(i))`
    const each = from ? 8 : 4
    const pass: SortPass = { count, rounds, tiles, digit, source, typeOf, target }
    return [
      countDispatch(pass, counts, count * each + tiles * size * 4),
      placeDispatch(pass, counts, sorted, count * (each + 8) + tiles * size * 4),
    ]
  })
  return { sorted: passes[digits - 1].sorted, dispatches }
}

interface SortPass {
  readonly count: number
  readonly rounds: number
  readonly tiles: number
  readonly digit: number
  readonly source: (bindings: Bindings) => string
  readonly typeOf: TypeOf
  readonly target: Target
}

const nameOf = (what: string, { count, digit }: SortPass) => `sort ${count}, ${what} of digit ${digit}`

/** Counts how often each tile has each value of a digit: [tiles, values]. */
function countDispatch(pass: SortPass, counts: Buffer, bytes: number): Dispatch {
  const { count, rounds, tiles, digit, source, typeOf, target } = pass
  const bindings = new Bindings(typeOf)
  const pair = source(bindings)
  const result = bindings.name(counts, { writes: true })
  const body = `
  atomicStore(&counts[thread], 0u);
  workgroupBarrier();
  for (var round = 0u; round < ${rounds}u; round++) {
    let i = (group * ${rounds}u + round) * ${size}u + thread;
    if (i < ${count}u) { atomicAdd(&counts[(u32(${pair}.x) >> ${digit * digitBits}u) % ${size}u], 1u); }
  }
  workgroupBarrier();
  ${result}[group * ${size}u + thread] = i32(atomicLoad(&counts[thread]));`
  const declarations = `var<workgroup> counts: array<atomic<u32>, ${size}>;`
  const code = shader({ bindings, target, size, workgroups: tiles, declarations, body })
  const kernel = { name: nameOf('counts', pass), code }
  return {
    kernel,
    buffers: bindings.buffers,
    writes: bindings.writes,
    workgroups: tiles,
    flops: 0,
    bytes,
  }
}

/**
 * Puts each tile's pairs in their places. In a round of 256 pairs, each marks its bit for its digit's value. The number of
 * marked bits before its own is its place among the round's pairs with this value.
 */
function placeDispatch(pass: SortPass, counts: Buffer, sorted: Buffer, bytes: number): Dispatch {
  const { count, rounds, tiles, digit, source, typeOf, target } = pass
  const words = size / 32
  const bindings = new Bindings(typeOf)
  const pair = source(bindings)
  const counted = bindings.name(counts)
  const result = bindings.name(sorted, { writes: true, lanes: 2 })
  const body = `
  // For the value that is this thread's number: how many there are in all, and in the tiles before.
  var total = 0u;
  var before = 0u;
  for (var tile = 0u; tile < ${tiles}u; tile++) {
    let found = u32(${counted}[tile * ${size}u + thread]);
    total += found;
    before += select(0u, found, tile < group);
  }
  next[thread] = total;
  workgroupBarrier();
  for (var distance = 1u; distance < ${size}u; distance *= 2u) {
    var sum = next[thread];
    if (thread >= distance) { sum += next[thread - distance]; }
    workgroupBarrier();
    next[thread] = sum;
    workgroupBarrier();
  }
  next[thread] = next[thread] - total + before;
  let word = thread / 32u;
  let bit = 1u << (thread % 32u);
  for (var round = 0u; round < ${rounds}u; round++) {
    for (var w = 0u; w < ${words}u; w++) { atomicStore(&marks[w * ${size}u + thread], 0u); }
    workgroupBarrier();
    let i = (group * ${rounds}u + round) * ${size}u + thread;
    let exists = i < ${count}u;
    var pair: vec2i;
    if (exists) { pair = ${pair}; }
    let value = (u32(pair.x) >> ${digit * digitBits}u) % ${size}u;
    if (exists) { atomicOr(&marks[word * ${size}u + value], bit); }
    workgroupBarrier();
    if (exists) {
      var place = next[value] + countOneBits(atomicLoad(&marks[word * ${size}u + value]) & (bit - 1u));
      for (var w = 0u; w < word; w++) { place += countOneBits(atomicLoad(&marks[w * ${size}u + value])); }
      ${result}[place] = pair;
    }
    workgroupBarrier();
    for (var w = 0u; w < ${words}u; w++) {
      next[thread] += countOneBits(atomicLoad(&marks[w * ${size}u + thread]));
    }
  }`
  const declarations = `
var<workgroup> marks: array<atomic<u32>, ${words * size}>;
/** Where the next pair of each value goes. */
var<workgroup> next: array<u32, ${size}>;`
  const code = shader({ bindings, target, size, workgroups: tiles, declarations, body })
  return {
    kernel: { name: nameOf('places', pass), code },
    buffers: bindings.buffers,
    writes: bindings.writes,
    workgroups: tiles,
    flops: 0,
    bytes,
  }
}
