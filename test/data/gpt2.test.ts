import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { chunksOf } from '../../data/tokens/chunks.ts'
import { loadCorpus } from '../../data/corpus.ts'
import { countBytes, gpt2 } from '../../data/tokens/gpt2.ts'
import { readShort, textOf, type Text } from '../../data/sources/text.ts'
import { tokenize } from '../../data/tokens/tokenize.ts'
import { UserError } from '../../common/errors.ts'

/** As tiktoken's own Rust encodes them. */
const encodings: [text: string, tokens: number[]][] = [
  ["Hello world!  How's it?\n\n", [15496, 995, 0, 220, 1374, 338, 340, 30, 628]],
  [' = Robert Boulter = \n', [796, 5199, 347, 2852, 353, 796, 220, 198]],
  [' \n \n = = Gameplay = = \n', [220, 198, 220, 198, 796, 796, 3776, 1759, 796, 796, 220, 198]],
  ['合衆国 🙂🙃 naïve café', [28938, 230, 26193, 228, 32368, 121, 32485, 8582, 247, 225, 41492, 40304]],
  ['ﬃﬁ Ünïted\r\n\tStates', [171, 105, 225, 171, 105, 223, 49363, 77, 26884, 1513, 201, 198, 197, 42237]],
  // White space where JavaScript and Unicode do not agree, and a special token that is none in a text.
  [
    'a\u00a0\u3000 b\ufeff \ufeff\u0085c',
    [64, 1849, 5099, 222, 275, 171, 119, 123, 27332, 119, 123, 126, 227, 66],
  ],
  ['\u0000\u001c\u001f\u200b\u180e', [188, 216, 219, 9525, 157, 254, 236]],
  [
    "I'LL they'll 'tis <|endoftext|>",
    [40, 6, 3069, 484, 1183, 705, 48010, 1279, 91, 437, 1659, 5239, 91, 29],
  ],
]

let addresses = new Uint8Array()
before(async () => {
  const { validation } = await loadCorpus({ sequenceLength: 256 })
  addresses = Uint8Array.from(validation)
})

async function tokensOf(text: Text, chunkSize: number, threads = 2): Promise<number[]> {
  const tokens: number[] = []
  for await (const piece of tokenize(text, { chunkSize, threads })) tokens.push(...piece)
  return tokens
}

/** Letters, digits, marks and all kinds of white space in disorder. */
function disorder(length: number, seed: number): string {
  const characters = [..." \n\t\r  ab12.,'s\u00a0\u0085\u3000\u2028\ufeffé合🙂١"]
  let state = seed
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return characters[Math.floor((state / 2 ** 32) * characters.length)]!
  }).join('')
}

describe("GPT-2's tokens", () => {
  for (const [text, tokens] of encodings) {
    test(`of ${JSON.stringify(text)}`, () => {
      assert.deepEqual([...gpt2.encode(text)], tokens)
      assert.equal(gpt2.decoder()(tokens), text)
      assert.equal(countBytes(Uint16Array.from(tokens)), Buffer.byteLength(text))
    })
  }

  test('of half a megabyte of addresses', () => {
    const tokens = Uint16Array.from(gpt2.encode(new TextDecoder().decode(addresses)))
    assert.equal(tokens.length, 98_713)
    assert.equal(
      createHash('sha256').update(tokens).digest('hex'), // tiktoken's
      '4b4914f1468cd17620e36208016039ebb42660db3bbddfced447f7b63ecb1195',
    )
    assert.ok(Buffer.from(gpt2.decoder()(tokens)).equals(addresses))
    assert.equal(countBytes(tokens), addresses.length)
  })

  test('give the text back one by one, characters of several tokens too', () => {
    const decode = gpt2.decoder()
    const pieces = [...gpt2.encode('🙂 合衆国')].map(token => decode([token]))
    assert.equal(pieces.join(''), '🙂 合衆国')
    assert.equal(pieces[0], '')
  })

  test('are not made of what is no text', () => {
    assert.throws(
      () => gpt2.encode('x'.repeat(30_000)),
      /30,000 characters without a space .* --tokenizer bytes/,
    )
  })
})

