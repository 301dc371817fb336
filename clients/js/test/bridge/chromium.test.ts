import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bridge, emit, range, someone, system, token, until } from './system.js';

const here = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
let browser: Browser;
let web: Server;
let origin: string;

beforeAll(async () => {
  const files: Record<string, string> = {
    '/eventspine.js': readFileSync(join(here, 'dist', 'eventspine.js'), 'utf8'),
    '/socket.io-2.js': readFileSync(join(here, 'node_modules', 'sio2', 'dist', 'socket.io.js'), 'utf8'),
    '/socket.io-4.js': readFileSync(join(here, 'node_modules', 'socket.io-client', 'dist', 'socket.io.js'), 'utf8'),
  };
  web = createServer((request, answer) => {
    const script = files[request.url!];
    answer.setHeader('Content-Type', script ? 'text/javascript' : 'text/html');
    answer.end(script ?? `<!doctype html><title>test</title>${Object.keys(files).filter((f) => request.url!.endsWith(`?${f.slice(1)}`)).map((f) => `<script src="${f}"></script>`).join('')}`);
  });
  await new Promise<void>((done) => web.listen(0, '127.0.0.1', done));
  origin = `http://127.0.0.1:${(web.address() as AddressInfo).port}`;
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
});

afterAll(async () => {
  await browser?.close();
  web?.closeAllConnections();
  web?.close();
});

/** A page of another origin than the bridge's, with one script. What it gets is in window.got. */
async function open(script: string, page?: Page): Promise<Page> {
  page ??= await (await browser.newContext()).newPage();
  page.on('pageerror', (e) => console.error(e));
  await page.goto(`${origin}/?${script}`);
  return page;
}

const got = (page: Page) => page.evaluate(() => (globalThis as unknown as { got: number[] }).got);

/** Connects a plain socket.io-client in the page. */
function plain(page: Page, options: object): Promise<void> {
  return page.evaluate(([url, options]) => new Promise<void>((connected, refused) => {
    const w = globalThis as unknown as { io: (url: string, options: object) => any; socket: any; got: number[]; log: string[] };
    w.got = [];
    w.log = [];
    w.socket = w.io(url, { reconnectionDelay: 50, reconnectionDelayMax: 200, ...options });
    w.socket.on('notification', (e: { data: { n: number } }) => w.got.push(e.data.n));
    for (const name of ['connect', 'disconnect', 'reconnect']) w.socket.on(name, () => w.log.push(name));
    w.socket.on('connect', () => connected());
    w.socket.on('connect_error', (e: Error) => refused(e));
  }), [system.bridge, options] as const);
}

const engine = (page: Page) => page.evaluate(() => (globalThis as unknown as { socket: any }).socket.io.engine.transport.name as string);

const sync = (page: Page, since: unknown) => page.evaluate((since) => new Promise<{ numbers: number[]; info: { complete: boolean } }>((done) => {
  (globalThis as unknown as { socket: any }).socket.emit('sync', since, (events: { data: { n: number } }[], info: { complete: boolean }) => done({ numbers: events.map((e) => e.data.n), info }));
}), since);

describe('socket.io-client 2.5.0 in Chromium', () => {
  for (const transport of ['websocket', 'polling']) {
    it(`connects over ${transport}, gets events, syncs, and comes back`, async () => {
      const user = someone();
      const page = await open('socket.io-2.js');
      await plain(page, { query: { token: await token(user) }, transports: [transport] });
      expect(await engine(page)).toBe(transport);
      await emit(user, 1, 3);
      await until(async () => expect(await got(page)).toEqual([1, 2, 3]));
      const all = await sync(page, { user: 0, all: 0 });
      expect(all.numbers.filter((n) => n <= 3)).toEqual([1, 2, 3]);
      await page.evaluate(() => (globalThis as unknown as { socket: any }).socket.io.engine.close());
      await until(async () => expect(await page.evaluate(() => (globalThis as unknown as { log: string[] }).log)).toContain('reconnect'));
      await emit(user, 4);
      await until(async () => expect(await got(page)).toContain(4));
      await page.context().close();
    });
  }

  it('is told that a token is refused', async () => {
    const page = await open('socket.io-2.js');
    await expect(plain(page, { query: { token: 'rubbish' }, transports: ['polling'], reconnection: false })).rejects.toThrow();
    await page.context().close();
  });
});

void bridge;
void range;
