// A pool of Node's that idles between requests: prints each answer.
import http from 'node:http';
import { Agent, request } from 'undici';

const [kind, url, pauses] = [process.argv[2], process.argv[3], process.argv[4].split(',').map(Number)];
const body = JSON.stringify({ type: 'test.pooled' });
const headers = { 'content-type': 'application/json' };

// By default they close after 4 and 5 s.
const dispatcher = new Agent({ keepAliveTimeout: 70_000 });
const agent = new http.Agent({ keepAlive: true, timeout: 70_000 });

const send = {
  undici: async () => {
    const answer = await request(`${url}/publish`, { method: 'POST', body, headers, dispatcher });
    return [answer.statusCode, await answer.body.json()];
  },
  http: () =>
    new Promise((done, fail) => {
      const sent = http.request(`${url}/publish`, { method: 'POST', headers, agent }, async (answer) => {
        const text = (await answer.toArray()).join('');
        done([answer.statusCode, JSON.parse(text)]);
      });
      sent.on('error', fail).end(body);
    }),
};

for (const pause of [0, ...pauses]) {
  await new Promise((wake) => setTimeout(wake, 1000 * pause));
  const [status, answer] = await send[kind]();
  console.log(status, JSON.stringify({ accepted: answer.accepted }));
}
process.exit(0);