describe('a text in chunks', () => {
  test('has the tokens of the whole', async () => {
    const whole = [...gpt2.encode(new TextDecoder().decode(addresses))]
    for (const chunkSize of [1000, 65_536, 2 ** 20]) {
      assert.deepEqual(await tokensOf(textOf(addresses), chunkSize), whole)
    }
  })

  test('has the tokens of the whole, however disorderly', async () => {
    for (let seed = 0; seed < 20; seed++) {
      const text = disorder(2000, seed)
      const bytes = new TextEncoder().encode(text)
      const inChunks: number[] = []
      let chunks = 0
      for await (const chunk of chunksOf(textOf(bytes), 20)) {
        inChunks.push(
          ...gpt2.encode(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(chunk)),
        )
        chunks++
      }
      assert.ok(chunks > 20, `${chunks} chunks`)
      assert.deepEqual(inChunks, [...gpt2.encode(text)])
    }
  })

  test('is the same whatever pieces it comes in', async () => {
    const bytes = new TextEncoder().encode(disorder(5000, 7))
    const pieces = function* () {
      for (let i = 0; i < bytes.length; i += 7) yield bytes.subarray(i, i + 7)
    }
    const again = { size: bytes.length, pieces: () => chunksOf({ size: bytes.length, pieces }, 100) }
    assert.ok(Buffer.from((await readShort(again, bytes.length)) ?? []).equals(bytes))
  })

  test('has the tokens of the whole without a space, with line ends of Windows, and in any mixture', async () => {
    const kinds = [
      'a',
      's',
      'é',
      '合',
      '🙂',
      '1',
      '²',
      'Ⅷ',
      '١',
      '.',
      "'",
      '’',
      "'s",
      "'re",
      "'ll",
      '\u0301',
      '\0',
    ]
    const white = [' ', '\n', '\r\n', '\r', '\t', '\u00a0', '\u0085', '\u3000']
    let state = 1
    const draw = (limit: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return Math.floor((state / 2 ** 32) * limit)
    }
    for (const all of [kinds, white, [...kinds, '\r\n'], [...kinds, ...white]]) {
      for (let i = 0; i < 50; i++) {
        const some = Array.from({ length: 2 + draw(8) }, () => all[draw(all.length)]!)
        const text = Array.from({ length: 300 }, () => some[draw(some.length)]!).join('')
        const inChunks: number[] = []
        for await (const chunk of chunksOf(textOf(new TextEncoder().encode(text)), 1 + draw(20))) {
          inChunks.push(
            ...gpt2.encode(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(chunk)),
          )
        }
        assert.deepEqual(inChunks, [...gpt2.encode(text)], JSON.stringify(text))
      }
    }
  })

  test('is cut where no space is', async () => {
    for (const row of ['1.234,-0.5,7\r\n', '合衆国。合衆国、', 'one\ttwo\t', 'a1', 'x=y;']) {
      const bytes = new TextEncoder().encode(row.repeat(1000))
      const sizes = (await Array.fromAsync(chunksOf(textOf(bytes), 100))).map(chunk => chunk.length)
      assert.ok(Math.max(...sizes) <= 100, `${row}: ${Math.max(...sizes)} bytes`)
    }
  })

  test('is refused when a megabyte has no place to cut, whatever its size', async () => {
    const pieces = function* () {
      for (let i = 0; ; i++) yield Buffer.from('ACGT'.repeat(2 ** 16))
    }
    await assert.rejects(
      tokensOf({ size: 1e12, pieces }, 2 ** 16),
      /more than 1,048,576 bytes without a place between two words.*--tokenizer bytes/,
    )
  })

  test('stays whole where there is no place to cut', async () => {
    const bytes = new TextEncoder().encode('合'.repeat(1000))
    const chunks = await Array.fromAsync(chunksOf(textOf(bytes), 100))
    assert.equal(chunks.length, 1)
  })

  test('is refused, and no thread is left, when it is not UTF-8', async () => {
    const latin1 = Buffer.from('caf\xe9 au lait, '.repeat(1000), 'latin1')
    await assert.rejects(tokensOf(textOf(latin1), 1000), (error: unknown) => {
      assert.ok(error instanceof UserError)
      assert.match(error.message, /not UTF-8.*--tokenizer bytes/)
      return true
    })
  })
})
