// pg-boss with workers that add each batch of jobs to the stream.

import { PgBoss } from 'pg-boss'
import { main, payloads, relayUrl, stream } from './peer.mjs'

const QUEUE = 'relay'
const WORK = {
  batchSize: 2000,
  localConcurrency: 2,
  burstWhenBatchFull: true,
  pollingIntervalSeconds: 0.5,
  notifyPollingIntervalSeconds: 0.5,
}

async function start(options) {
  const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, schedule: false, ...options })
  boss.on('error', error => {
    throw error
  })
  return boss.start()
}

async function prepare() {
  const boss = await start({ supervise: false })
  await boss.createQueue(QUEUE, { notify: true })
  await boss.stop()
}

async function fill(n) {
  const boss = await start({ supervise: false })
  for (const list of payloads(n)) {
    await boss.insert(QUEUE, list.map(data => ({ data })))
  }
  await boss.getDb().executeSql('vacuum analyze pgboss.job')
  await boss.stop()
}

async function run() {
  const add = stream()
  const boss = await start({ connectionString: relayUrl(), useListenNotify: true })
  await boss.work(QUEUE, WORK, jobs => add(jobs.map(({ id, data }) => [id, JSON.stringify(data)])))
  return () => boss.stop()
}

async function publisher() {
  const boss = await start({ supervise: false, max: 1 })
  return { add: payload => boss.send(QUEUE, payload), close: () => boss.stop() }
}

await main({ prepare, fill, run, publisher })
