"""AWS's side of the benchmark: a fleet's XML, made once, answered from memory in AWS's pages."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs

# role: (auto-scaling groups, instances in each); the others are plain instances
SCALED = {"superset_web": (4, 97), "celery_worker": (6, 98), "scheduler": (2, 2)}
PLAIN = {"haproxy": 8, "redis": 6, "postgres": 6}
GROUPS_PER_PAGE, INSTANCES_PER_PAGE = 100, 1000
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")


class Machine(NamedTuple):
    """An instance as AWS knows it."""

    id: str
    role: str
    group: str | None
    address: str
    zone: str


def fleet(per_role: int = 1) -> list[Machine]:
    """Return per_role thousands of machines."""
    homes = [
        (role, f"superset-{role}-{number}")
        for role, (groups, size) in SCALED.items()
        for number in range(groups * per_role)
        for _ in range(size)
    ]
    homes += [(role, "") for role, size in PLAIN.items() for _ in range(size * per_role)]
    return [
        Machine(
            f"i-0{number * 2654435761 % 16**16:016x}",
            role,
            group or None,
            f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
            ZONES[number % 3],
        )
        for number, (role, group) in enumerate(homes)
    ]


def instance_xml(one: Machine) -> str:
    """Return an instance as DescribeInstances says it: one reservation each."""
    short, tail = one.id[2:], one.id[-12:]
    tags = {
        "Name": f"superset {one.role}",
        "fleet": "superset",
        "role": one.role,
        "owner": "data-platform",
        "cost-center": "4711",
        "backup": "none",
        "aws:ec2launchtemplate:id": "lt-0123456789abcdef0",
        "aws:ec2launchtemplate:version": "7",
    }
    if one.group:
        tags["aws:autoscaling:groupName"] = one.group
    tag_set = "".join(
        f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items()
    )
    security = "<item><groupId>sg-0123456789abcdef0</groupId><groupName>superset</groupName></item>"
    name = f"ip-{one.address.replace('.', '-')}.ec2.internal"
    return f"""<item><reservationId>r-{short}</reservationId><ownerId>123456789012</ownerId>
<groupSet/><instancesSet><item><instanceId>{one.id}</instanceId>
<imageId>ami-0123456789abcdef0</imageId>
<instanceState><code>16</code><name>running</name></instanceState>
<privateDnsName>{name}</privateDnsName><dnsName/><reason/><keyName>superset</keyName>
<amiLaunchIndex>0</amiLaunchIndex><productCodes/><instanceType>m6i.xlarge</instanceType>
<launchTime>2026-11-20T08:15:30.000Z</launchTime>
<placement><availabilityZone>{one.zone}</availabilityZone><groupName/><tenancy>default</tenancy>
</placement><monitoring><state>enabled</state></monitoring>
<subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId>
<privateIpAddress>{one.address}</privateIpAddress><sourceDestCheck>true</sourceDestCheck>
<groupSet>{security}</groupSet><architecture>x86_64</architecture>
<rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName>
<blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-{short}</volumeId>
<status>attached</status><attachTime>2026-11-20T08:15:31.000Z</attachTime>
<deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>
<virtualizationType>hvm</virtualizationType><clientToken>{short}</clientToken>
<tagSet>{tag_set}</tagSet><hypervisor>xen</hypervisor><networkInterfaceSet><item>
<networkInterfaceId>eni-{short}</networkInterfaceId><subnetId>subnet-0123456789abcdef0</subnetId>
<vpcId>vpc-0123456789abcdef0</vpcId><description/><ownerId>123456789012</ownerId>
<status>in-use</status><macAddress>0a:{":".join(tail[n : n + 2] for n in range(0, 10, 2))}
</macAddress><privateIpAddress>{one.address}</privateIpAddress><privateDnsName>{name}
</privateDnsName><sourceDestCheck>true</sourceDestCheck><groupSet>{security}</groupSet>
<attachment><attachmentId>eni-attach-{short}</attachmentId><deviceIndex>0</deviceIndex>
<status>attached</status><attachTime>2026-11-20T08:15:30.000Z</attachTime>
<deleteOnTermination>true</deleteOnTermination><networkCardIndex>0</networkCardIndex></attachment>
<privateIpAddressesSet><item><privateIpAddress>{one.address}</privateIpAddress>
<privateDnsName>{name}</privateDnsName><primary>true</primary></item></privateIpAddressesSet>
<ipv6AddressesSet/><interfaceType>interface</interfaceType></item></networkInterfaceSet>
<iamInstanceProfile><arn>arn:aws:iam::123456789012:instance-profile/superset-{one.role}</arn>
<id>AIPAABCDEFGHIJKLMNOPQ</id></iamInstanceProfile><ebsOptimized>true</ebsOptimized>
<enaSupport>true</enaSupport><cpuOptions><coreCount>2</coreCount><threadsPerCore>2</threadsPerCore>
</cpuOptions><capacityReservationSpecification>
<capacityReservationPreference>open</capacityReservationPreference>
</capacityReservationSpecification><hibernationOptions><configured>false</configured>
</hibernationOptions><enclaveOptions><enabled>false</enabled></enclaveOptions><metadataOptions>
<state>applied</state><httpTokens>required</httpTokens>
<httpPutResponseHopLimit>2</httpPutResponseHopLimit><httpEndpoint>enabled</httpEndpoint>
<httpProtocolIpv6>disabled</httpProtocolIpv6><instanceMetadataTags>enabled</instanceMetadataTags>
</metadataOptions><platformDetails>Linux/UNIX</platformDetails>
<usageOperation>RunInstances</usageOperation>
<usageOperationUpdateTime>2026-11-20T08:15:30.000Z</usageOperationUpdateTime>
<privateDnsNameOptions><hostnameType>ip-name</hostnameType>
<enableResourceNameDnsARecord>false</enableResourceNameDnsARecord>
<enableResourceNameDnsAAAARecord>false</enableResourceNameDnsAAAARecord></privateDnsNameOptions>
<maintenanceOptions><autoRecovery>default</autoRecovery></maintenanceOptions>
<currentInstanceBootMode>uefi</currentInstanceBootMode></item></instancesSet></item>"""


def group_xml(name: str, members: list[Machine]) -> str:
    """Return an auto-scaling group as DescribeAutoScalingGroups says it."""
    template = """<LaunchTemplate><LaunchTemplateId>lt-0123456789abcdef0</LaunchTemplateId>
