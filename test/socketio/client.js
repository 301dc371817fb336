// One real socket.io-client, driven by a test: reads commands from stdin, writes what happens to
// stdout, one JSON value a line.
//   node client.js <alias> <url> <transport>[,<transport>]
'use strict';
const [, , alias, url, transports] = process.argv;
const io = require(alias);
const old = alias < 'sio3'; // Engine.IO 3: the token is in the query

const say = (what, more) => process.stdout.write(JSON.stringify(Object.assign({ what }, more)) + '\n');
let socket;

const commands = {
  connect({ token, times, query }) {
    socket = io(url, Object.assign({
      transports: transports.split(','),
      reconnection: times !== 0,
      reconnectionDelay: 50,
      reconnectionDelayMax: 200,
      forceNew: true,
    }, old || query ? { query: alias === 'sio1' ? 'token=' + encodeURIComponent(token) : { token } } : { auth: { token } }));
    socket.on('connect', () => {
      const { engine } = socket.io;
      say('connect', { id: socket.id, transport: engine.transport.name, recovered: socket.recovered });
      engine.once('upgrade', (to) => say('upgrade', { transport: to.name }));
    });
    socket.on('disconnect', (reason) => say('disconnect', { reason }));
    for (const name of ['connect_error', 'error']) {
      socket.on(name, (err) => say(name, {
        message: String((err && err.message) || err), kind: err && err.data && err.data.kind, status: Number(err && err.description) || statusIn(err),
      }));
    }
    for (const name of ['notification', 'alert', 'status']) {
      socket.on(name, (payload) => say('event', { name, payload }));
    }
    for (const name of ['synced', 'token_expiring', 'closing']) socket.on(name, (info) => say(name, { info }));
  },
  sync({ since, one }) {
    if (one) socket.emit('sync', since, (events) => say('sync', { events }));
    else socket.emit('sync', since, (events, info) => say('sync', { events, info }));
  },
  refresh({ token }) { socket.emit('refresh', token, (info) => say('refreshed', { info })); },
  emit({ name, args }) { socket.emit(name, ...args); },
  drop() { socket.io.engine.close(); },
  close() { socket.close(); },
};

function statusIn(err) {
  const text = String((err && err.description && err.description.message) || '');
  const found = /\b[345]\d\d\b/.exec(text);
  return found ? Number(found[0]) : 0;
}

require('readline').createInterface({ input: process.stdin })
  .on('line', (line) => { const c = JSON.parse(line); commands[c.do](c); })
  .on('close', () => process.exit(0));
