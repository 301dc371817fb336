"""From the deployed stack: each machine's user data, and its firewall as the security groups say. The
stand-in does not keep which groups a machine carries; that comes from the template, the rules from the stack."""

import pathlib
import sys

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "test" / "deploy"))

import boto3  # noqa: E402
import cfnlint.decode.cfn_yaml as cfn_yaml  # noqa: E402

import rules  # noqa: E402
import stack  # noqa: E402

out, balancer, package, digest = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
path = root / "deploy" / "cloudformation" / "template.yaml"
template = cfn_yaml.load(str(path))
physical, _ = stack.create(path.read_text(), PackageUrl=package, PackageSha256=digest, CloudWatchAgentUrl="")
found = stack.machines(physical, rules.ADDRESSES)

members = {}
for name, groups in rules.CARRY.items():
    if name in found or name == "LoadBalancer":
        p = template["Resources"][name]["Properties"]
        for g in p.get("SecurityGroupIds", p.get("SecurityGroups")):
            members.setdefault(rules.target(g), set()).add(balancer if name == "LoadBalancer" else found[name][0])
open_to = stack.ingress(physical, sorted({g for g, _ in rules.PORTS}))
for name, (address, data, machine) in found.items():
    role = next(t["Value"] for t in machine["Tags"] if t["Key"] == "Name")
    folder = out / role
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "user-data").write_text(data)
    (folder / "instance-id").write_text(physical[name])
    lines = ["*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]", "-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
    for g in sorted(x for x in members if address in members[x]):
        for source, low, high in sorted(open_to[g]):
            for host in [source] if "/" in source else sorted(members.get(source, [])):
                lines.append(f"-A INPUT -s {host} -p tcp --dport {low}:{high} -j ACCEPT")
    (folder / "rules").write_text("\n".join([*lines, "COMMIT", ""]))
    print(f"{role:11} {address}: {len(data)} bytes of user data, {len(lines) - 6} rules of its groups")
