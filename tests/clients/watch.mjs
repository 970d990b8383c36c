// One client as a witness: prints `ready`, then the id of each event, until it has received this many.
import { EventSource } from 'eventsource';
import { Client, args, url } from './lib.mjs';

const [kind, count] = [args[0], Number(args[1])];
let left = count;
const see = (event) => {
  console.log(`saw ${event.event_id} ${JSON.stringify(event.payload)}`);
  left -= 1;
  if (left === 0) process.exit(0);
};

if (kind === 'ws') {
  const client = await Client.connect({ protocols: ['fanwire.v1'] });
  await client.subscribe();
  console.log('ready');
  for (;;) see(await client.event());
} else {
  const source = new EventSource(`${url}/sse?event_name=message`);
  source.onopen = () => console.log('ready');
  source.onmessage = ({ data }) => see(JSON.parse(data));
}
