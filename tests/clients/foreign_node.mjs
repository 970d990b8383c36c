// Node's clients, and curl and wscat as programs run them in a loop, against the proxies of tests/foreign: one
// process for all cases.
import { spawn } from 'node:child_process';
import readline from 'node:readline';
import { EventSource } from 'eventsource';
import PartySocket from 'partysocket/ws';
import ReconnectingWebSocket from 'reconnecting-websocket';
import WebSocket from 'ws';
import { eventSource, socket } from './foreign_habits.mjs';

/** Runs a program again and again, a second after its end. `reader` makes a function that takes the lines of one run. */
function loop(program, args, tell, reader) {
  const said = reader();
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  children.add(child);
  for (const stream of [child.stdout, child.stderr]) {
    readline.createInterface({ input: stream }).on('line', (line) => said(line));
  }
  child.on('close', (code) => {
    children.delete(child);
    tell(`note ${program} ended with ${code}`);
    setTimeout(() => loop(program, args, tell, reader), 1_000);
  });
}
const children = new Set();

// At its end, reconnecting-websocket closes a connecting `ws` that has no error listener, which ends the
// process. That must not happen on a slow machine.
const patient = { WebSocket, connectionTimeout: 120_000 };

const clients = {
  eventsource: (job, tell) => eventSource(EventSource, job, tell),
  'reconnecting-websocket': (job, tell) => socket((url) => new ReconnectingWebSocket(url, [], patient), job, tell),
  partysocket: (job, tell) => socket((url) => new PartySocket(url, [], patient), job, tell),
  // It does not resume: its first `id` shows where each stream begins.
  curl: (job, tell) => {
    const url = `${job.url}/sse?type=test.*&_client=curl`;
    loop('curl', ['-sS', '-N', '--fail', '--retry', '5', url], tell, () => {
      let data, id;
      return (line) => {
        const [, field, value] = /^([a-z]+): (.*)$/.exec(line) ?? [];
        if (field === 'data') data = value;
        else if (field === 'id') id = value;
        else if (line === '') {
          // Only now the event is complete.
          if (id) tell(data ? `got ${JSON.parse(data).payload.n} ${id}` : `from ${id}`);
          data = id = undefined;
        } else if (field !== 'event' && field !== 'retry' && !line.startsWith(':')) tell(`note ${line}`);
      };
    });
  },
  // It does not resume either: the answer shows where each subscription begins.
  wscat: (job, tell) => {
    const wscat = new URL('node_modules/wscat/bin/wscat', import.meta.url).pathname;
    const say = JSON.stringify({ type: 'subscribe', payload: { event_types: ['test.*'] } });
    const url = `${job.url.replace('http', 'ws')}/ws?_client=wscat`;
    loop(process.execPath, [wscat, '-c', url, '-x', say, '-w', '-1'], tell, () => (line) => {
      if (!line.startsWith('{')) return tell(`note ${line}`);
      const { type, payload } = JSON.parse(line);
      tell(type === 'event' ? `got ${payload.payload.n} ${payload.event_id}` : `from ${payload.last_event_id}`);
    });
  },
};

for (const job of JSON.parse(process.argv[2])) {
  clients[job.client](job, (line) => console.log(`${job.client} ${job.name} ${line}`));
}
// It ends with the test.
process.stdin.on('end', () => {
  for (const child of children) child.kill();
  process.exit(0);
}).resume();
