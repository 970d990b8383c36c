// GatheRing's browser client: handlers by type, a few attempts to reconnect, and the list of its React hook.
import { WebSocket, ask, assert, check, done, publish, until, url } from './lib.mjs';

class CircleClient {
  attempts = 0;

  constructor(address) {
    this.address = address;
  }

  connect() {
    this.ws = new WebSocket(this.address);
    this.ws.onopen = () => {
      this.attempts = 0;
      this.onOpen?.();
    };
    this.ws.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.type === 'agent_message') this.onAgentMessage?.(message.data);
      else if (message.type === 'file_changed') this.onFileChanged?.(message.data);
    };
    this.ws.onclose = () => {
      if (this.attempts < 5) {
        this.attempts += 1;
        setTimeout(() => this.connect(), 100 * this.attempts);
      }
    };
    this.ws.onerror = () => {};
  }

  send(message) {
    if (this.ws?.readyState === WebSocket.OPEN) this.ws.send(JSON.stringify(message));
  }
}

/** The hook: every message, and whether it is connected. */
function chat(address) {
  const state = { messages: [], isConnected: false };
  const ws = new WebSocket(address);
  ws.onopen = () => { state.isConnected = true; };
  ws.onclose = () => { state.isConnected = false; };
  ws.onmessage = (event) => state.messages.push(JSON.parse(event.data));
  state.send = (data) => ws.send(JSON.stringify(data));
  state.close = () => ws.close();
  return state;
}

const proxy = await ask('proxy');
const base = url.replace('http', 'ws');
const client = new CircleClient(`${proxy.replace('http', 'ws')}/ws/circles/dev-team`);
const said = [];
let opened = 0;
client.onOpen = () => { opened += 1; };
client.onAgentMessage = (data) => said.push(`${data.agent_id}: ${data.content}`);
client.connect();
await until('open', () => opened === 1);

await check('an agent\'s message from the event bus comes to its circle', async () => {
  await publish({ type: 'agent.message', payload: { circle_name: 'dev-team', agent_id: 3, content: 'built' } });
  await publish({ type: 'agent.message', payload: { circle_name: 'ops', agent_id: 4, content: 'not here' } });
  await publish({ type: 'agent_message', channel: 'dev-team', payload: { agent_id: 5, content: 'tested' } });
  await until('two', () => said.length === 2);
  assert.deepEqual(said, ['3: built', '5: tested']);
});

await check('a message of one client reaches the others, in the hook too', async () => {
  const [one, two] = [chat(`${base}/ws/circles/dev-team`), chat(`${base}/ws/circles/dev-team`)];
  await until('both', () => one.isConnected && two.isConnected);
  one.send({ type: 'user_message', content: 'Hello, agents!' });
  await until('received', () => two.messages.length === 1);
  const [message] = two.messages;
  assert.equal(message.content, 'Hello, agents!');
  // The component's output for each message.
  assert.equal(message.data.content, 'Hello, agents!');
  two.send({ type: 'ping' });
  await until('a pong', () => two.messages.some((m) => m.type === 'pong'));
  one.send({ type: 'ping' });
  await until('a pong', () => one.messages.length > 0);
  assert.deepEqual(one.messages.map((m) => m.type), ['pong'], 'no client gets its own message');
  one.close();
  two.close();
});

await check('a changed file comes to its workspace', async () => {
  const files = chat(`${base}/ws/workspaces/42`);
  await until('open', () => files.isConnected);
  await publish({ type: 'workspace.file_changed', payload: { workspace_id: 42, path: 'src/a.py' } });
  await until('the file', () => files.messages.length === 1);
  const [message] = files.messages;
  assert.deepEqual([message.type, message.channel, message.data.path], ['file_changed', 'workspace-42', 'src/a.py']);
  files.close();
});

await check('after a cut the client is back in its circle', async () => {
  await ask('cut');
  await until('open again', () => opened === 2);
  await publish({ type: 'agent_message', channel: 'dev-team', payload: { agent_id: 6, content: 'again' } });
  await until('again', () => said.includes('6: again'));
});

await done();
