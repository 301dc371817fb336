// The official Socket.IO server with what the bridge does: a token names a user, an event goes to
// one user's connections or to everybody. It takes commands, one JSON object a line, on stdin.
const { createServer } = require("http");
const { Server } = require("socket.io");
const readline = require("readline");

const http = createServer();
const io = new Server(http, { serveClient: false, pingInterval: 25000, pingTimeout: 20000, transports: ["websocket", "polling"] });
io.use((socket, next) => {
  const token = socket.handshake.auth.token;
  if (!token) return next(new Error("the token is missing"));
  socket.join("user:" + token);
  next();
});

const say = (o) => process.stdout.write(JSON.stringify(o) + "\n");
const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000); // µs
const event = (size) => ({ t: now(), data: "x".repeat(size) });

function targeted({ rate, seconds, users, size }) {
  const began = now();
  let sent = 0;
  const timer = setInterval(() => {
    const due = Math.min(rate * seconds, Math.floor(((now() - began) / 1e6) * rate));
    for (; sent < due; sent++) io.to("user:u" + ((sent * 7919) % users)).emit("notification", event(size));
    if (sent >= rate * seconds) {
      clearInterval(timer);
      say({ done: "targeted", sent });
    }
  }, 1);
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const c = JSON.parse(line);
  switch (c.do) {
    case "broadcast":
      io.emit("alert", event(c.size));
      say({ done: "broadcast" });
      break;
    case "targeted":
      targeted(c);
      break;
    case "flood":
      for (let i = 0; i < c.rate; i++) io.to("user:stalled").emit("notification", event(c.size));
      say({ done: "flood" });
      break;
    case "collect":
      global.gc();
      say({ done: "collect" });
      break;
    case "count":
      say({ done: "count", n: io.engine.clientsCount });
      break;
  }
}).on("close", () => process.exit(0));

http.listen(0, "127.0.0.1", () => say({ addr: "127.0.0.1:" + http.address().port }));
