/**
 * The dispatcher that every thread runs: it walks a list of phases in shared memory, takes items of each phase from a
 * counter, and makes the phase's calls for each item. No JavaScript runs in between.
 *
 * The list consists of i32: the number of phases, then for each phase whether to wait for the other threads first, the
 * number of items, the number of calls, and for each call the kernel's index in the table and the address of its
 * arguments.
 */

/** How many times a waiting thread checks before it asks the operating system to wake it: about 20 µs. */
const spins = 20_000

/** The barrier's state is two i32: how many threads have arrived, and how many times all threads have. */
export const barrierBytes = 8

export const dispatcherWat = `(module
  (import "env" "memory" (memory 1 65536 shared))
  (import "env" "table" (table 0 funcref))
  (type $kernel (func (param i32 i32 i32)))

  (func $barrier (param $state i32) (param $threads i32)
    (local $generation i32) (local $spins i32)
    (local.set $generation (i32.atomic.load offset=4 (local.get $state)))
    (if (i32.eq (i32.add (i32.atomic.rmw.add (local.get $state) (i32.const 1)) (i32.const 1)) (local.get $threads))
      (then
        (i32.atomic.store (local.get $state) (i32.const 0))
        (i32.atomic.store offset=4 (local.get $state) (i32.add (local.get $generation) (i32.const 1)))
        (drop (memory.atomic.notify offset=4 (local.get $state) (i32.const -1)))
        (return)))
    (loop $spin
      (br_if 1 (i32.ne (i32.atomic.load offset=4 (local.get $state)) (local.get $generation)))
      (local.set $spins (i32.add (local.get $spins) (i32.const 1)))
      (br_if $spin (i32.lt_u (local.get $spins) (i32.const ${spins}))))
    (loop $wait
      (drop (memory.atomic.wait32 offset=4 (local.get $state) (local.get $generation) (i64.const -1)))
      (br_if $wait (i32.eq (i32.atomic.load offset=4 (local.get $state)) (local.get $generation)))))

  (func (export "run") (param $program i32) (param $counters i32) (param $state i32) (param $threads i32) (param $scratch i32)
    (local $phases i32) (local $items i32) (local $calls i32) (local $call i32) (local $item i32)
    (local.set $phases (i32.load (local.get $program)))
    (local.set $program (i32.add (local.get $program) (i32.const 4)))
    (block $done
      (loop $phase
        (br_if $done (i32.eqz (local.get $phases)))
        (if (i32.load (local.get $program)) (then (call $barrier (local.get $state) (local.get $threads))))
        (local.set $items (i32.load offset=4 (local.get $program)))
        (local.set $calls (i32.load offset=8 (local.get $program)))
        (local.set $program (i32.add (local.get $program) (i32.const 12)))
        (block $taken
          (loop $next
            (local.set $item (i32.atomic.rmw.add (local.get $counters) (i32.const 1)))
            (br_if $taken (i32.ge_u (local.get $item) (local.get $items)))
            (local.set $call (i32.const 0))
            (loop $each
              (call_indirect (type $kernel)
                (i32.load offset=4 (i32.add (local.get $program) (i32.shl (local.get $call) (i32.const 3))))
                (local.get $item)
                (local.get $scratch)
                (i32.load (i32.add (local.get $program) (i32.shl (local.get $call) (i32.const 3)))))
              (local.set $call (i32.add (local.get $call) (i32.const 1)))
              (br_if $each (i32.lt_u (local.get $call) (local.get $calls))))
            (br $next)))
        (local.set $program (i32.add (local.get $program) (i32.shl (local.get $calls) (i32.const 3))))
        (local.set $counters (i32.add (local.get $counters) (i32.const 4)))
        (local.set $phases (i32.sub (local.get $phases) (i32.const 1)))
        (br $phase)))
    (call $barrier (local.get $state) (local.get $threads))))`
