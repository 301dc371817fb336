import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';

const here = join(dirname(fileURLToPath(import.meta.url)), '..');
const consumer = join(here, 'node_modules', '.consumer'); // above it are React and the rest
const run = (cwd: string, program: string, ...args: string[]) => {
  try {
    return execFileSync(program, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (e) {
    throw new Error(String((e as { stdout?: string }).stdout) + String((e as { stderr?: string }).stderr));
  }
};

/** Compiles files of an application that has the package installed. */
function compile(name: string, files: Record<string, string>, options: object): string {
  const dir = join(consumer, name);
  mkdirSync(dir, { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(dir, file), text);
  const compilerOptions = { strict: true, skipLibCheck: false, target: 'ES2022', types: [], ...options };
  writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: Object.keys(files) }));
  run(dir, process.execPath, join(here, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.');
  return dir;
}

beforeAll(() => {
  console.log(run(here, process.execPath, 'build.mjs'));
  rmSync(consumer, { recursive: true, force: true });
  const installed = join(consumer, 'node_modules', '@eventspine', 'client');
  mkdirSync(installed, { recursive: true });
  const [packed] = JSON.parse(run(here, 'npm', 'pack', '--json', '--ignore-scripts', '--pack-destination', consumer)) as [{ filename: string }];
  run(consumer, 'tar', '-xzf', packed.filename, '-C', installed, '--strip-components=1');
}, 60_000);

describe('the package', () => {
  it('is small', () => {
    const size = (name: string) => gzipSync(readFileSync(join(here, 'dist', name)), { level: 9 }).length;
    expect(size('esm/index.js')).toBeLessThan(8_000);
    expect(size('eventspine.js')).toBeLessThan(20_000);
  });

  it('holds what it needs and nothing else', () => {
    const files = run(consumer, 'tar', '-tzf', 'eventspine-client-0.1.0.tgz').trim().split('\n').map((f) => f.replace('package/', ''));
    expect(files.filter((f) => !f.endsWith('.d.ts')).sort()).toEqual(['README.md', 'dist/cjs/index.js', 'dist/cjs/package.json', 'dist/esm/index.js', 'dist/eventspine.js', 'package.json']);
    const { dependencies } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8')) as { dependencies: object };
    expect(Object.keys(dependencies)).toEqual(['socket.io-client']);
  });

  const use = `const client = createClient<{ 'alert.disk': { host: string } }>({ url: 'http://127.0.0.1:1', token: 't' });
    client.on('alert', (e) => { const host: string = e.data.host; console.log(host); });
    console.log(client.state);`;

  it('is an ES module with types', () => {
    const dir = compile('esm', { 'main.mts': `import { createClient } from '@eventspine/client'; ${use}` }, { module: 'NodeNext' });
    expect(run(dir, process.execPath, 'main.mjs').trim()).toBe('idle');
  });

  it('is a CommonJS module with types', () => {
    const dir = compile('cjs', { 'main.cts': `import { createClient } from '@eventspine/client'; ${use}` }, { module: 'NodeNext' });
    expect(readFileSync(join(dir, 'main.cjs'), 'utf8')).toContain('require("@eventspine/client")');
    expect(run(dir, process.execPath, 'main.cjs').trim()).toBe('idle');
  });

  it('has examples that compile', () => {
    const text = readFileSync(join(here, 'README.md'), 'utf8');
    const blocks = [...text.matchAll(/^```(tsx?)\n([\s\S]*?)^```$/gm)];
    expect(blocks.map((b) => b[1])).toEqual(['ts', 'tsx']);
    const files = Object.fromEntries(blocks.map(([, kind, code], i) => [`example${i}.${kind}`, code!]));
    compile('readme', files, { module: 'ESNext', moduleResolution: 'bundler', jsx: 'react-jsx', lib: ['ES2022', 'DOM'], noUnusedLocals: true });
  });
});
