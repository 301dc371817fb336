"""load.py URL TOKEN NAME RATE FILE: posts events, each until it is accepted, until FILE.stop is there; the number accepted goes to FILE."""

import http.client
import json
import os
import sys
import time
import urllib.parse

url, token, name, rate, out = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5]
at = urllib.parse.urlsplit(url).netloc
connection, accepted, refused, began = None, 0, 0, time.monotonic()
while not os.path.exists(out + ".stop"):
    body = json.dumps({"id": f"{name}-{accepted}", "type": f"notification.{name}", "userId": f"user-{accepted % 20}", "data": {"n": accepted}})
    try:
        connection = connection or http.client.HTTPConnection(at, timeout=3)
        connection.request("POST", "/api/events", body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        ok = answer.status in (200, 201, 202)
    except OSError:
        connection, ok = None, False
    except http.client.HTTPException:
        connection, ok = None, False
    if not ok:
        refused += 1
        time.sleep(0.2)
        continue
    accepted += 1
    time.sleep(max(0, began + (accepted + refused) / rate - time.monotonic()) if accepted % 10 == 0 else 0)
with open(out, "w") as f:
    print(accepted, refused, file=f)
