// The package as installed: its size, its files, its types, and the README's first example.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { Server, here } from './support.mjs';

for (const [entry, most] of [['index', 6_500], ['runs', 8_000]]) test(`${entry} weighs less than ${most} bytes, minified and gzipped; nothing is imported from elsewhere`, async (t) => {
  const { outputFiles, metafile } = await build({
    entryPoints: [here(`../dist/${entry}.js`)], bundle: true, minify: true, format: 'esm', target: 'es2022',
    splitting: true, outdir: 'unused', write: false, metafile: true,
  });
  const sizes = outputFiles.map(({ path, contents }) => [path.split('/').at(-1), gzipSync(contents, { level: 9 }).length]);
  const page = sizes.filter(([name]) => !/^(stream|text|token|update)/.test(name)).reduce((sum, [, size]) => sum + size, 0);
  t.diagnostic(`${page} bytes, and more where WebSocket does not get through, for a filter's text or a function of tokens: ${sizes.join('; ')}`);
  assert(page < most, `${page} bytes`);
  assert.deepEqual(Object.values(metafile.outputs).flatMap((output) => output.imports.filter((one) => one.external)), []);
  assert.equal(JSON.parse(await readFile(here('../package.json'), 'utf8')).dependencies, undefined);
});

test('the package has the needed files and no others', () => {
  const [pack] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: here('..'), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  const files = pack.files.map((file) => file.path);
  for (const needed of ['package.json', 'README.md', 'LICENSE-MIT', 'LICENSE-APACHE', 'dist/index.js', 'dist/index.d.ts', 'dist/react.js', 'dist/react.d.ts', 'dist/runs.js', 'dist/runs.d.ts']) {
    assert(files.includes(needed), `${needed} is not in ${files}`);
  }
  assert.deepEqual(files.filter((file) => !/^(package\.json|README\.md|LICENSE-\w+|dist\/\w+\.(js|d\.ts))$/.test(file)), []);
});

/** A folder with the installed package. */
async function installed(t) {
  const folder = await mkdtemp(join(tmpdir(), 'fanwire-'));
  t.after(() => rm(folder, { recursive: true }));
  await symlink(here('../node_modules'), join(folder, 'node_modules'));
  return folder;
}

test('it is installed from a path where it was never built', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'fanwire-'));
  t.after(() => rm(folder, { recursive: true }));
  const [source, app] = [join(folder, 'js'), join(folder, 'app')];
  const skipped = ['dist', 'node_modules'].map((name) => here(`../${name}`));
  await cp(here('..'), source, { recursive: true, filter: (path) => !skipped.includes(path) });
  // The compiler would come from the registry. Here it is at hand.
  await symlink(here('../node_modules'), join(source, 'node_modules'));
  await mkdir(app);
  await writeFile(join(app, 'package.json'), '{"name":"app","type":"module"}');
  execFileSync('npm', ['install', '--no-audit', '--no-fund', '--offline', source], { cwd: app, stdio: ['ignore', 'ignore', 'inherit'] });
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', "console.log(typeof (await import('fanwire')).Fanwire)"], { cwd: app, encoding: 'utf8' });
  assert.equal(said, 'function\n');
});

test('the first example of the README runs as it stands', async (t) => {
  const readme = await readFile(here('../README.md'), 'utf8');
  const server = await Server.start();
  t.after(() => server.stop());
  const example = /```js\n([^]*?)```/.exec(readme)[1];
  assert(example.includes("'http://127.0.0.1:8765'"));
  // In the package itself, so that its own name resolves.
  const file = here('../readme-example.tmp.mjs');
  t.after(() => rm(file, { force: true }));
  await writeFile(file, example.replace('http://127.0.0.1:8765', server.url));
  const said = execFileSync(process.execPath, [file], { encoding: 'utf8', timeout: 20_000 });
  assert.equal(said, 'task.progress { progress: 42 }\n');
});

