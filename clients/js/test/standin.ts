import { createServer, type Server as Web } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Server, type Socket } from 'socket.io';
import { type Cursor, parseCursor, type Side } from '../src/cursor.js';
import type { SpineEvent } from '../src/events.js';
import { Journal } from './journal.js';

/** A token as the tests use them: unsigned, of a user. */
export function token(sub: string, more: object = {}): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${part({ alg: 'none' })}.${part({ sub, ...more })}.`;
}

/**
 * The bridge's side of the protocol on the official socket.io server, with a journal in memory. What
 * it is asked and told is on record; a test may make it fail.
 */
export class StandIn {
  readonly journals = new Map<string, Journal>();
  readonly auths: { token: string; cursor: unknown }[] = [];
  readonly asked: unknown[] = [];
  readonly refreshes: string[] = [];
  /** Called at each sync; what it returns is the answer's info. 'silent': there is no answer. */
  interfere: ((asked: number) => object | 'silent' | undefined) | undefined;
  /** The answer to a refresh. */
  refreshed: object = { ok: true };
  /** Whether "synced" follows the handshake. */
  synced = true;
  page = 1_000;
  refuse: ((token: string) => { message: string; data?: object } | undefined) | undefined;

  private constructor(readonly io: Server, readonly web: Web, readonly url: string) {}

  static async start(port = 0): Promise<StandIn> {
    const web = createServer();
    const io = new Server(web, { cors: { origin: '*' } });
    await new Promise<void>((done) => web.listen(port, '127.0.0.1', done));
    const s = new StandIn(io, web, `http://127.0.0.1:${(web.address() as AddressInfo).port}`);
    io.use((socket, next) => {
      const auth = socket.handshake.auth as { token: string; cursor: unknown };
      s.auths.push(auth);
      const no = s.refuse?.(auth.token);
      next(no && Object.assign(new Error(no.message), { data: no.data }));
    });
    io.on('connection', (socket) => s.#serve(socket));
    return s;
  }

  journal(user = 'ana'): Journal {
    let j = this.journals.get(user);
    if (!j) this.journals.set(user, (j = new Journal(user)));
    return j;
  }

  /** Stores an event for ana and sends it. */
  emit(side: Side = 'user', type = 'notification.order', data: unknown = null): SpineEvent {
    const e = this.journal().add(side, type, data);
    this.send(e);
    return e;
  }

  send(e: SpineEvent): void {
    this.io.emit(e.type.split('.')[0]!, e, String(e.seq));
  }

  /** Ends all connections the hard way. */
  drop(): void {
    this.io.engine.close();
  }

  async close(): Promise<void> {
    await this.io.close();
  }

  #serve(socket: Socket): void {
    const auth = socket.handshake.auth as { token: string; cursor: unknown };
    const { sub } = JSON.parse(Buffer.from(auth.token.split('.')[1]!, 'base64url').toString()) as { sub: string };
    const journal = this.journal(sub);
    const cursor = parseCursor(auth.cursor);
    if (cursor) for (const e of journal.since(cursor, this.page)) socket.emit(e.type.split('.')[0]!, e, String(e.seq));
    if (this.synced) socket.emit('synced', this.#info(journal, cursor));
    socket.on('sync', (from: unknown, answer: (events: SpineEvent[], info: object) => void) => {
      this.asked.push(from);
      const other = this.interfere?.(this.asked.length);
      if (other === 'silent') return;
      if (other) return answer([], other);
      const at = parseCursor(from);
      answer(at ? journal.since(at, this.page) : [], this.#info(journal, at));
    });
    socket.on('refresh', (token: string, answer: (result: object) => void) => {
      this.refreshes.push(token);
      answer(this.refreshed);
    });
  }

  #info(journal: Journal, cursor: Cursor | undefined): object {
    return cursor ? journal.info(cursor, this.page) : { complete: true, more: false, last: journal.head() };
  }
}
