// graphile-worker with a task that adds an entry to the stream.

import { Logger, makeWorkerUtils, run as runWorker } from 'graphile-worker'
import { connect, main, payloads, publisherBy, relayUrl, stream } from './peer.mjs'

const CONCURRENCY = 500

async function prepare() {
  const utils = await makeWorkerUtils({})
  await utils.migrate()
  await utils.release()
}

async function fill(n) {
  const client = await connect()
  for (const list of payloads(n)) {
    await client.query(
      `select count(*) from graphile_worker.add_jobs(array(
        select row('relay', payload, null, null, null, null, null, null)::graphile_worker.job_spec
        from json_array_elements($1) payload))`,
      [JSON.stringify(list)],
    )
  }
  await client.query('vacuum analyze graphile_worker._private_jobs')
  await client.end()
}

async function run() {
  const add = gathered(stream())
  const quiet = new Logger(() => (level, message) => level === 'error' && console.error(message))
  const runner = await runWorker({
    preset: {
      worker: {
        connectionString: relayUrl(),
        concurrentJobs: CONCURRENCY,
        localQueue: { size: 2 * CONCURRENCY },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        maxPoolSize: 10,
        logger: quiet,
      },
    },
    noHandleSignals: true,
    taskList: { relay: (payload, { job }) => add([job.id, JSON.stringify(payload)]) },
  })
  return () => runner.stop()
}

/** Entries of tasks that run at the same time go in one burst, as batches of the other peers do. */
function gathered(add) {
  let [entries, added] = [[], undefined]
  return entry => {
    added ??= new Promise(setImmediate).then(() => {
      const burst = entries
      ;[entries, added] = [[], undefined]
      return add(burst)
    })
    entries.push(entry)
    return added
  }
}

const publisher = () => publisherBy(`select graphile_worker.add_job('relay', $1::json)`)

await main({ prepare, fill, run, publisher })