test("the README's run has its text and its end", async (t) => {
  const readme = await readFile(here('../README.md'), 'utf8');
  const example = [...readme.matchAll(/```js\n([^]*?)```/g)].map(([, code]) => code).find((code) => code.includes('client.run('));
  const server = await Server.start('--retain', 'by=stream; end=run.finished; match=stream=run-*');
  t.after(() => server.stop());
  for (const delta of ['Hel', 'lo']) await server.publish({ type: 'token', stream_id: 'run-42', payload: { delta } });
  const last_event_id = await server.publish({ type: 'run.finished', stream_id: 'run-42' });
  const file = here('../readme-run.tmp.mjs');
  t.after(() => rm(file, { force: true }));
  await writeFile(file, example.replace('http://127.0.0.1:8765', server.url));
  const said = execFileSync(process.execPath, [file], { encoding: 'utf8', timeout: 20_000 });
  const end = { status: 'run.finished', last_event_id, complete: true };
  assert.equal(said.replace(/\s+/g, ' '), `Hello ${inspect(end)} `.replace(/\s+/g, ' '));
});

test('types follow from the event map, and mistakes are found', async (t) => {
  const folder = await installed(t);
  const source = `
    import { Fanwire, isGap, type Gap } from '${here('../dist/index.js')}';
    import { useFanwire, useRun } from '${here('../dist/react.js')}';
    import { Fanwire as Runs, type Page, type RunEnd } from '${here('../dist/runs.js')}';
    interface Events { [type: string]: unknown; }
    type Mine = { 'task.progress': { progress: number }; 'task.done': { ok: boolean }; 'agent.log': string };
    const client = new Fanwire<Mine>('http://localhost');
    client.on('task.progress', (event) => { const n: number = event.payload.progress; void n; });
    client.on('task.*', (event) => { if (event.event_type === 'task.done') { const ok: boolean = event.payload.ok; void ok; } });
    // @ts-expect-error no number there
    client.on('agent.log', (event) => { const n: number = event.payload; void n; });
    // @ts-expect-error a payload of another form
    client.publish({ type: 'task.done', payload: { ok: 1 } });
    async function loop() {
      for await (const item of client.subscribe('task.*', { history: 5 })) {
        if (isGap(item)) { const gap: Gap = item; void gap; continue; }
        if (item.event_type === 'task.progress') { const n: number = item.payload.progress; void n; }
      }
      const any = new Fanwire<Events>('http://localhost');
      any.on('x.y', (event) => { const what: unknown = event.payload; void what; });
      new Fanwire('http://localhost').on('*', (event) => event.event_type.length);
    }
    void loop;
    async function follow() {
      const client = new Runs<Mine>('http://localhost');
      const run = client.run('run-42', { absent: 'error', event_types: ['agent.log'], on_lag: 'concat', compact: 'concat', concat: '/payload/delta' });
      for await (const item of run) {
        if (isGap(item)) continue;
        const stands: number = item.merged ?? 1;
        void stands;
        if (item.event_type === 'agent.log') { const text: string = item.payload; void text; }
      }
      const end: RunEnd | undefined = run.end;
      for await (const page of client.history({ filter: 'type=task.*', order: 'desc', since: new Date() })) {
        const whole: Page<Mine> = page;
        void whole;
      }
      // @ts-expect-error no such order
      client.history({ order: 'down' });
      // @ts-expect-error only texts are put together
      client.subscribe('task.*', { from: 'start', compact: 'merge' });
      // @ts-expect-error a run is whole
      client.run('run-42', { on_lag: 'conflate' });
      // @ts-expect-error a run is one stream
      client.run('run-42', { stream_ids: ['x'] });
      void end;
    }
    void follow;
    export function Answer() {
      const { text, ended } = useRun<Mine>('http://localhost', 'run-42', { text: (event) => String(event.payload), on_lag: 'concat', compact: 'concat', concat: '/payload/delta' });
      return \`\${text} \${ended?.status}\`;
    }
    export function View() {
      const { last, gaps } = useFanwire<Mine, 'task.*'>('http://localhost', 'task.*');
      return \`\${last?.event_type} \${gaps.length}\`;
    }
  `;
  await writeFile(join(folder, 'use.mts'), source);
  const options = { strict: true, noEmit: true, module: 'nodenext', target: 'es2022', lib: ['es2022', 'dom'], types: [], skipLibCheck: false };
  await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files: ['use.mts'] }));
  execFileSync(process.execPath, [here('../node_modules/typescript/bin/tsc'), '-p', folder], { encoding: 'utf8', stdio: ['ignore', 'inherit', 'inherit'] });
});
