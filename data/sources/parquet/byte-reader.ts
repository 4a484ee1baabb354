/** Reads the numbers and bytes of a Parquet page. */

/** Reads numbers and bytes in sequence, and throws at the end of the bytes. */
export class ByteReader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** How many bytes are left. */
  get left(): number {
    return this.#bytes.length - this.#at
  }

  /** The next bytes, without a copy. */
  take(length: number): Uint8Array {
    if (!(length >= 0 && length <= this.left)) throw new Error('a page ends too early')
    const start = this.#at
    this.#at += length
    return this.#bytes.subarray(start, this.#at)
  }

  byte(): number {
    return this.take(1)[0]!
  }

  /** The next four bytes as a number, little-endian. */
  uint32(): number {
    const at = this.#at
    this.take(4)
    const bytes = this.#bytes
    return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
  }

  /** The next number of up to 32 bits, stored seven bits per byte, lowest first (LEB128). */
  varint(): number {
    let value = 0
    for (let place = 1; place <= 2 ** 28; place *= 2 ** 7) {
      const byte = this.byte()
      value += (byte & 0x7f) * place
      if (byte < 0x80) return value
    }
    throw new Error('a number in a page is too large')
  }
}
