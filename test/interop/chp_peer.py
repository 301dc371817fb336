"""A CHP client or server on libzmq, written from RFC 12 alone.

usage: chp_peer.py client SNAPSHOT UPDATES CHANGES   asks a server that holds /a/x=1, /a/y=2 and /b/z=3, as its
                                                     changes 1 to 3, for all it should do; prints "ok" when it did
       chp_peer.py server                            prints its three endpoints and serves until standard input ends
"""
import struct
import sys
import threading
import time
import uuid

import zmq

PATIENCE = 10000  # ms
HUGZ_EVERY = 0.05  # s


def expect(got, want, what):
    if got != want:
        raise SystemExit(f"{what}: got {got!r}, want {want!r}")


def number(frame):
    expect(len(frame), 8, "bytes of a sequence number")
    return struct.unpack("!Q", frame)[0]


def properties(frame):
    return dict(line.split("=", 1) for line in frame.decode().splitlines())


class Client:
    def __init__(self, context, snapshot, updates, changes):
        self.context, self.at = context, snapshot
        self.push = self.connect(zmq.PUSH, changes)
        self.hugz = 0
        self.updates = updates
        self.sub = self.follow("")

    def connect(self, kind, endpoint):
        sock = self.context.socket(kind)
        sock.linger, sock.rcvtimeo, sock.sndtimeo = 500, PATIENCE, PATIENCE
        if kind != zmq.SUB:
            sock.connect(endpoint)
        return sock

    def follow(self, subtree):
        sub = self.connect(zmq.SUB, None)
        for topic in (subtree.encode(), b"HUGZ"):
            sub.setsockopt(zmq.SUBSCRIBE, topic)
        sub.connect(self.updates)
        while sub.recv_multipart()[0] != b"HUGZ":  # from now on it hears everything
            pass
        return sub

    def snapshot(self, subtree=""):
        sock = self.connect(zmq.DEALER, self.at)
        sock.send_multipart([b"ICANHAZ?", subtree.encode()])
        values, last = {}, 0
        while True:
            key, seq, ident, props, body = sock.recv_multipart()
            if key == b"KTHXBAI":
                expect([ident, body], [b"", subtree.encode()], "KTHXBAI")
                if number(seq) < last:
                    raise SystemExit("the snapshot is newer than its KTHXBAI")
                sock.close()
                return values, number(seq)
            if number(seq) <= last:
                raise SystemExit("the values of a snapshot come out of order")
            last, values[key.decode()] = number(seq), body

    def update(self, sub=None):
        while True:
            key, seq, ident, props, body = (sub or self.sub).recv_multipart()
            if key != b"HUGZ":
                return key.decode(), number(seq), ident, properties(props), body
            expect([ident, body], [b"", b""], "HUGZ")
            self.hugz += 1

    def change(self, key, body, **props):
        ident = uuid.uuid4().bytes
        lines = "".join(f"{name}={value}\n" for name, value in props.items())
        self.push.send_multipart([key.encode(), struct.pack("!Q", 0), ident, lines.encode(), body])
        return ident


def client(context, *endpoints):
    c = Client(context, *endpoints)
    expect(c.snapshot(), ({"/a/x": b"1", "/a/y": b"2", "/b/z": b"3"}, 3), "snapshot")
    expect(c.snapshot("/a/"), ({"/a/x": b"1", "/a/y": b"2"}, 3), "snapshot of a subtree")
    expect(c.snapshot("/nothing/"), ({}, 3), "snapshot of nothing")

    part = c.follow("/b/")
    for n, (key, body) in enumerate([("/a/new", b"hello"), ("/b/new", b"\x00\xff" * 20000), ("/a/new", b"again"), ("/a/x", b"")]):
        ident = c.change(key, body)
        got = c.update()
        expect([got[0], got[1], got[2], got[4]], [key, 4 + n, ident, body], "update")
    expect(c.update(part)[:2], ("/b/new", 5), "update of a subtree")
    expect(c.snapshot("/a/"), ({"/a/y": b"2", "/a/new": b"again"}, 7), "snapshot after changes")

    began = time.monotonic()
    c.change("/a/short", b"lived", ttl=1)
    got = c.update()
    expect([got[0], got[1], got[4]], ["/a/short", 8, b"lived"], "a value with a time to live")
    got = c.update()
    expect([got[0], got[1], got[4]], ["/a/short", 9, b""], "its end")
    if time.monotonic() - began < 0.9:
        raise SystemExit("it ended before its time")
    if c.hugz < 3:
        raise SystemExit(f"{c.hugz} HUGZ came")

    for nonsense in ([b"x"], [b"/a/k", b"short", b"", b"", b"v"], [b"", b"\0" * 8, b"", b"", b"v"], [b"/a/k", b"\0" * 8, b"uuid", b"", b"v"],
                     [b"/a/k", b"\0" * 8, b"\1" * 16, b"no property", b"v"], [b"HUGZ", b"\0" * 8, b"", b"", b""]):
        c.push.send_multipart(nonsense)
    stranger = c.connect(zmq.DEALER, c.at)
    for nonsense in ([b"ICANHAZ?"], [b"ICANHAZ?", b"no path"], [b"WHAT?", b""], [b""]):
        stranger.send_multipart(nonsense)
    ident = c.change("/a/last", b"after nonsense")
    got = c.update()
    expect([got[0], got[1], got[2]], ["/a/last", 10, ident], "update after nonsense")


def server(context):
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    router, pub, pull = (context.socket(kind) for kind in (zmq.ROUTER, zmq.PUB, zmq.PULL))
    for sock in (router, pub, pull):
        sock.linger = 500
        sock.bind("tcp://127.0.0.1:*")
        print(sock.last_endpoint.decode(), flush=True)
    values, ends, last = {"/rules/x": (1, b"one"), "/other/x": (2, b"two")}, {}, 2
    poller = zmq.Poller()
    for sock in (router, pull):
        poller.register(sock, zmq.POLLIN)
    beat = time.monotonic()

    def change(key, ident, props, body):
        nonlocal last
        last += 1
        values.pop(key, None)
        ends.pop(key, None)
        if body:
            values[key] = last, body
        if int(props.get("ttl", 0)) > 0 and body:
            ends[key] = time.monotonic() + int(props["ttl"])
        pub.send_multipart([key.encode(), struct.pack("!Q", last), ident, "".join(f"{n}={v}\n" for n, v in props.items()).encode(), body])

    while not ended.is_set():
        ready = dict(poller.poll(20))
        if router in ready:
            who, word, subtree = router.recv_multipart()
            expect(word, b"ICANHAZ?", "request")
            for key, (seq, body) in values.items():
                if key.startswith(subtree.decode()):
                    router.send_multipart([who, key.encode(), struct.pack("!Q", seq), b"", b"", body])
            router.send_multipart([who, b"KTHXBAI", struct.pack("!Q", last), b"", b"", subtree])
        if pull in ready:
            key, _, ident, props, body = pull.recv_multipart()
            expect(len(ident), 16, "bytes of a UUID")
            change(key.decode(), ident, properties(props), body)
        for key in [k for k, end in ends.items() if end <= time.monotonic()]:
            change(key, uuid.uuid4().bytes, {}, b"")
        if time.monotonic() - beat >= HUGZ_EVERY:
            beat = time.monotonic()
            pub.send_multipart([b"HUGZ", struct.pack("!Q", 0), b"", b"", b""])


def main():
    context = zmq.Context()
    if sys.argv[1] == "server":
        server(context)
    else:
        client(context, *sys.argv[2:5])
        print("ok")
    context.destroy(linger=500)


if __name__ == "__main__":
    main()
