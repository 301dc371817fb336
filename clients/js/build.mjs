// Builds the package into dist/ and prints how large it is: an ESM and a CommonJS module that leave
// socket.io-client to the application, the types of both, and one file with everything in it for
// a <script> tag, which defines the global Eventspine.
import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
process.chdir(here);
rmSync('dist', { recursive: true, force: true });

const common = { entryPoints: ['src/index.ts'], bundle: true, target: 'es2022', logLevel: 'warning', legalComments: 'inline' };
const modules = { ...common, platform: 'neutral', external: ['socket.io-client'] };
await Promise.all([
  build({ ...modules, format: 'esm', outfile: 'dist/esm/index.js' }),
  build({ ...modules, format: 'cjs', outfile: 'dist/cjs/index.js' }),
  build({ ...common, platform: 'browser', format: 'iife', globalName: 'Eventspine', minify: true, outfile: 'dist/eventspine.js' }),
]);
execFileSync(process.execPath, [join('node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
writeFileSync('dist/cjs/package.json', '{"type":"commonjs"}\n');
for (const name of readdirSync('dist/esm').filter((name) => name.endsWith('.d.ts'))) {
  cpSync(join('dist/esm', name), join('dist/cjs', name));
}

for (const name of ['dist/esm/index.js', 'dist/cjs/index.js', 'dist/eventspine.js']) {
  const bytes = readFileSync(name);
  console.log(`${name.padEnd(20)} ${String(bytes.length).padStart(7)} bytes ${String(gzipSync(bytes, { level: 9 }).length).padStart(7)} gzip`);
}
