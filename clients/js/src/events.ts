/**
 * One event, as the bridge sends it: what the producer gave, and the place it was stored at.
 * Members that the producer added at the top level are kept as they came.
 */
export interface SpineEvent<Type extends string = string, Data = unknown> {
  /** The producer's id, or one the API made. Two events with the same id are the same event. */
  readonly id: string;
  /** One to eight tokens with dots between them. The first is the category. */
  readonly type: Type;
  /** Whom it is for; `*` is everybody. */
  readonly userId: string;
  /** Milliseconds since 1970, given by the producer or by the API. */
  readonly timestamp: number;
  readonly data: Data;
  readonly source?: string;
  /** What is known about the user, where the workers were told. */
  readonly user?: Record<string, unknown>;
  /** Position: within a partition and epoch each event has the next number. Always below 2^53. */
  readonly partition: number;
  readonly seq: number;
  readonly epoch: number;
  /** Number of the event before it: of the same user, and in the whole partition. 0: none within the replay window. */
  readonly prev?: { readonly user: number; readonly feed: number };
  readonly processedAt?: number | string;
  readonly latencyMs?: number;
  readonly [member: string]: unknown;
}

/** The types of events an application knows, each with the type of its `data`. */
export type EventMap = Record<string, unknown>;

/** The first token of an event type. */
export type CategoryOf<Type extends string> = Type extends `${infer Category}.${string}` ? Category : Type;

type Types<M extends EventMap> = keyof M & string;

/** What `on` takes: an event type, a category, or `*` for every event. */
export type EventName<M extends EventMap> = Types<M> | CategoryOf<Types<M>> | '*';

/** The event that a handler for Name gets: of one type, or a union of all types of a category. */
export type EventFor<M extends EventMap, Name extends string> = string extends Types<M>
  ? SpineEvent<string, M[string]>
  : { [T in Types<M>]: Name extends '*' | T | CategoryOf<T> ? SpineEvent<T, M[T]> : never }[Types<M>];

/** The first token of an event type. */
export function categoryOf(type: string): string {
  const dot = type.indexOf('.');
  return dot < 0 ? type : type.slice(0, dot);
}

/**
 * Reads an argument that came under a name as an event; undefined when it is none: the bridge's
 * own messages come the same way, and no event is called anything but its category.
 */
export function asEvent(name: string, value: unknown): SpineEvent | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const e = value as Partial<Record<keyof SpineEvent, unknown>>;
  if (typeof e.id !== 'string' || typeof e.type !== 'string' || categoryOf(e.type) !== name) return undefined;
  return value as SpineEvent;
}
