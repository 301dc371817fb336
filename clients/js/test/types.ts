// Not run: it is enough that it compiles, and that what must not compile does not.
import { createClient, type EventFor, type EventName, type SpineEvent } from '../src/index.js';

type Events = {
  'notification.order': { amount: number };
  'notification.message': { text: string };
  'alert.disk': { host: string };
  status: 'up' | 'down';
};

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

same<EventName<Events>, 'notification.order' | 'notification.message' | 'alert.disk' | 'notification' | 'alert' | 'status' | '*'>(true);
same<EventFor<Events, 'alert'>, SpineEvent<'alert.disk', { host: string }>>(true);
same<EventFor<Events, 'status'>, SpineEvent<'status', 'up' | 'down'>>(true);
same<EventFor<Events, 'notification'>['type'], 'notification.order' | 'notification.message'>(true);
same<EventFor<Events, '*'>['type'], keyof Events>(true);

export function typed(): void {
  const client = createClient<Events>({ url: '', token: 't' });
  client.on('notification.order', (e) => same<typeof e.data, { amount: number }>(true));
  client.on('notification', (e) => {
    if (e.type === 'notification.order') e.data.amount.toFixed();
    else e.data.text.trim();
    // @ts-expect-error: messages have no amount
    e.data.amount;
  });
  // @ts-expect-error: there is no such type
  client.on('notification.unknown', () => {});
  // @ts-expect-error: nor such a category
  client.on('audit', () => {});
}

export function untyped(): void {
  const client = createClient({ url: '', token: 't' });
  client.on('anything.at.all', (e) => {
    same<typeof e, SpineEvent>(true);
    // @ts-expect-error: nobody said what data is
    e.data.amount;
  });
}
