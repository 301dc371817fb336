"""What has to hold for the units together, and no verifier looks at."""

import pathlib
import re
import sys

folder, instance = (pathlib.Path(a) for a in sys.argv[1:3])
units = {p.name: p.read_text() for p in sorted(folder.glob("*.service"))}
wrong = []

MACHINES = {  # what runs on each machine of the deployment, a second worker included
    "api": ["eventspine-api.service"],
    "processing": ["eventspine-redis.service", "eventspine-worker@.service", "eventspine-worker@.service", "eventspine-proxy.service"],
    "delivery": ["elasticsearch", "eventspine-indexer.service", "eventspine-bridge.service"],
}
MEMORY = 4096  # MiB of a t2.medium
SYSTEM = 256  # MiB that the rest of the machine gets at least


def mib(text):
    m = re.search(r"^MemoryMax=(\d+)([MG])$", text, re.M)
    return int(m.group(1)) * (1024 if m.group(2) == "G" else 1)


def values(text, name):
    return re.findall(rf"^{name}=(.*)$", text, re.M)


texts = dict(units, elasticsearch=(instance / "elasticsearch.conf").read_text())
for machine, names in MACHINES.items():
    total = sum(mib(texts[n]) for n in names)
    if total > MEMORY - SYSTEM:
        wrong.append(f"{machine}: MemoryMax adds up to {total} MiB of {MEMORY}")

for name, text in units.items():
    want = {"Restart": "on-failure", "RestartSec": "3s", "Type": "notify"}
    if "redis" not in name:
        want["WatchdogSec"] = "30s"
        limit = re.search(r"^Environment=GOMEMLIMIT=(\d+)MiB$", text, re.M)
        if not limit or int(limit.group(1)) > 0.9 * mib(text):
            wrong.append(f"{name}: GOMEMLIMIT is not below MemoryMax")
    for key, value in want.items():
        if values(text, key) != [value]:
            wrong.append(f"{name}: {key} is {values(text, key)}, not {value}")
    for key in ("LoadCredential", "LimitNOFILE", "OOMScoreAdjust", "MemoryMax", "TasksMax", "ProtectSystem", "SystemCallFilter", "WantedBy"):
        if not values(text, key):
            wrong.append(f"{name}: no {key}")
    for c in values(text, "LoadCredential"):
        ident, path = c.split(":", 1)
        if not path.startswith("/etc/eventspine/secrets/"):
            wrong.append(f"{name}: the secret {ident} comes from {path}")
        if f"%d/{ident}" not in text:
            wrong.append(f"{name}: nobody reads the secret {ident}")
        if not any(s.startswith(ident + ":") for s in values(text, "SetCredential")):
            wrong.append(f"{name}: without the file of {ident} the journal would not say which is missing")
    if not re.search(r"^(DynamicUser=yes|User=(?!root).+)$", text, re.M):
        wrong.append(f"{name}: runs as root")
    if re.search(r"^(Requires|BindsTo)=", text, re.M):
        wrong.append(f"{name}: would be stopped with another")


def block(text):
    return text.split("# What it may not do.")[1].split("UMask=")[0]


if len({block(t) for t in units.values()}) != 1:
    wrong.append("the block of what a unit may not do is not the same in all of them")
for w in wrong:
    print("FAIL", w)
sys.exit(1 if wrong else 0)
