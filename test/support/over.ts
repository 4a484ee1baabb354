/** An object with some members replaced, and others' calls if onEach returns something. */
export function over<T extends object>(object: T, own: object, onEach?: (method: string) => unknown): T {
  return new Proxy(object, {
    get(_, key) {
      if (key in own) return Reflect.get(own, key)
      const member: unknown = Reflect.get(object, key, object)
      if (typeof member !== 'function') return member
      return (...given: unknown[]): unknown => onEach?.(String(key)) ?? Reflect.apply(member, object, given)
    },
    set: (_, key, value) => Reflect.set(object, key, value, object),
  })
}
