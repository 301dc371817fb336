"""probe.py HOST... PORT...: what a connection to each port of each host meets, from where this runs."""

import concurrent.futures
import socket
import sys

hosts = [a for a in sys.argv[1:] if "." in a]
ports = [int(a) for a in sys.argv[1:] if "." not in a]


def meet(at):
    try:
        socket.create_connection(at, timeout=1).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "filtered"


with concurrent.futures.ThreadPoolExecutor(64) as pool:
    pairs = [(h, p) for h in hosts for p in ports]
    for (h, p), got in zip(pairs, pool.map(meet, pairs)):
        print(h, p, got)
