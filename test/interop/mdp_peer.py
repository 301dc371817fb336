"""An MDP 0.1 client, worker, frozen worker or misfit on libzmq, written from RFC 7 alone.

usage: mdp_peer.py client ENDPOINT             asks the service echo and the broker's own
       mdp_peer.py worker ENDPOINT HEARTBEAT   serves reverse until standard input ends
       mdp_peer.py frozen ENDPOINT             takes one request of reverse and never says another word
       mdp_peer.py misfit ENDPOINT             breaks the protocol in every way it knows

It prints "ok" when the broker did all that the RFC says, and fails otherwise.
"""
import sys
import threading
import time

import zmq

READY, REQUEST, REPLY, HEARTBEAT, DISCONNECT = (bytes([n]) for n in range(1, 6))
CLIENT, WORKER = b"MDPC01", b"MDPW01"
PATIENCE = 10000  # ms


def connect(context, kind, endpoint):
    sock = context.socket(kind)
    sock.linger, sock.rcvtimeo = 500, PATIENCE
    sock.connect(endpoint)
    return sock


def expect(got, want):
    if got != want:
        raise SystemExit(f"got {got!r}, want {want!r}")


def client(context, endpoint):
    req = connect(context, zmq.REQ, endpoint)
    for service, body, answer in [
        (b"echo", [b"hello"], [b"hello"]),
        (b"echo", [b"", b"two", b"frames"], [b"", b"two", b"frames"]),
        (b"echo", [b"x" * 500_000], [b"x" * 500_000]),
        (b"mmi.service", [b"echo"], [b"200"]),
        (b"mmi.service", [b"nobody"], [b"404"]),
        (b"mmi.anything", [b"x"], [b"501"]),
    ]:
        req.send_multipart([CLIENT, service, *body])
        expect(req.recv_multipart(), [CLIENT, service, *answer])

    dealer = connect(context, zmq.DEALER, endpoint)  # many requests at once
    for i in range(10):
        dealer.send_multipart([b"", CLIENT, b"echo", b"%d" % i])
    expect([dealer.recv_multipart() for _ in range(10)], [[b"", CLIENT, b"echo", b"%d" % i] for i in range(10)])


def worker(context, endpoint, beat):
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    sock = connect(context, zmq.DEALER, endpoint)
    sock.send_multipart([b"", WORKER, READY, b"reverse"])
    next_beat, beats, requests = time.monotonic() + beat, 0, 0
    while not ended.is_set():
        if sock.poll(beat * 500):
            empty, header, command, *rest = sock.recv_multipart()
            expect([empty, header], [b"", WORKER])
            if command == REQUEST:
                address, empty, *body = rest
                expect(empty, b"")
                requests += 1
                sock.send_multipart([b"", WORKER, REPLY, address, b"", body[0][::-1], *body[1:]])
            else:
                expect([command, rest], [HEARTBEAT, []])
                beats += 1
        if time.monotonic() >= next_beat:
            sock.send_multipart([b"", WORKER, HEARTBEAT])
            next_beat = time.monotonic() + beat
    sock.send_multipart([b"", WORKER, DISCONNECT])
    if beats < 3 or requests < 3:
        raise SystemExit(f"{beats} heartbeats and {requests} requests came")


def frozen(context, endpoint):
    sock = connect(context, zmq.DEALER, endpoint)
    sock.send_multipart([b"", WORKER, READY, b"reverse"])
    while sock.recv_multipart()[2] != REQUEST:
        sock.send_multipart([b"", WORKER, HEARTBEAT])
    print("took it", flush=True)
    sys.stdin.read()  # the connection stays


def misfit(context, endpoint):
    told = [b"", WORKER, DISCONNECT]
    for wrong in (
        [[WORKER, HEARTBEAT]],                                                    # not registered
        [[WORKER, READY, b"mmi.service"]],                                        # a reserved name
        [[WORKER, READY]],                                                        # no name
        [[WORKER, READY, b"s"], [WORKER, READY, b"s"]],                           # registered twice
        [[WORKER, READY, b"s"], [WORKER, REPLY, b"someone", b"", b"forged"]],     # nobody asked
        [[WORKER, READY, b"s"], [WORKER, b"\x09"]],                               # no command
        [[WORKER, READY, b"s"], [WORKER, REQUEST, b"a", b"", b"x"]],              # the broker's command
    ):
        sock = connect(context, zmq.DEALER, endpoint)
        for message in wrong:
            sock.send_multipart([b"", *message])
        expect(sock.recv_multipart(), told)
        sock.send_multipart([b"", WORKER, HEARTBEAT])  # told once is enough
        sock.rcvtimeo = 50
        try:
            raise SystemExit(f"after DISCONNECT came {sock.recv_multipart()!r}")
        except zmq.Again:
            sock.close(linger=0)
    sock = connect(context, zmq.DEALER, endpoint)
    for nonsense in ([b""], [b"x"], [b"", b""], [b"", CLIENT], [b"", CLIENT, b"echo"], [b"", CLIENT, b"", b"x"], [b"", b"MDPC99", b"echo", b"x"]):
        sock.send_multipart(nonsense)
    sock.send_multipart([b"", CLIENT, b"echo", b"after nonsense"])
    expect(sock.recv_multipart(), [b"", CLIENT, b"echo", b"after nonsense"])


def main():
    context = zmq.Context()
    role, endpoint = sys.argv[1:3]
    if role == "client":
        client(context, endpoint)
    elif role == "worker":
        worker(context, endpoint, float(sys.argv[3]))
    elif role == "frozen":
        frozen(context, endpoint)
    else:
        misfit(context, endpoint)
    print("ok")
    context.destroy(linger=500)


if __name__ == "__main__":
    main()
