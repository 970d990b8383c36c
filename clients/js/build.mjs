// Builds `dist/`: the modules compiled by TypeScript, with their types.
//
// npm runs this as `prepare`, also for `npm install PATH`. In that case npm does not install the compiler, so
// this does.
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const run = (command, ...args) => {
  const { status } = spawnSync(command, args, { stdio: 'inherit', cwd: here('.') });
  if (status !== 0) process.exit(status ?? 1);
};
const compiler = here('node_modules/typescript/bin/tsc');
if (!existsSync(compiler)) run('npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund');
rmSync(here('dist'), { recursive: true, force: true });
run(process.execPath, compiler, '-p', here('tsconfig.json'));
