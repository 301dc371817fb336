// One real socket.io-client, driven by a test: reads commands from stdin, writes what happens to
// stdout, one JSON value a line.
//   node client.js <alias> <url> <transport>
'use strict';
const [, , alias, url, transport] = process.argv;
const io = require(alias);

const say = (what, more) => process.stdout.write(JSON.stringify(Object.assign({ what }, more)) + '\n');
let socket;

const commands = {
  connect({ token, times }) {
    socket = io(url, {
      transports: [transport],
      query: 'token=' + encodeURIComponent(token),
      reconnection: times !== 0,
      reconnectionDelay: 50,
      reconnectionDelayMax: 200,
      forceNew: true,
    });
    socket.on('connect', () => say('connect', { id: socket.id, transport: socket.io.engine.transport.name }));
    socket.on('disconnect', (reason) => say('disconnect', { reason }));
    socket.on('reconnect', () => say('reconnect'));
    for (const name of ['connect_error', 'error']) {
      socket.on(name, (err) => say(name, { message: String((err && err.message) || err), status: Number(err && err.description) || statusIn(err) }));
    }
    for (const name of ['notification', 'alert', 'status']) {
      socket.on(name, (payload) => say('event', { name, payload }));
    }
  },
  sync({ since, one }) {
    if (one) socket.emit('sync', since, (events) => say('sync', { events }));
    else socket.emit('sync', since, (events, info) => say('sync', { events, info }));
  },
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
