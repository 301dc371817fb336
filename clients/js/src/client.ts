import { io, type ManagerOptions, type Socket, type SocketOptions } from 'socket.io-client';
import { Backoff, type BackoffOptions } from './backoff.js';
import { type Cursor, type CursorStore, defaultStore, parseCursor } from './cursor.js';
import { asEvent, categoryOf, type EventFor, type EventMap, type EventName, type SpineEvent } from './events.js';
import { type Gap, Sequence, type SyncInfo } from './sequence.js';
import { Timers } from './timers.js';
import { userOf } from './token.js';

/**
 * `idle` before `connect`; `connecting` until the bridge took the token; `syncing` while missed
 * events come; `live`; `waiting` to try again; `closed` by `close`, or because there is no token.
 */
export type State = 'idle' | 'connecting' | 'syncing' | 'live' | 'waiting' | 'closed';

/** Why a token is asked for: for the first time, again, because the last one was refused, or because it ends soon. */
export type TokenReason = 'connect' | 'reconnect' | 'refused' | 'expiring';

export interface ClientOptions {
  /** Where the bridge is, such as `https://events.example.com`. */
  readonly url: string;
  /** A token that does not change. When it ends, so does the client. Either this or `getToken`. */
  readonly token?: string;
  /**
   * Gives a token that is valid now. Called before each connection and before a token ends. What it
   * throws is reported and tried again later; an empty answer closes the client.
   */
  readonly getToken?: (reason: TokenReason) => string | null | undefined | Promise<string | null | undefined>;
  /** Where the cursor is kept. Default: localStorage, or memory where there is none. */
  readonly store?: CursorStore;
  /** Beginning of its name there, followed by the user; default: one for each bridge. Without a user in the token nothing is kept. */
  readonly storeKey?: string;
  /** Milliseconds between two writes of the cursor, default 200. It is written at once by `close` and when the page is left. */
  readonly saveEvery?: number;
  /** Live events that wait while missed ones are asked for, default 1,000. */
  readonly held?: number;
  /** Ids of events that are remembered, to leave out repeats; default 1,000. */
  readonly ids?: number;
  /** How long to wait before a new try. */
  readonly backoff?: BackoffOptions;
  /** Milliseconds for token, connection and handshake together, default 30,000. */
  readonly connectTimeout?: number;
  /** Milliseconds for an answer to `sync` and `refresh`, default 10,000. */
  readonly answerTimeout?: number;
  /** Passed on to socket.io-client: `transports`, `path`, `withCredentials`, … */
  readonly socket?: Partial<ManagerOptions & SocketOptions>;
}

/** What `sync` resolves to. */
export interface SyncResult {
  /** False: something was lost for good since the position the client was at. */
  readonly complete: boolean;
}

/** A refusal or a failure that `onError` is told of. The client goes on by itself, unless its state is `closed`. */
export class ClientError extends Error {
  override readonly name = 'ClientError';
  /** What the client was doing. */
  readonly during: 'connect' | 'token' | 'sync' | 'store' | 'handler';

  constructor(during: ClientError['during'], message: string, cause?: unknown) {
    super(message, { cause });
    this.during = during;
  }
}

type Handler = (event: SpineEvent) => void;
interface Waiter {
  resolve(result: SyncResult): void;
  reject(error: Error): void;
}

/**
 * The events of one user, from a bridge of eventspine. While it is connected each comes once and in
 * order; after a connection that was lost, or a page that was loaded again, what was missed comes
 * first, as far as the bridge's replay window reaches. What is past it is announced to `onGap`.
 *
 * Handlers are called one after the other and must not throw; what one throws goes to `onError`.
 */
export class Client<M extends EventMap = EventMap> {
  readonly #options: ClientOptions;
  readonly #handlers = new Map<string, Set<Handler>>();
  readonly #onState = new Set<(state: State) => void>();
  readonly #onGap = new Set<(gap: Gap) => void>();
  readonly #onError = new Set<(error: ClientError) => void>();
  readonly #store: CursorStore;
  readonly #backoff: Backoff; // of connections
  readonly #asking: Backoff; // of questions in one connection
  readonly #timers = new Timers<'watch' | 'again' | 'ask' | 'refresh' | 'save'>();
  #sequence: Sequence;
  #state: State = 'idle';
  #socket: Socket | undefined;
  #turn = 0; // of connections: what belongs to an older one does not count
  #token = '';
  #user: string | undefined;
  #key: string | undefined; // of the cursor in the store
  #saved: Cursor | undefined;
  #leaving: { retryAfter?: number } | undefined; // what the bridge said before it closed
  #next: TokenReason = 'connect';
  #waiters: Waiter[] = [];
  #complete = true; // of the catching up that is under way
  #unlisten: (() => void)[] = [];