<LaunchTemplateName>superset</LaunchTemplateName><Version>7</Version></LaunchTemplate>"""
    instances = "".join(
        f"""<member><InstanceId>{one.id}</InstanceId><InstanceType>m6i.xlarge</InstanceType>
<AvailabilityZone>{one.zone}</AvailabilityZone><LifecycleState>InService</LifecycleState>
<HealthStatus>Healthy</HealthStatus>{template}
<ProtectedFromScaleIn>false</ProtectedFromScaleIn></member>"""
        for one in members
    )
    tags = "".join(
        f"""<member><ResourceId>{name}</ResourceId><ResourceType>auto-scaling-group</ResourceType>
<Key>{key}</Key><Value>{value}</Value><PropagateAtLaunch>true</PropagateAtLaunch></member>"""
        for key, value in {
            "fleet": "superset",
            "role": members[0].role,
            "owner": "data-platform",
            "cost-center": "4711",
        }.items()
    )
    return f"""<member><AutoScalingGroupName>{name}</AutoScalingGroupName>
<AutoScalingGroupARN>arn:aws:autoscaling:us-east-1:123456789012:autoScalingGroup:{name}
</AutoScalingGroupARN>{template}<MinSize>1</MinSize><MaxSize>200</MaxSize>
<DesiredCapacity>{len(members)}</DesiredCapacity><DefaultCooldown>300</DefaultCooldown>
<AvailabilityZones>{"".join(f"<member>{zone}</member>" for zone in ZONES)}</AvailabilityZones>
<LoadBalancerNames/><TargetGroupARNs/><HealthCheckType>EC2</HealthCheckType>
<HealthCheckGracePeriod>60</HealthCheckGracePeriod><Instances>{instances}</Instances>
<CreatedTime>2026-11-01T00:00:00.000Z</CreatedTime><SuspendedProcesses/>
<VPCZoneIdentifier>subnet-0123456789abcdef0</VPCZoneIdentifier><EnabledMetrics/>
<Tags>{tags}</Tags><TerminationPolicies><member>Default</member></TerminationPolicies>
<NewInstancesProtectedFromScaleIn>false</NewInstancesProtectedFromScaleIn></member>"""


def page(items: list[Any], size: int, token: str | None) -> tuple[list[Any], str]:
    """Return one page of items and the token of the next, empty for the last."""
    start = int(token or 0)
    return items[start : start + size], str(start + size) if start + size < len(items) else ""


def filters(request: dict[str, str], value: str) -> dict[str, set[str]]:
    """Return a request's filters: {name: values}; value is the API's word for a filter's value."""
    found: dict[str, set[str]] = {}
    for key, name in request.items():
        if key.startswith(("Filter", "Filters")) and key.endswith(".Name"):
            prefix = key.removesuffix("Name") + value
            found[name] = {one for field, one in request.items() if field.startswith(prefix)}
    return found


class Handler(BaseHTTPRequestHandler):
    """Answers the two calls, with AWS's filters and pages."""

    protocol_version = "HTTP/1.1"
    machines: list[Machine]
    instances: dict[Machine, str]
    groups: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        request = {name: value[0] for name, value in parse_qs(body).items()}
        content = getattr(self, request["Action"])(request).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def DescribeAutoScalingGroups(self, request: dict[str, str]) -> str:
        groups, token = page(self.groups, GROUPS_PER_PAGE, request.get("NextToken"))
        token = f"<NextToken>{token}</NextToken>" if token else ""
        return f"""<DescribeAutoScalingGroupsResponse
xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><DescribeAutoScalingGroupsResult>
<AutoScalingGroups>{"".join(groups)}</AutoScalingGroups>{token}
</DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"""

    def DescribeInstances(self, request: dict[str, str]) -> str:
        wanted = filters(request, "Value.")
        unknown = wanted.keys() - {"instance-id", "tag:fleet", "tag:role", "instance-state-name"}
        if unknown:
            raise NotImplementedError(f"filters {unknown}")
        found = [
            one
            for one in self.machines
            if one.id in wanted.get("instance-id", {one.id})
            and one.role in wanted.get("tag:role", {one.role})
        ]
        found, token = page(found, INSTANCES_PER_PAGE, request.get("NextToken"))
        token = f"<nextToken>{token}</nextToken>" if token else ""
        return f"""<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<requestId>1</requestId><reservationSet>{"".join(self.instances[one] for one in found)}
</reservationSet>{token}</DescribeInstancesResponse>"""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve a fleet of `argv[1]` thousand machines on a free port, which is printed first."""
    machines = Handler.machines = fleet(int(sys.argv[1]))
    Handler.instances = {one: instance_xml(one) for one in machines}
    by_group: dict[str, list[Machine]] = {}
    for one in machines:
        if one.group:
            by_group.setdefault(one.group, []).append(one)
    Handler.groups = [group_xml(name, members) for name, members in by_group.items()]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
