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
  browser = await chromium.launch({ executablePath: process.env['EVENTSPINE_CHROMIUM'] ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
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

for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
  describe(`the newest socket.io-client in Chromium, over ${transports.join(' and ')}`, () => {
    it('connects, gets events, syncs, and recovers by itself', async () => {
      const user = someone();
      const page = await open('socket.io-4.js');
      await plain(page, { auth: { token: await token(user) }, transports });
      await until(async () => expect(await engine(page)).toBe(transports.at(-1)));
      await emit(user, 1, 3);
      await until(async () => expect(await got(page)).toEqual([1, 2, 3]));
      expect((await sync(page, { user: 0, all: 0 })).numbers).toEqual(expect.arrayContaining([1, 2, 3]));
      await page.evaluate(() => (globalThis as unknown as { socket: any }).socket.io.engine.close());
      await emit(user, 4, 5);
      await until(async () => expect(await page.evaluate(() => (globalThis as unknown as { log: string[] }).log)).toEqual(['connect', 'disconnect', 'connect']));
      await until(async () => expect(await got(page)).toEqual([1, 2, 3, 4, 5]));
      expect(await page.evaluate(() => (globalThis as unknown as { socket: any }).socket.recovered as boolean)).toBe(true);
      await page.context().close();
    });
  });
}

describe('the package in Chromium', () => {
  /** Connects the package's one file in the page. Its tokens come from here. */
  async function start(page: Page, user: string): Promise<void> {
    await page.evaluate(async ([url, token]) => {
      const w = globalThis as unknown as { Eventspine: typeof import('../../src/index.js'); client: import('../../src/index.js').Client; got: number[]; log: string[] };
      w.got = [];
      w.log = [];
      w.client = w.Eventspine.createClient({ url, token, backoff: { first: 200, max: 200 } });
      w.client.on('notification', (e) => w.got.push((e.data as { n: number }).n));
      w.client.onState((s) => w.log.push(s));
      w.client.onGap(() => w.log.push('gap'));
      w.client.connect();
    }, [system.bridge, await token(user)] as const);
    await until(async () => expect(await log(page)).toContain('live'));
  }
  const log = (page: Page) => page.evaluate(() => (globalThis as unknown as { log: string[] }).log);

  it('goes on after a reload, and after the bridge was killed, without a gap or a repeat', async () => {
    const user = someone();
    const page = await open('eventspine.js');
    await start(page, user);
    await emit(user, 1, 2);
    await until(async () => expect(await got(page)).toEqual([1, 2]));
    await page.reload();
    await emit(user, 3, 4);
    await start(page, user);
    await until(async () => expect(await got(page)).toEqual([3, 4]));
    await bridge.kill();
    await until(async () => expect(await log(page)).toContain('waiting'));
    await emit(user, 5, 9);
    await bridge.start();
    await until(async () => expect(await got(page)).toEqual(range(3, 9)));
    expect(await log(page)).not.toContain('gap');
    await page.context().close();
  });

  it('shares the cursor between tabs, and not between users', async () => {
    const [ana, bob] = [someone(), someone()];
    const first = await open('eventspine.js');
    await start(first, ana);
    await emit(ana, 1);
    await until(async () => expect(await got(first)).toEqual([1]));
    await first.evaluate(() => (globalThis as unknown as { client: import('../../src/index.js').Client }).client.close());
    await emit(ana, 2);
    const second = await open('eventspine.js', await first.context().newPage());
    await start(second, ana);
    await until(async () => expect(await got(second)).toEqual([2]));
    const third = await open('eventspine.js', await first.context().newPage());
    await start(third, bob);
    await emit(bob, 3);
    await until(async () => expect(await got(third)).toEqual([3]));
    await until(async () => expect(await third.evaluate(() => Object.keys(localStorage).length)).toBe(2));
    await first.context().close();
  });

  it('comes back when the network does', async () => {
    const user = someone();
    const page = await open('eventspine.js');
    await start(page, user);
    await page.context().setOffline(true);
    await page.evaluate(() => { // a transport that is cut is only noticed by its silence
      const { client } = globalThis as unknown as { client: import('../../src/index.js').Client };
      client.close();
      client.connect();
    });
    await until(async () => expect(await log(page)).toContain('waiting'));
    await emit(user, 1);
    await page.context().setOffline(false);
    await until(async () => expect(await got(page)).toEqual([1]));
    await page.context().close();
  });
});
