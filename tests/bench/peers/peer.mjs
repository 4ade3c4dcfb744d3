// What all peers share: how they are called, the payload, and the stream.

import { createInterface } from 'node:readline'
import { Redis } from 'ioredis'
import pg from 'pg'

const { DATABASE_URL, REDIS_URL, STREAM } = process.env
const USAGE = 'prepare | fill N | run | publish'
const CHUNK = 5000
const SUMMARY = 'ten years of distributed systems; '.repeat(12).slice(0, 380)

/** Does what the command line asks of a peer that can `prepare()`, `fill(n)`, `run()` and make a `publisher()`. */
export async function main(peer) {
  const [command, n] = process.argv.slice(2)
  if (command === 'prepare') await peer.prepare()
  else if (command === 'fill' && /^[1-9]\d*$/.test(n)) await peer.fill(Number(n))
  else if (command === 'run') await run(peer)
  else if (command === 'publish') await publish(await peer.publisher())
  else {
    console.error(`usage: ${process.argv[1]} ${USAGE}`)
    process.exit(64)
  }
}

async function run(peer) {
  const stop = await peer.run()
  process.once('SIGTERM', async () => {
    await stop()
    process.exit()
  })
  console.log('ready')
}

async function publish({ add, close }) {
  for await (const line of createInterface({ input: process.stdin })) {
    await add({ n: line })
    console.log(`done ${line}`)
  }
  await close()
}

/** About 500 bytes, as a résumé event has: those of postbell's own rows in this benchmark. */
function payload(n) {
  const candidate = { candidate: '张三', position: 'Senior Go engineer', score: 87, summary: SUMMARY }
  return { n, resume_id: n, job_id: n % 1000, ...candidate }
}

/** The payloads from 1 to `n`, in lists of a few thousand. */
export function* payloads(n) {
  for (let from = 1; from <= n; from += CHUNK) {
    yield Array.from({ length: Math.min(CHUNK, n - from + 1) }, (_, at) => payload(from + at))
  }
}

/**
 * How a peer connects that runs: as postbell's relay it does not wait for the disk. What a crash of the server undoes is an
 * entry twice, which any relay may send.
 */
export function relayUrl() {
  const url = new URL(DATABASE_URL)
  url.searchParams.set('options', '-c synchronous_commit=off')
  return url.href
}

/** A connection to the database; the process ends with it. */
export async function connect(url = DATABASE_URL) {
  const client = new pg.Client(url)
  await client.connect()
  return client
}

/** A publisher that adds by one statement with the payload as its only parameter. */
export async function publisherBy(statement) {
  const client = await connect()
  return {
    add: payload => client.query({ name: 'add', text: statement, values: [payload] }),
    close: () => client.end(),
  }
}

/** Adds entries to the stream, each an id and the text of a payload, by one pipelined burst. */
export function stream() {
  const redis = new Redis(REDIS_URL)
  return async entries => {
    const burst = redis.pipeline(entries.map(([id, text]) => ['xadd', STREAM, '*', 'event_id', id, 'payload', text]))
    for (const [error] of await burst.exec()) if (error) throw error
  }
}
