import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, beforeEach, describe, test } from 'node:test'
import { loadCorpus, type Corpus, type CorpusOptions } from '../../data/corpus.ts'
import { gpt2 } from '../../data/tokens/gpt2.ts'
import { wikitext103, type Edition } from '../../data/sources/wikitext.ts'
import { smallWikitext } from '../support/wikitext.ts'
import { refusal } from '../support/refusal.ts'

const { text, files, edition } = smallWikitext()

/** What the server does instead of answering well. */
type Fault = (request: IncomingMessage, response: ServerResponse, content: Uint8Array) => void
let fault: Fault | undefined
let requests: string[] = []
let server: Server
let address = ''
let folder = ''

before(async () => {
  server = createServer((request, response) => {
    const name = request.url!.slice(request.url!.lastIndexOf('/') + 1)
    requests.push(`${name} ${request.headers.range ?? ''}`.trim())
    const content = files.get(name)
    if (!content) response.writeHead(404).end()
    else if (fault) fault(request, response, content)
    else serve(request, response, content)
  }).listen(0, '127.0.0.1')
  await new Promise(done => server.once('listening', done))
  const at = server.address()
  address = `http://127.0.0.1:${typeof at === 'object' ? at?.port : ''}`
})
after(() => {
  server.closeAllConnections()
  server.close()
})
beforeEach(async () => {
  fault = undefined
  requests = []
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-wikitext-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

/** Answers as a server of files does, from a byte on if it is asked to. */
function serve(request: IncomingMessage, response: ServerResponse, content: Uint8Array): void {
  const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
  const range = { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` }
  response.writeHead(from > 0 ? 206 : 200, {
    'content-length': content.length - from,
    ...(from > 0 ? range : {}),
  })
  response.end(content.subarray(from))
}

function load(more: Partial<CorpusOptions> & { edition?: Edition } = {}): Promise<Corpus> {
  return loadCorpus({
    data: 'wikitext-103',
    sequenceLength: 32,
    cacheFolder: folder,
    edition: edition(`${address}/parquet/`, `${address}/zip/`),
    patience: { tries: 3, waitMilliseconds: 1, stallMilliseconds: 200 },
    ...more,
  })
}

const downloaded = () => readdir(join(folder, 'wikitext-small'))

describe('WikiText', () => {
  test('is the text of the raw files, as GPT-2 tokens', async () => {
    const said: string[] = []
    const corpus = await load({ report: message => said.push(message) })
    assert.equal(corpus.name, 'WikiText-small')
    assert.deepEqual([...corpus.train], [...gpt2.encode(text.train)])
    assert.deepEqual([...corpus.validation], [...gpt2.encode(text.validation)])
    assert.equal(corpus.tokenizer.vocabularySize, 50257)
    assert.equal(corpus.bytesPerToken, Buffer.byteLength(text.validation) / corpus.validation.length)
    assert.deepEqual(await downloaded(), ['train-0.parquet', 'train-1.parquet', 'validation.parquet'])
    assert.match(
      said.join(),
      /^Asking 127\.\S+ for WikiText-small\.,Fetching WikiText-small from 127\.0\.0\.1:\d+: .* MB, once\.$/,
    )
  })

  test('is fetched once, and tokenized once', async () => {
    const first = await load()
    requests = []
    await rm(join(folder, 'wikitext-small'), { recursive: true })
    const second = await load()
    assert.deepEqual(requests, [])
    assert.deepEqual([...first.train], [...second.train])
    assert.equal(first.bytesPerToken, second.bytesPerToken)
  })

  test('is fetched and tokenized once by several who start together', async () => {
    const said: string[] = []
    const all = await Promise.all(
      Array.from({ length: 4 }, () => load({ report: message => said.push(message) })),
    )
    for (const { train, fingerprint } of all) {
      assert.deepEqual([...train], [...gpt2.encode(text.train)])
      assert.equal(fingerprint, all[0]!.fingerprint)
    }
    assert.deepEqual(requests, ['train-0.parquet', 'train-1.parquet', 'validation.parquet'])
    assert.ok(said.some(message => message.startsWith('Another process ')))
    assert.deepEqual(await downloaded(), ['train-0.parquet', 'train-1.parquet', 'validation.parquet'])
    assert.equal((await readdir(join(folder, 'tokens'))).length, 2)
  })

  test('is the text itself as bytes', async () => {
    const corpus = await load({ tokenizer: 'bytes' })
    assert.equal(Buffer.from([...corpus.train]).toString(), text.train)
    assert.equal(Buffer.from([...corpus.validation]).toString(), text.validation)
  })

  test('comes from the archive when the Parquet files do not', async () => {
    fault = (request, response, content) =>
      request.url!.startsWith('/zip/') ? serve(request, response, content) : response.writeHead(404).end()
    const corpus = await load()
    assert.deepEqual([...corpus.train], [...gpt2.encode(text.train)])
    assert.deepEqual(await downloaded(), ['raw.zip'])
  })

  test('comes from a mirror, of the folder or of the archive', async () => {
    const nowhere = edition('http://127.0.0.1:9/', 'http://127.0.0.1:9/')
    for (const mirror of [`${address}/some/folder`, `${address}/raw.zip`]) {
      const corpus = await load({
        mirror,
        edition: nowhere,
        cacheFolder: join(folder, String(mirror.length)),
      })
      assert.deepEqual([...corpus.validation], [...gpt2.encode(text.validation)])
    }
    await assert.rejects(load({ mirror: 'ftp://example.org' }), refusal(/--mirror takes a URL .* "ftp:/))
    for (const mirror of [
      '',
      'http://',
      'http:// a',
      'localhost:80',
      'file:///tmp',
      'http://user:word@127.0.0.1/',
    ]) {
      await assert.rejects(load({ mirror }), refusal(/--mirror takes a URL/))
    }
    await assert.rejects(load({ mirror: address, data: undefined }), refusal(/--data wikitext-103 too/))
  })

  test('takes files that were put into the cache by hand, if they are the right ones', async () => {
    await mkdir(join(folder, 'wikitext-small'))
    const archive = join(folder, 'wikitext-small', 'raw.zip')
    await writeFile(archive, files.get('raw.zip')!)
    const corpus = await load()
    assert.deepEqual(requests, [])
    assert.deepEqual([...corpus.train], [...gpt2.encode(text.train)])
    await rm(join(folder, 'tokens'), { recursive: true })
    await writeFile(archive, files.get('raw.zip')!.subarray(1))
    await assert.rejects(load(), refusal(/raw\.zip is damaged: delete it, and start again/))
  })

  test('knows the published files', () => {
    const { parquet, zip } = wikitext103
    assert.equal(
      [...parquet.train, ...parquet.validation].reduce((sum, file) => sum + file.bytes, 0),
      314_733_787,
    )
    for (const file of [...parquet.train, ...parquet.validation, zip.file])
      assert.match(file.sha256, /^[0-9a-f]{64}$/)
    assert.equal(new URL(parquet.url).protocol, 'https:')
  })
})

describe('a download', () => {
  test('that breaks off goes on where it stopped', async () => {
    let breaks = 0
    fault = (request, response, content) => {
      if (breaks++ % 2) return serve(request, response, content)
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
      response.writeHead(from > 0 ? 206 : 200, {
        'content-length': content.length - from,
        'content-range': `bytes ${from}-${content.length - 1}/${content.length}`,
      })
      response.write(content.subarray(from, from + 1000), () => response.destroy())
    }
    const corpus = await load()
    assert.deepEqual([...corpus.train], [...gpt2.encode(text.train)])
    assert.equal(requests[1], 'train-0.parquet bytes=1000-')
  })

  test('that breaks off for good is kept, and gone on from at the next start', async () => {
    let given = 0
    fault = (_, response, content) => {
      response.writeHead(given === 0 ? 200 : 206, {
        'content-length': content.length - given,
        'content-range': `bytes ${given}-${content.length - 1}/${content.length}`,
      })
      if (given === 0) response.write(content.subarray(0, (given = 700)), () => response.destroy())
      else response.destroy()
    }
    await assert.rejects(
      load({ mirror: address }),
      refusal(/could not be fetched .* start again, which goes on/),
    )
    assert.deepEqual(await downloaded(), ['train-0.parquet.part'])
    assert.equal((await readFile(join(folder, 'wikitext-small', 'train-0.parquet.part'))).length, 700)
    fault = undefined
    requests = []
    await load()
    assert.equal(requests[0], 'train-0.parquet bytes=700-')
  })

  test('that never comes further than before is given up, however it breaks off', async () => {
    let breaks = 0
    fault = (_, response, content) => {
      response.writeHead(200, { 'content-length': content.length })
      response.write(content.subarray(0, breaks++ % 2 ? 500 : 1000), () => response.destroy())
    }
    await assert.rejects(load({ mirror: address }), refusal(/could not be fetched from/))
    assert.ok(requests.length <= 4 + 3, `${requests.length} requests of two files`)
  })

  test('that brings a byte at a time is given up', async () => {
    fault = (request, response, content) => {
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
      response.writeHead(206, {
        'content-length': content.length - from,
        'content-range': `bytes ${from}-${content.length - 1}/${content.length}`,
      })
      response.write(content.subarray(from, from + 1), () => response.destroy())
    }
    await assert.rejects(load({ mirror: address }), refusal(/could not be fetched from/))
    assert.ok(requests.length <= 4 + 3, `${requests.length} requests of two files`)
  })

  test(
    'into a path that is no file is refused',
    { skip: process.platform === 'win32' && 'not for Windows' },
    async () => {
      await mkdir(join(folder, 'wikitext-small'))
      execFileSync('mkfifo', [join(folder, 'wikitext-small', 'train-0.parquet.part')])
      await assert.rejects(load(), refusal(/train-0\.parquet\.part is not a regular file but a named pipe/))
    },
  )

  test('that was begun another way is removed once the text is there', async () => {
    await mkdir(join(folder, 'wikitext-small'))
    await writeFile(join(folder, 'wikitext-small', 'raw.zip.part'), 'x')
    await load()
    assert.ok(!(await downloaded()).includes('raw.zip.part'))
  })

  test('starts anew when what is there belongs to another file', async () => {
    await mkdir(join(folder, 'wikitext-small'))
    await writeFile(join(folder, 'wikitext-small', 'train-0.parquet.part'), 'x'.repeat(500))
    await load()
    assert.deepEqual(requests.slice(0, 2), ['train-0.parquet bytes=500-', 'train-0.parquet'])
  })

  test('does without a server that can go on in the middle', async () => {
    await mkdir(join(folder, 'wikitext-small'))
    await writeFile(
      join(folder, 'wikitext-small', 'train-0.parquet.part'),
      files.get('train-0.parquet')!.subarray(0, 500),
    )
    fault = (_, response, content) =>
      response.writeHead(200, { 'content-length': content.length }).end(content)
    const corpus = await load()
    assert.deepEqual([...corpus.train], [...gpt2.encode(text.train)])
  })

  test('follows redirects, with its range', async () => {
    await mkdir(join(folder, 'wikitext-small'))
    await writeFile(
      join(folder, 'wikitext-small', 'train-0.parquet.part'),
      files.get('train-0.parquet')!.subarray(0, 500),
    )
    fault = (request, response, content) => {
      if (request.url!.startsWith('/cdn/')) serve(request, response, content)
      else response.writeHead(302, { location: request.url!.replace(/^.*\//, '/cdn/') }).end()
    }
    await load()
    assert.deepEqual(requests.slice(0, 2), ['train-0.parquet bytes=500-', 'train-0.parquet bytes=500-'])
  })

  test('survives a server that is overloaded for a moment', async () => {
    let failures = 0
    fault = (request, response, content) =>
      failures++ < 2 ? response.writeHead(503).end() : serve(request, response, content)
    await load()
  })

  const faults: [what: string, fault: Fault, message: RegExp][] = [
    ['that is not there', (_, response) => response.writeHead(404).end(), /\(it answers 404 Not Found\)/],
    ['of a server that fails', (_, response) => response.writeHead(500).end(), /\(it answers 500 Internal/],
    [
      'of another length',
      (_, response, content) => response.end(content.subarray(1)),
      /\(it offers [\d,]+ bytes, and the file has [\d,]+\)/,
    ],
    [
      'of more than is said',
      (_, response, content) => {
        response.writeHead(200, { 'transfer-encoding': 'chunked' })
        response.write(content)
        response.end('more')
      },
      /\(it sends more than the [\d,]+ bytes that the file has\)/,
    ],
    [
      'that ends early, as if whole',
      (_, response, content) => {
        response.writeHead(200, { 'transfer-encoding': 'chunked' })
        response.end(content.subarray(0, 100))
      },
      /\(the connection broke off after 100 of [\d,]+ bytes\)/,
    ],
    [
      'with a damaged page',
      (request, response, content) => {
        const altered = Uint8Array.from(content)
        altered[300]! ^= 1
        serve(request, response, altered)
      },
      /\(what it sends is not that file: its sha256 differs\)/,
    ],
    ['that never comes', () => {}, /\(nothing came any more\)/],
    [
      'in a circle',
      (request, response) => response.writeHead(302, { location: request.url }).end(),
      /redirect/,
    ],
  ]
  for (const [what, wrong, message] of faults) {
    test(`${what} is refused in a sentence`, async () => {
      fault = wrong
      await assert.rejects(load(), refusal(message))
      const left = await downloaded()
      assert.deepEqual(
        left.filter(name => !name.endsWith('.part')),
        [],
        'nothing that could be taken for the file',
      )
    })
  }

  test('offline says what to put where', async () => {
    const nowhere = edition('http://127.0.0.1:9/', 'http://localhost:9/')
    await assert.rejects(
      load({ edition: nowhere }),
      refusal(
        /^WikiText-small could not be fetched from .* or from .* connect to a network and start again, .* --mirror URL, or put train-0\.parquet, train-1\.parquet, validation\.parquet, or raw\.zip in the folder .*wikitext-small\.$/,
      ),
    )
  })
})

describe('the cache of tokens', () => {
  const cached = async () => {
    const names = await readdir(join(folder, 'tokens'))
    return join(
      folder,
      'tokens',
      names.find(name => name.includes('.train.'))!,
    )
  }
  const tokensAgain = async () => {
    const corpus = await load()
    assert.deepEqual([...corpus.train], [...gpt2.encode(text.train)])
  }

  test('says in its first line what it has', async () => {
    const corpus = await load()
    const file = await readFile(await cached())
    const header = JSON.parse(file.subarray(0, 1024).toString())
    assert.equal(header.corpus, 'WikiText-small')
    assert.equal(header.tokenizer, 'gpt2')
    assert.equal(header.tokens, corpus.train.length)
    assert.equal(header.bytes, Buffer.byteLength(text.train))
    assert.equal(file.length, 1024 + 2 * corpus.train.length)
  })

  for (const [what, change] of [
    ['truncated', (file: Buffer) => file.subarray(0, -2)],
    ['altered', (file: Buffer) => (file.writeUInt16LE(file.readUInt16LE(2000) ^ 1, 2000), file)],
    ['empty', () => Buffer.alloc(0)],
    ['of zeros', (file: Buffer) => Buffer.alloc(file.length)],
    ['of another text', (file: Buffer) => (file.write('0000', file.indexOf('"text":"') + 8), file)],
  ] as const) {
    test(`is made anew when it is ${what}`, async () => {
      await load()
      const path = await cached()
      const whole = await readFile(path)
      await writeFile(path, change(Buffer.from(whole)))
      await tokensAgain()
      assert.ok((await readFile(path)).equals(whole))
      assert.equal((await readdir(join(folder, 'tokens'))).length, 2, 'nothing is left beside it')
    })
  }
})
