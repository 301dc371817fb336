"""make deploy-check: the templates by cfn-lint, by rules.py, and against a stand-in for AWS."""

import copy
import logging
import os
import pathlib
import subprocess
import sys
import warnings

root = pathlib.Path(__file__).resolve().parents[2]
folder = root / "deploy" / "cloudformation"
for k, v in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
    os.environ[k] = v

import cfnlint.decode.cfn_yaml as cfn_yaml  # noqa: E402
from moto import mock_aws  # noqa: E402

import rules  # noqa: E402
import stack  # noqa: E402

# What the stand-in does not know (alarms, snapshots, mail) is checked by the rules only.
warnings.filterwarnings("ignore", category=UserWarning)
logging.disable(logging.WARNING)

wrong = []


def check(what, ok, detail=""):
    if not ok:
        wrong.append(f"{what}: {detail}" if detail else what)


def plain(v):
    """The parsed template without the parser's own types, so that it can be copied and changed."""
    if isinstance(v, dict):
        return {str(k): plain(x) for k, x in v.items()}
    if isinstance(v, list):
        return [plain(x) for x in v]
    return str(v) if isinstance(v, str) else v


def lint():
    for path in sorted(folder.glob("*.yaml")):
        done = subprocess.run([pathlib.Path(sys.executable).parent / "cfn-lint", path], capture_output=True, text=True, check=False)
        check(f"cfn-lint {path.name}", done.returncode == 0 and not done.stdout, done.stdout)


def own_rules():
    template = plain(cfn_yaml.load(str(folder / "template.yaml")))
    for what in rules.broken(template):
        check("template", False, what)
    for name, (change, word) in rules.MISTAKES.items():
        t = copy.deepcopy(template)
        change(t)
        said = rules.broken(t)
        check(f"the rules do not find {name}", any(word in s for s in said), said)
    return template


@mock_aws
def created(template, body):
    physical, state = stack.create(body)
    for name, (address, data, machine) in stack.machines(physical, rules.ADDRESSES).items():
        check(f"{name} is at {rules.ADDRESSES[name]}", address == rules.ADDRESSES[name], address)
        check(f"{name}: user data of at most 16 KiB", len(data.encode()) <= rules.MAX_USER_DATA, len(data))
        check(f"{name}: all is filled in", "${" not in data.replace("${P", "$P"), data)
        check(f"{name}: it is bash", subprocess.run(["bash", "-n"], input=data.encode(), capture_output=True, check=False).returncode == 0)
        check(f"{name}: package and its sum", "https://example.org/eventspine_1.0.0_amd64.deb" in data and "0" * 64 in data)
        check(f"{name}: its type", machine["InstanceType"] == "t2.medium", machine["InstanceType"])
        check(f"{name}: no key for SSH", not machine.get("KeyName"), machine.get("KeyName"))
    want = {}
    for (group, source), ranges in rules.PORTS.items():
        want.setdefault(group, set()).update(("0.0.0.0/0" if source == "world" else source, *r) for r in ranges)
    found = stack.ingress(physical, want)
    check("the groups read back are those of the port map", found == want, stack.dump(found))
    outputs = {o["OutputKey"]: o["OutputValue"] for o in state["Outputs"]}
    check("outputs", outputs.get("ApiAddress") == "10.0.1.10" and outputs.get("DeliveryAddress") == "10.0.1.30" and outputs.get("LoadBalancerName"), outputs)
    check("no fleet unless asked for", "WorkerFleetMachines" not in physical and "BridgeFleetMachines" not in physical)


@mock_aws
def created_larger(body):
    physical, _ = stack.create(body, WorkerGroupSize=1, BridgeGroupSize=2, InstanceType="t3.medium", AlarmEmail="ops@example.org")
    import boto3

    groups = {g["AutoScalingGroupName"]: g for g in boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]}
    for name, size in (("WorkerFleetMachines", 1), ("BridgeFleetMachines", 2)):
        g = groups.get(physical.get(name), {})
        check(f"{name} has {size}", (g.get("MinSize"), g.get("MaxSize")) == (size, size), g)
    for name, (_, data, machine) in stack.machines(physical, rules.ADDRESSES).items():
        check(f"{name} knows both workers", "tcp://10.0.1.20:5557,tcp://10.0.1.21:5557" in data, data)
        check(f"{name}: its type", machine["InstanceType"] == "t3.medium")


def main():
    body = (folder / "template.yaml").read_text()
    check("the template fits into the call that creates it", len(body.encode()) <= rules.MAX_BODY, len(body))
    lint()
    template = own_rules()
    created(template, body)
    created_larger(body)
    for w in wrong:
        print("FAIL", w)
    print(f"templates: {len(rules.RULES)} rules, {len(rules.MISTAKES)} mistakes they find, two stacks created and read back; {len(wrong)} failures")
    sys.exit(1 if wrong else 0)


main()
