// Browsers for the end-to-end tests: real socket.io-client connections, driven by one JSON
// command a line on standard input; everything they see is one JSON line on standard output.
'use strict';
const io = require(process.argv[2]); // the directory of the client's version
const readline = require('readline');

const open = new Map();
const say = (as, what, more) => process.stdout.write(JSON.stringify({ as, what, ...more }) + '\n');

const commands = {
  connect({ as, url, token, transports }) {
    const socket = io(url, { query: { token }, transports, forceNew: true, reconnection: false });
    open.set(as, socket);
    socket.on('connect', () => say(as, 'connected'));
    socket.on('disconnect', (reason) => say(as, 'closed', { reason }));
    for (const name of ['connect_error', 'error']) socket.on(name, (e) => say(as, 'error', { reason: String(e && (e.description || e.message) || e) }));
    for (const name of ['notification', 'alert', 'status', 'audit', 'order', 'debug']) {
      socket.on(name, (event) => say(as, 'event', { name, event }));
    }
  },
  drop({ as }) {
    open.get(as).close();
    open.delete(as);
  },
  sync({ as, last }) {
    open.get(as).emit('sync', last, (events, info) => say(as, 'synced', { events, info }));
  },
};

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const command = JSON.parse(line);
  commands[command.do](command);
});
lines.on('close', () => process.exit(0));
