"""What has to hold for deploy/cloudformation/template.yaml and cfn-lint does not see. Each rule
takes the parsed template and gives the list of what breaks it."""

import ipaddress
import json
import re

# The port map: who may reach which ports of whom. The source is the set of machines that carry the
# named security group, or the world.
PORTS = {
    ("LoadBalancerGroup", "world"): {(443, 443)},
    ("InternalGroup", "InternalGroup"): {(5555, 5565), (6379, 6379), (9200, 9200), (9300, 9300)},
    ("ApiGroup", "LoadBalancerGroup"): {(3000, 3000)},
    ("BridgeGroup", "LoadBalancerGroup"): {(3001, 3001)},
}
CARRY = {  # which groups each machine has
    "ApiInstance": {"InternalGroup", "ApiGroup"},
    "ProcessingInstance": {"InternalGroup"},
    "DeliveryInstance": {"InternalGroup", "BridgeGroup"},
    "WorkerFleetTemplate": {"InternalGroup"},
    "BridgeFleetTemplate": {"InternalGroup", "BridgeGroup"},
    "LoadBalancer": {"LoadBalancerGroup"},
}
ADDRESSES = {"ApiInstance": "10.0.1.10", "ProcessingInstance": "10.0.1.20", "DeliveryInstance": "10.0.1.30"}
MAX_USER_DATA = 16 * 1024
MAX_BODY = 51_200  # of a template that is given in the call; larger ones have to go to S3 first


def of_type(t, kind):
    return {n: r for n, r in t["Resources"].items() if r["Type"] == kind}


def target(v):
    """The logical name behind a Ref or GetAtt."""
    if isinstance(v, dict):
        if "Ref" in v:
            return v["Ref"]
        if "Fn::GetAtt" in v:
            return v["Fn::GetAtt"][0] if isinstance(v["Fn::GetAtt"], list) else v["Fn::GetAtt"].split(".")[0]
    return v


def ingress(t):
    """Every rule as (group, source, protocol, from, to)."""
    for name, r in of_type(t, "AWS::EC2::SecurityGroup").items():
        for rule in r["Properties"].get("SecurityGroupIngress", []):
            yield (name, *_rule(rule))
    for r in of_type(t, "AWS::EC2::SecurityGroupIngress").values():
        p = r["Properties"]
        yield (target(p.get("GroupId")), *_rule(p))


def _rule(p):
    if "SourceSecurityGroupId" in p:
        source = target(p["SourceSecurityGroupId"])
    else:
        source = p.get("CidrIp") or p.get("CidrIpv6") or json.dumps(p)
        source = "world" if source in ("0.0.0.0/0", "::/0") else source
    return source, str(p["IpProtocol"]), int(p.get("FromPort", -1)), int(p.get("ToPort", -1))


def ports(t):
    """Every port of the port map is open exactly where the map says."""
    found = {}
    for group, source, protocol, low, high in ingress(t):
        if protocol != "tcp":
            yield f"{group} lets {protocol} in from {source}"
        if low > high:
            yield f"{group}: the range {low}-{high} is reversed"
        found.setdefault((group, source), set()).add((low, high))
    for pair in found.keys() | PORTS.keys():
        if found.get(pair, set()) != PORTS.get(pair, set()):
            yield f"{pair[0]} from {pair[1]}: {sorted(found.get(pair, set()))}, the port map says {sorted(PORTS.get(pair, set()))}"
    if any(low <= 22 <= high for *_, low, high in ingress(t)):
        yield "port 22 is open"
    if any(s == "world" and (low, high) != (443, 443) for _, s, _, low, high in ingress(t)):
        yield "the world may reach something else than 443"


def groups(t):
    """Each machine carries the groups that the map means by it."""
    for name, want in CARRY.items():
        p = t["Resources"][name]["Properties"]
        p = p.get("LaunchTemplateData", p)
        have = {target(g) for g in p.get("SecurityGroupIds", p.get("SecurityGroups", []))}
        if have != want:
            yield f"{name} carries {sorted(have)}, not {sorted(want)}"
    for name, r in of_type(t, "AWS::EC2::Instance").items():
        if name not in CARRY:
            yield f"{name} is not in the map"
        if "KeyName" in r["Properties"]:
            yield f"{name} has a key for SSH"


