// An outbox relay as one writes it by hand: no package does it for this one.

import { EventEmitter, once } from 'node:events'
import { connect, main, payloads, publisherBy, relayUrl, stream } from './peer.mjs'

const BATCH = 500
const WORKERS = 2

const SCHEMA = `
  create table outbox (
    id bigint generated always as identity primary key,
    payload jsonb not null,
    published_at timestamptz
  );
  create index outbox_waiting on outbox (id) where published_at is null;
  create function outbox_ring() returns trigger language plpgsql as $$
    begin
      notify outbox;
      return null;
    end $$;
  create trigger outbox_ring after insert on outbox for each statement execute function outbox_ring()`

// The mark is made by the claim and committed once the entries are in the stream: one write for each row.
const CLAIM = `
  update outbox set published_at = now()
  where id = any(array(
    select id from outbox where published_at is null order by id limit ${BATCH} for update skip locked))
  returning id, payload::text`

async function prepare() {
  const client = await connect()
  await client.query(SCHEMA)
  await client.end()
}

async function fill(n) {
  const client = await connect()
  for (const list of payloads(n)) {
    await client.query('insert into outbox (payload) select jsonb_array_elements($1)', [JSON.stringify(list)])
  }
  await client.query('vacuum analyze outbox')
  await client.end()
}

async function run() {
  const add = stream()
  const listener = await connect()
  await listener.query('listen outbox')

  let [stopping, heard] = [false, 0]
  const bell = new EventEmitter()
  const ring = () => {
    heard++
    bell.emit('ring')
  }
  listener.on('notification', ring)

  async function batch(client) {
    await client.query('begin')
    const { rows } = await client.query({ name: 'claim', text: CLAIM, rowMode: 'array' })
    if (rows.length > 0) await add(rows)
    await client.query('commit')
    return rows.length
  }

  async function work() {
    const client = await connect(relayUrl())
    while (!stopping) {
      const before = heard
      while (!stopping && (await batch(client)) > 0);
      if (before === heard) await once(bell, 'ring')
    }
  }

  const workers = Array.from({ length: WORKERS }, work)
  return async () => {
    stopping = true
    ring()
    await Promise.all(workers)
  }
}

const publisher = () => publisherBy('insert into outbox (payload) values ($1)')

await main({ prepare, fill, run, publisher })
