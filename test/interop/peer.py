"""One libzmq socket, driven by JSON lines on standard input; each gets one JSON line back.

usage: peer.py TYPE bind|connect ENDPOINT [SETTINGS]

SETTINGS is a JSON object of socket options by pyzmq's names, such as {"heartbeat_ivl": 50};
a value {"base64": "..."} is bytes.
"""
import base64
import json
import sys

import zmq


def frames(message):
    return [base64.b64encode(f).decode() for f in message]


def carry_out(sock, order):
    what = order["do"]
    if what == "send":
        sock.send_multipart([base64.b64decode(f) for f in order["frames"]])
    elif what == "recv":
        sock.rcvtimeo = order["timeout"]
        try:
            return {"frames": frames(sock.recv_multipart())}
        except zmq.Again:
            return {"again": True}
    elif what == "send_many":
        for i in range(order["n"]):
            sock.send(b"%d " % i + b"x" * order["size"])
    elif what == "recv_many":  # numbers must come in order; answers how many did
        sock.rcvtimeo = order["timeout"]
        for i in range(order.get("n", 0)):
            try:
                if not sock.recv().startswith(b"%d " % i):
                    return {"n": i}
            except zmq.Again:
                return {"n": i}
        return {"n": order.get("n", 0)}
    elif what == "subscribe":
        sock.setsockopt(zmq.SUBSCRIBE, base64.b64decode(order["topic"]))
    elif what == "unsubscribe":
        sock.setsockopt(zmq.UNSUBSCRIBE, base64.b64decode(order["topic"]))
    else:
        raise ValueError(what)
    return {}


def orders(sock):
    """Waits inside libzmq, which attends to new connections only inside some of its calls."""
    poller = zmq.Poller()
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    poller.register(sock, zmq.POLLERR)
    while True:
        poller.poll()
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def main():
    kind, how, endpoint = sys.argv[1:4]
    context = zmq.Context()
    sock = context.socket(getattr(zmq, kind))
    sock.linger = 2000
    sock.sndtimeo = 10000
    for name, value in json.loads(sys.argv[4] if len(sys.argv) > 4 else "{}").items():
        if isinstance(value, dict):
            value = base64.b64decode(value["base64"])
        setattr(sock, name, value)
    drops = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    getattr(sock, how)(endpoint)
    print(json.dumps({"endpoint": sock.last_endpoint.decode()}), flush=True)
    for line in orders(sock):
        answer = carry_out(sock, json.loads(line))
        answer["dropped"] = bool(drops.poll(0))  # did a connection of ours end?
        print(json.dumps(answer), flush=True)
    sock.disable_monitor()
    drops.close(0)
    sock.close()
    context.term()


main()