def addresses(t):
    """The fixed addresses: those of the article, unique, inside the subnet of the machine, not AWS's own."""
    seen = {}
    for name, r in of_type(t, "AWS::EC2::Instance").items():
        p = r["Properties"]
        at = p.get("PrivateIpAddress")
        if at != ADDRESSES.get(name):
            yield f"{name} is at {at}, not {ADDRESSES.get(name)}"
        if at in seen:
            yield f"{name} has the address of {seen[at]}"
        seen[at] = name
        net = ipaddress.ip_network(t["Resources"][target(p["SubnetId"])]["Properties"]["CidrBlock"])
        if at and ipaddress.ip_address(at) not in list(net)[4:-1]:
            yield f"{name}: {at} is no address for a machine of {net}"
    nets = [ipaddress.ip_network(r["Properties"]["CidrBlock"]) for r in of_type(t, "AWS::EC2::Subnet").values()]
    vpc = ipaddress.ip_network(next(iter(of_type(t, "AWS::EC2::VPC").values()))["Properties"]["CidrBlock"])
    for i, a in enumerate(nets):
        if not a.subnet_of(vpc) or any(a.overlaps(b) for b in nets[:i]):
            yield f"the subnet {a} is not in {vpc}, or overlaps another"


SECRET = re.compile(r"secret|password|passwd|token|private.?key|curve", re.I)


def secrets(t):
    """No secret in the template: no default of one, none in plain text, and machines read only their own."""
    for name, p in t["Parameters"].items():
        if SECRET.search(name) and name != "SecretPrefix":
            yield f"the parameter {name} looks like a secret; secrets come from the parameter store"
    for name, data in user_data(t):
        for m in re.finditer(r"(?i)(JWT_SECRET|PASSWORD|CURVE_KEY)\s*=\s*['\"]?[^\s$'\"]", data):
            yield f"{name}: the user data holds {m.group(0)}"
    for name, r in of_type(t, "AWS::IAM::Role").items():
        for policy in r["Properties"].get("Policies", []):
            for s in policy["PolicyDocument"]["Statement"]:
                what = json.dumps(s["Resource"])
                if "ssm:GetParameter" in s["Action"] and ("*\"" in what or "/*" in what.split("parameter${SecretPrefix}")[-1]):
                    yield f"{name} may read more secrets than its own: {what}"
                if any(a == "*" or a.endswith(":*") for a in s["Action"]):
                    yield f"{name} may do {s['Action']}"


def user_data(t):
    for name, r in t["Resources"].items():
        p = r.get("Properties", {})
        p = p.get("LaunchTemplateData", p)
        if "UserData" in p:
            sub = p["UserData"]["Fn::Base64"]["Fn::Sub"]
            yield name, sub[0] if isinstance(sub, list) else sub


def starts(t):
    """What every machine needs at its start."""
    for name, data in user_data(t):
        if len(data.encode()) > MAX_USER_DATA - 2048:  # substitutions make it longer
            yield f"{name}: {len(data)} bytes of user data"
        for want in ("#!/bin/bash", "set -euo pipefail", "trap 'told $?' EXIT", "sha256sum -c", "/usr/lib/eventspine/instance/setup"):
            if want not in data:
                yield f"{name}: the user data lacks {want}"
        resource = name.replace("FleetTemplate", "FleetMachines")
        if f"--logical-resource-id {resource} " not in data:
            yield f"{name}: the user data signals another resource"
        if "ResourceSignal" not in t["Resources"][resource].get("CreationPolicy", {}):
            yield f"{resource} waits for no signal"
        depends = t["Resources"][resource].get("DependsOn", [])
        if "DefaultRoute" not in depends or "SubnetRoutes" not in depends:
            yield f"{resource} may start before its way out is there"
    for name, r in of_type(t, "AWS::EC2::Route").items():
        if not any(t["Resources"][d]["Type"] == "AWS::EC2::VPCGatewayAttachment" for d in _list(r.get("DependsOn"))):
            yield f"{name} does not depend on the attachment of its gateway"
    for r in of_type(t, "AWS::EC2::VolumeAttachment").values():
        if target(r["Properties"]["InstanceId"]) in ADDRESSES:
            yield "a VolumeAttachment waits for the machine, which waits for its volume"
    for name, r in of_type(t, "AWS::EC2::Instance").items():
        if not r["Properties"].get("Volumes"):
            yield f"{name} has no disk of its own"
        if r["Properties"].get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name} hands out its role without a token"
    for name, r in of_type(t, "AWS::EC2::Volume").items():
        p = r["Properties"]
        if not p.get("Encrypted") or r.get("DeletionPolicy") != "Snapshot" or "eventspine-snapshots" not in [x["Key"] for x in p["Tags"]]:
            yield f"{name} is not encrypted, not kept, or in no snapshot"


