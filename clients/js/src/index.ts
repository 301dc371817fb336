export { type BackoffOptions } from './backoff.js';
export { Client, ClientError, createClient, type ClientOptions, type State, type SyncResult, type TokenReason } from './client.js';
export { memoryStore, webStore, type Cursor, type CursorStore } from './cursor.js';
export { type CategoryOf, type EventFor, type EventMap, type EventName, type SpineEvent } from './events.js';
export { type Gap } from './sequence.js';
