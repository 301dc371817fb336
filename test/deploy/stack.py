"""The template in a stand-in for AWS (moto): created, read back, and compared with what it says."""

import base64
import json

import boto3


def parameters(**more):
    given = {
        "PackageUrl": "https://example.org/eventspine_1.0.0_amd64.deb",
        "PackageSha256": "0" * 64,
        "CertificateArn": boto3.client("acm").request_certificate(DomainName="events.example.org")["CertificateArn"],
        "ImageId": "ami-03cf127a",
        **more,
    }
    return [{"ParameterKey": k, "ParameterValue": str(v)} for k, v in given.items()]


def create(body, name="eventspine", **more):
    """Creates the stack and gives {logical name: physical id}."""
    cfn = boto3.client("cloudformation")
    cfn.validate_template(TemplateBody=body)
    cfn.create_stack(StackName=name, TemplateBody=body, Parameters=parameters(**more), Capabilities=["CAPABILITY_IAM"])
    state = cfn.describe_stacks(StackName=name)["Stacks"][0]
    assert state["StackStatus"] == "CREATE_COMPLETE", state
    found = cfn.describe_stack_resources(StackName=name)["StackResources"]
    return {r["LogicalResourceId"]: r.get("PhysicalResourceId") for r in found if r.get("LogicalResourceId")}, state


def machines(physical, names):
    """{logical name: (address, user data)} as the machines would get them."""
    ec2 = boto3.client("ec2")
    out = {}
    for n in names:
        i = ec2.describe_instances(InstanceIds=[physical[n]])["Reservations"][0]["Instances"][0]
        data = ec2.describe_instance_attribute(InstanceId=physical[n], Attribute="userData")["UserData"]["Value"]
        out[n] = (i["PrivateIpAddress"], base64.b64decode(data).decode(), i)
    return out


def ingress(physical, names):
    """{group: {(source, from, to)}} with logical names for the sources."""
    back = {v: k for k, v in physical.items() if v}
    found = {}
    for g in boto3.client("ec2").describe_security_groups(GroupIds=[physical[n] for n in names])["SecurityGroups"]:
        rules = found.setdefault(back[g["GroupId"]], set())
        for p in g["IpPermissions"]:
            for r in p.get("IpRanges", []):
                rules.add((r["CidrIp"], p["FromPort"], p["ToPort"]))
            for pair in p.get("UserIdGroupPairs", []):
                rules.add((back[pair["GroupId"]], p["FromPort"], p["ToPort"]))
    return found


def dump(value):
    return json.dumps(value, indent=1, default=str)