def _list(v):
    return v if isinstance(v, list) else [v] if v else []


def front(t):
    """TLS only, and a browser stays with its bridge."""
    listeners = of_type(t, "AWS::ElasticLoadBalancingV2::Listener")
    for name, r in listeners.items():
        p = r["Properties"]
        if (p["Port"], p["Protocol"]) != (443, "HTTPS") or not p.get("Certificates") or "TLS13" not in p.get("SslPolicy", ""):
            yield f"{name} is not HTTPS on 443"
    for name, r in of_type(t, "AWS::ElasticLoadBalancingV2::TargetGroup").items():
        attributes = {a["Key"]: a["Value"] for a in r["Properties"].get("TargetGroupAttributes", [])}
        if attributes.get("stickiness.enabled") != "true":
            yield f"{name} is not sticky"
    rules = of_type(t, "AWS::ElasticLoadBalancingV2::ListenerRule").values()
    if not any(target(a["TargetGroupArn"]) == "BridgeTargets" for r in rules for a in r["Properties"]["Actions"]):
        yield "nothing leads to the bridge"


def watched(t):
    """Every machine is recovered and rebooted, every program is missed when it is away."""
    alarms = of_type(t, "AWS::CloudWatch::Alarm")
    for i in ADDRESSES:
        for metric, action in (("StatusCheckFailed_System", "ec2:recover"), ("StatusCheckFailed_Instance", "ec2:reboot")):
            if not any(a["Properties"]["MetricName"] == metric and target(a["Properties"]["Dimensions"][0]["Value"]) == i and action in json.dumps(a["Properties"]["AlarmActions"]) for a in alarms.values()):
                yield f"{i}: no alarm does {action}"
    looked = {d["Value"] for a in alarms.values() for d in a["Properties"]["Dimensions"] if d["Name"] == "pattern"}
    want = {f"/usr/lib/eventspine/{p}" for p in ("api", "worker", "proxy", "indexer", "bridge")} | {"redis-server", "org.elasticsearch"}
    if looked != want:
        yield f"the alarms look for {sorted(looked)}"


RULES = [ports, groups, addresses, secrets, starts, front, watched]


def broken(t):
    """Everything that breaks a rule."""
    return [f"{rule.__name__}: {what}" for rule in RULES for what in rule(t)]


# Ways to break the template, each with a word that the rules have to say about it. A rule that finds
# nothing here would find nothing in earnest.
def _set(path, value):
    def change(t):
        at = t["Resources"]
        for p in path[:-1]:
            at = at[p]
        at[path[-1]] = value
    return change


def _drop(path):
    def change(t):
        at = t["Resources"]
        for p in path[:-1]:
            at = at[p]
        del at[path[-1]]
    return change


def _add_rule(group, **rule):
    def change(t):
        t["Resources"][group]["Properties"].setdefault("SecurityGroupIngress", []).append({"IpProtocol": "tcp", **rule})
    return change


def _replace_user_data(old, new):
    def change(t):
        sub = t["Resources"]["ApiInstance"]["Properties"]["UserData"]["Fn::Base64"]["Fn::Sub"]
        assert old in sub[0]
        sub[0] = sub[0].replace(old, new)
    return change


def _parameter(name, **p):
    def change(t):
        t["Parameters"][name] = {"Type": "String", **p}
    return change