  constructor(options: ClientOptions) {
    if (!options.token && !options.getToken) throw new TypeError('one of token and getToken must be given');
    this.#options = options;
    this.#store = options.store ?? defaultStore();
    this.#backoff = new Backoff(options.backoff);
    this.#asking = new Backoff(options.backoff);
    this.#sequence = this.#newSequence();
  }

  get state(): State {
    return this.#state;
  }

  /** How far everything was delivered; undefined before the bridge told for the first time. */
  get cursor(): Cursor | undefined {
    return this.#sequence.cursor;
  }

  /** Whether the transport is websocket or polling; undefined while there is none. */
  get transport(): string | undefined {
    return this.#socket?.connected ? this.#socket.io.engine.transport.name : undefined;
  }

  /**
   * Calls the handler for each event of a type, of a category (the first token of a type), or for
   * all (`*`). Returns what ends that. Handlers that are added before `connect` miss nothing.
   */
  on<N extends EventName<M>>(name: N, handler: (event: EventFor<M, N>) => void): () => void {
    return add(this.#handlers, name, handler as unknown as Handler);
  }

  /** Calls the listener whenever the state changes. Returns what ends that. */
  onState(listener: (state: State) => void): () => void {
    this.#onState.add(listener);
    return () => this.#onState.delete(listener);
  }

  /** Calls the listener when events were lost for good: the application has to read its state anew. */
  onGap(listener: (gap: Gap) => void): () => void {
    this.#onGap.add(listener);
    return () => this.#onGap.delete(listener);
  }

  /** Calls the listener with what went wrong. Without one it goes to the console. */
  onError(listener: (error: ClientError) => void): () => void {
    this.#onError.add(listener);
    return () => this.#onError.delete(listener);
  }

  /** Connects, and stays connected until `close`. Does nothing when that is so already. */
  connect(): this {
    if (this.#state !== 'idle' && this.#state !== 'closed') return this;
    this.#listen();
    this.#next = 'connect';
    this.#backoff.reset();
    void this.#open();
    return this;
  }

  /** Ends the connection and keeps the cursor. `connect` goes on from there. */
  close(): void {
    if (this.#state === 'closed' || this.#state === 'idle') return;
    for (const end of this.#unlisten.splice(0)) end();
    this.#leave('closed');
    for (const w of this.#waiters.splice(0)) w.reject(new ClientError('sync', 'the client was closed'));
    this.#save();
  }

  /**
   * Asks for what was missed. It is hardly ever needed: the client does so by itself after a reconnect
   * and when it sees a hole. Resolves when everything up to now was delivered; while there is no
   * connection it waits for one. Rejects when the client is closed.
   */
  sync(): Promise<SyncResult> {
    return new Promise((resolve, reject) => {
      if (this.#state === 'closed') {
        reject(new ClientError('sync', 'the client is closed'));
        return;
      }
      this.#waiters.push({ resolve, reject });
      if (this.#state === 'live') this.#startAsking();
    });
  }

  // Connections

  async #open(): Promise<void> {
    const turn = ++this.#turn;
    const current = () => turn === this.#turn;
    this.#become('connecting');
    this.#timers.set('watch', this.#options.connectTimeout ?? 30_000, () => {
      this.#report('connect', 'no connection in time');
      this.#lost();
    });
    const token = await this.#fetchToken(this.#next);
    if (!current()) return;
    if (token === undefined) return this.#lost();
    if (!token) {
      this.#report('token', 'there is no token');
      return this.close();
    }
    this.#token = token;
    await this.#takeUp(token);
    if (current()) this.#connectSocket();
  }

  /** An empty string: there is none. Undefined: it failed, which was reported. */
  async #fetchToken(reason: TokenReason): Promise<string | undefined> {
    try {
      const { token, getToken } = this.#options;
      return (getToken ? await getToken(reason) : token) ?? '';
    } catch (e) {
      this.#report('token', 'getToken failed', e);
      return undefined;
    }
  }

  /** Goes on where the token's user was, in this visit or an earlier one. */
  async #takeUp(token: string): Promise<void> {
    const user = userOf(token);
    if (this.#key !== undefined && this.#user === user) return;
    this.#save();
    if (this.#user !== user) this.#sequence = this.#newSequence();
    this.#user = user;
    this.#key = user === undefined ? undefined : `${this.#options.storeKey ?? `eventspine:cursor:${this.#options.url}`}:${user}`;
    if (this.#key === undefined) return;
    try {
      this.#saved = parseCursor(await this.#store.load(this.#key));
      this.#sequence.cursor ??= this.#saved;
    } catch (e) {
      this.#report('store', 'the cursor could not be read', e);
    }
  }

  #newSequence(): Sequence {
    return new Sequence({
      held: this.#options.held ?? 1_000,
      ids: this.#options.ids ?? 1_000,
      deliver: (event) => this.#deliver(event),
      gap: (gap) => {
        this.#complete = false;
        this.#tell(this.#onGap, gap);
      },
    });
  }

  #connectSocket(): void {
    this.#socket ??= this.#newSocket();
    this.#socket.connect();
  }

  #newSocket(): Socket {
    const socket = io(this.#options.url, {
      transports: ['websocket', 'polling'], // with several bridges behind one address, polling needs sticky sessions
      tryAllTransports: true,
      ...this.#options.socket,
      autoConnect: false,
      forceNew: true,
      reconnection: false, // by this class, with its own waits
      auth: (give) => give({ token: this.#token, cursor: this.#sequence.position() }),
    });
    socket.on('connect', () => this.#connected());
    socket.on('connect_error', (e: Error & { data?: unknown; description?: unknown }) => this.#refused(e));
    socket.on('disconnect', () => {
      if (this.#state === 'live' || this.#state === 'syncing') this.#lost(this.#leaving?.retryAfter);
    });
    socket.io.on('close', (reason) => {
      if (this.#state !== 'connecting' || reason === 'forced close') return; // by us, or by a refusal, of which connect_error tells
      this.#report('connect', `the connection ended before it was there: ${reason}`);
      this.#lost(this.#leaving?.retryAfter);
    });
    socket.onAny((name: string, value: unknown) => this.#received(name, value));
    return socket;
  }

  #connected(): void {
    this.#leaving = undefined;
    this.#next = 'reconnect';
    this.#complete = true;
    this.#sequence.connected();
    this.#asking.reset();
    this.#become('syncing');
    this.#timers.set('watch', this.#options.answerTimeout ?? 10_000, () => this.#startAsking());
  }

  #refused(e: Error & { data?: unknown; description?: unknown }): void {
    if (this.#state !== 'connecting') return;
    const data = (typeof e.data === 'object' ? e.data : null) as { kind?: unknown; retryAfter?: unknown } | null;
    const token = data?.kind === 'unauthorized' || data?.kind === 'forbidden' || e.description === 401 || e.description === 403;
    this.#report(token ? 'token' : 'connect', e.message, e);
    if (token && !this.#options.getToken) return this.close();
    if (token) this.#next = 'refused';
    this.#lost(milliseconds(data?.retryAfter));
  }

  /** The connection is gone, or did not come about. */
  #lost(after?: number): void {
    this.#leave('waiting');
    this.#timers.set('again', this.#backoff.next(after), () => void this.#open());
  }

  #leave(state: 'waiting' | 'closed'): void {
    this.#turn++;
    this.#timers.clear('watch', 'again', 'ask', 'refresh');
    this.#sequence.disconnected();
    this.#become(state);
    this.#socket?.disconnect();
    this.#leaving = undefined;
  }

  // What comes

  #received(name: string, value: unknown): void {
    const event = asEvent(name, value);
    if (event) {
      if (this.#sequence.received(event)) this.#startAsking();
      this.#saveSoon();
      return;
    }
    const body = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
    switch (name) {
      case 'synced':
        if (this.#sequence.replaying) this.#answered([], body);
        break;
      case 'token_expiring':
        this.#refreshSoon(milliseconds(body['expiresAt']));
        break;
      case 'closing': {
        const retryAfter = milliseconds(body['retryAfter']);
        this.#leaving = retryAfter === undefined ? {} : { retryAfter };
        break;
      }
    }
  }

  #deliver(event: SpineEvent): void {
    const category = categoryOf(event.type);
    for (const name of new Set([event.type, category, '*'])) {
      for (const handler of this.#handlers.get(name) ?? []) {
        try {
          handler(event);
        } catch (e) {
          this.#report('handler', `a handler of ${name} threw`, e);
        }
      }
    }
  }

  // Questions

  #startAsking(): void {
    this.#timers.clear('watch', 'ask');
    if (this.#sequence.live) this.#complete = true;
    this.#sequence.ask();
    this.#become('syncing');
    this.#ask();
  }

  #ask(): void {
    const turn = this.#turn;
    const limit = this.#options.answerTimeout ?? 10_000;
    this.#socket?.timeout(limit).emit('sync', this.#sequence.position(), (e: Error | null, events: unknown, info: unknown) => {
      if (turn !== this.#turn) return;
      if (e) return this.#askLater('no answer to sync in time');
      this.#answered(Array.isArray(events) ? (events as SpineEvent[]) : [], (info ?? {}) as SyncInfo);
    });
  }

  #askLater(why: string, after?: number): void {
    if (after === undefined) this.#report('sync', why);
    this.#sequence.ask();
    this.#timers.clear('watch');
    this.#timers.set('ask', this.#asking.next(after), () => this.#ask());
  }

  #answered(events: readonly SpineEvent[], info: SyncInfo): void {
    const after = milliseconds(info.retryAfter);
    if (info.last === undefined && (after !== undefined || info.error !== undefined)) return this.#askLater(info.error ?? 'the bridge is busy', after);
    this.#timers.clear('watch');
    this.#asking.reset();
    const again = this.#sequence.answered(events, info);
    this.#saveSoon();
    if (again) return this.#ask();
    if (!this.#sequence.live) return; // a handler closed the client, or asked again
    this.#backoff.reset();
    this.#become('live');
    const complete = this.#complete;
    for (const w of this.#waiters.splice(0)) w.resolve({ complete });
  }

  // Tokens

  /** Not at once: many tokens are made, and end, at the same time. What fails is tried again while there is time. */
  #refreshSoon(expiresAt = 0): void {
    if (!this.#options.getToken) return;
    const left = Math.max(0, expiresAt - Date.now());
    this.#timers.set('refresh', Math.min(left, 20_000) * (0.1 + 0.4 * Math.random()), () => void this.#refresh(expiresAt));
  }

  async #refresh(expiresAt: number): Promise<void> {
    const turn = this.#turn;
    const token = await this.#fetchToken('expiring');
    if (turn !== this.#turn) return;
    const failed = (why?: string, e?: unknown) => {
      if (why !== undefined) this.#report('token', why, e);
      if (expiresAt - Date.now() > 500) this.#refreshSoon(expiresAt); // else the connection ends, and the next one asks for a token
    };
    if (!token) return failed();
    const limit = this.#options.answerTimeout ?? 10_000;
    this.#socket?.timeout(limit).emit('refresh', token, (e: Error | null, answer: { ok?: unknown; error?: unknown } | undefined) => {
      if (turn !== this.#turn) return;
      if (e) return failed('no answer to refresh in time', e);
      if (answer?.ok === true) this.#token = token;
      else failed(String(answer?.error ?? 'the new token was refused'));
    });
  }

  // The cursor's store

  #saveSoon(): void {
    if (this.#key === undefined || this.#sequence.cursor === this.#saved || this.#timers.has('save')) return;
    this.#timers.set('save', this.#options.saveEvery ?? 200, () => this.#save());
  }

  #save(): void {
    this.#timers.clear('save');
    const cursor = this.#sequence.cursor;
    if (this.#key === undefined || cursor === undefined || cursor === this.#saved) return;
    this.#saved = cursor;
    const failed = (e: unknown) => this.#report('store', 'the cursor could not be kept', e);
    try {
      Promise.resolve(this.#store.save(this.#key, cursor)).catch(failed);
    } catch (e) {
      failed(e);
    }
  }

  // Around it

  /** Pages tell when they are left, and when the network is back. */
  #listen(): void {
    if (typeof globalThis.addEventListener !== 'function') return;
    const on = (type: string, fn: () => void) => {
      globalThis.addEventListener(type, fn);
      this.#unlisten.push(() => globalThis.removeEventListener(type, fn));
    };
    on('pagehide', () => this.#save());
    on('online', () => {
      if (this.#state !== 'waiting') return;
      this.#backoff.reset();
      this.#timers.set('again', this.#backoff.next() / 2, () => void this.#open());
    });
  }

  #become(state: State): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#tell(this.#onState, state);
  }

  #tell<T>(listeners: Set<(value: T) => void>, value: T): void {
    for (const listener of [...listeners]) {
      try {
        listener(value);
      } catch (e) {
        this.#report('handler', 'a listener threw', e);
      }
    }
  }

  #report(during: ClientError['during'], message: string, cause?: unknown): void {
    const error = new ClientError(during, message, cause);
    if (this.#onError.size === 0) {
      console.error(`eventspine: ${during}: ${message}`, ...(cause === undefined ? [] : [cause]));
      return;
    }
    for (const listener of [...this.#onError]) {
      try {
        listener(error);
      } catch (e) {
        console.error('eventspine: a listener of errors threw', e);
      }
    }
  }
}

/** A client for one bridge. It does nothing before `connect`. */
export function createClient<M extends EventMap = EventMap>(options: ClientOptions): Client<M> {
  return new Client<M>(options);
}

function add(all: Map<string, Set<Handler>>, name: string, handler: Handler): () => void {
  let handlers = all.get(name);
  if (!handlers) all.set(name, (handlers = new Set()));
  handlers.add(handler);
  return () => {
    handlers.delete(handler);
    if (handlers.size === 0 && all.get(name) === handlers) all.delete(name);
  };
}

function milliseconds(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
}