P = "Properties"
MISTAKES = {
    "two machines at one address": (_set(("DeliveryInstance", P, "PrivateIpAddress"), "10.0.1.20"), "has the address of"),
    "an address outside the subnet": (_set(("ApiInstance", P, "PrivateIpAddress"), "10.0.2.10"), "no address for a machine"),
    "an address that AWS keeps": (_set(("ApiInstance", P, "PrivateIpAddress"), "10.0.1.3"), "no address for a machine"),
    "another address": (_set(("ApiInstance", P, "PrivateIpAddress"), "10.0.1.11"), "not 10.0.1.10"),
    "no fixed address": (_drop(("ApiInstance", P, "PrivateIpAddress")), "is at None"),
    "SSH from the world": (_add_rule("ApiGroup", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"), "port 22"),
    "SSH in a range": (_add_rule("InternalGroup", FromPort=20, ToPort=25, SourceSecurityGroupId={"Ref": "InternalGroup"}), "port 22"),
    "Redis for the world": (_add_rule("InternalGroup", FromPort=6379, ToPort=6379, CidrIp="0.0.0.0/0"), "the world"),
    "IPv6 forgotten": (_add_rule("ApiGroup", FromPort=3000, ToPort=3000, CidrIpv6="::/0"), "the world"),
    "the API for the network": (_add_rule("ApiGroup", FromPort=3000, ToPort=3000, CidrIp="10.0.0.0/16"), "10.0.0.0/16"),
    "everything among friends": (_set(("InternalZmq", P, "IpProtocol"), "-1"), "-1"),
    "a reversed range": (_set(("InternalZmq", P, "FromPort"), 5566), "reversed"),
    "a port too few": (_set(("InternalZmq", P, "ToPort"), 5564), "port map"),
    "no Redis": (_drop(("InternalRedis",)), "port map"),
    "the bridge in the wrong group": (_set(("DeliveryInstance", P, "SecurityGroupIds"), [{"Ref": "InternalGroup"}]), "DeliveryInstance carries"),
    "a password with a default": (_parameter("RedisPassword", Default="redis"), "RedisPassword"),
    "a secret in the user data": (_replace_user_data("export EVENTSPINE_ROLE=api", "export JWT_SECRET=0123456789abcdef"), "JWT_SECRET"),
    "all secrets for one machine": (_set(("ApiRole", P, "Policies", 0, "PolicyDocument", "Statement", 0, "Resource"), [{"Fn::Sub": "arn:aws:ssm:*:*:parameter${SecretPrefix}/*"}]), "more secrets"),
    "a route before its gateway": (_drop(("DefaultRoute", "DependsOn")), "attachment"),
    "a machine before its route": (_set(("ApiInstance", "DependsOn"), []), "way out"),
    "a signal for another": (_replace_user_data("--logical-resource-id ApiInstance", "--logical-resource-id DeliveryInstance"), "signals another"),
    "no check of the package": (_replace_user_data("sha256sum -c", "true"), "sha256sum"),
    "nobody waits": (_drop(("ApiInstance", "CreationPolicy")), "waits for no signal"),
    "no disk": (_drop(("ApiInstance", P, "Volumes")), "no disk"),
    "a disk that waits for itself": (_set(("X",), {"Type": "AWS::EC2::VolumeAttachment", P: {"InstanceId": {"Ref": "ApiInstance"}, "VolumeId": "v"}}), "VolumeAttachment"),
    "a disk in no snapshot": (_set(("WalVolume", P, "Tags"), []), "in no snapshot"),
    "metadata without a token": (_drop(("ApiInstance", P, "MetadataOptions")), "token"),
    "plain HTTP": (_set(("Https", P, "Protocol"), "HTTP"), "not HTTPS"),
    "old TLS": (_set(("Https", P, "SslPolicy"), "ELBSecurityPolicy-2016-08"), "not HTTPS"),
    "bridges by turns": (_drop(("BridgeTargets", P, "TargetGroupAttributes")), "not sticky"),
    "no way to the bridge": (_drop(("SocketRule",)), "nothing leads"),
    "no recovery": (_drop(("ApiRecover",)), "ec2:recover"),
    "nobody misses the proxy": (_drop(("ProcessingProxyAway",)), "look for"),
}
