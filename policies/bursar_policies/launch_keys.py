"""What a CloudPool may say under `launch`, by provider.

Owns    the keys, their forms, and which of them are needed.
Why     what a provider is told when it makes a machine costs money when it is wrong, so a key that nobody
        reads is refused where it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class LaunchKey(NamedTuple):
    """One key.

    Attributes:
        pattern: all of its text. expected: that in words.
        lines: it may be of several lines, as a script is.
        zonal: it is in one zone, so one text for all is right only where one zone is named.
    """

    pattern: str
    expected: str
    required: bool = False
    lines: bool = False
    length_max: int = 256
    zonal: bool = False


_PATH: Final = r"/[A-Za-z0-9._/-]{1,255}"

_DISK: Final = LaunchKey(r"[1-9][0-9]{0,4}GiB", "the size of its root disk, such as 200GiB")
_AZURE_ID: Final = (
    r"/subscriptions/[0-9a-fA-F-]{36}/resource[gG]roups/[A-Za-z0-9_.()-]{1,90}"
    r"/providers/[A-Za-z]{1,30}\.[A-Za-z]{1,30}"
)
_ADDRESS: Final = LaunchKey(r"ephemeral|none", "ephemeral or none")

COMMON: Final[Mapping[str, LaunchKey]] = {
    "server": LaunchKey(
        r"grpcs://[A-Za-z0-9.\[\]:-]+:[0-9]{1,5}",
        "where its agent finds bursard, such as grpcs://bursar.example:7443",
        required=True,
    ),
    "ca_file": LaunchKey(_PATH, "a path in the image, such as /etc/bursar/ca.pem"),
    "bootstrap": LaunchKey(r"[\s\S]+", "a shell script", lines=True, length_max=8_192),
}
"""Of every provider that is not `local`: how the agent comes to run there and finds its daemon."""

KEYS: Final[Mapping[str, Mapping[str, LaunchKey]]] = {
    "local": {},
    "aws": {
        **COMMON,
        "image": LaunchKey(
            r"ami-[0-9a-f]{8,17}|resolve:ssm:/?[A-Za-z0-9_.:/-]{1,200}",
            "an image such as ami-0123456789abcdef0, or resolve:ssm:/a/public/parameter",
            required=True,
        ),
        "subnet": LaunchKey(
            r"subnet-[0-9a-f]{8,17}", "a subnet such as subnet-0123456789abcdef0", zonal=True
        ),
        "security_group": LaunchKey(
            r"sg-[0-9a-f]{8,17}", "the id of a security group such as sg-0123456789abcdef0"
        ),
        "instance_profile": LaunchKey(r"[A-Za-z0-9+=,.@_-]{1,128}", "the name of an instance profile"),
        "key_name": LaunchKey(r"[A-Za-z0-9 ._@()+=:/-]{1,255}", "the name of a key pair"),
        "disk": _DISK,
    },
    "azure": {
        **COMMON,
        "resource_group": LaunchKey(
            r"[A-Za-z0-9_.()-]{0,89}[A-Za-z0-9_()-]", "a resource group", required=True
        ),
        "image": LaunchKey(
            _AZURE_ID + r"/(images|galleries)/[A-Za-z0-9_./-]{1,200}|(/communityGalleries/|/sharedGalleries/)"
            r"[A-Za-z0-9_./-]{1,200}|[A-Za-z0-9_.-]{1,80}(:[A-Za-z0-9_.-]{1,80}){3}",
            "the id of an image, or PUBLISHER:OFFER:SKU:VERSION",
            required=True,
        ),
        "subnet": LaunchKey(
            _AZURE_ID + r"/virtualNetworks/[A-Za-z0-9_.-]{1,80}/subnets/[A-Za-z0-9_.-]{1,80}",
            "the id of a subnet",
            required=True,
        ),
        "ssh_key": LaunchKey(
            r"(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]{16,2000}( [ -~]{0,100})?",
            "a public key such as ssh-ed25519 AAAA…",
            required=True,
            length_max=2_200,
        ),
        "security_group": LaunchKey(
            _AZURE_ID + r"/networkSecurityGroups/[A-Za-z0-9_.-]{1,80}", "the id of a network security group"
        ),
        "identity": LaunchKey(
            _AZURE_ID + r"/userAssignedIdentities/[A-Za-z0-9_.-]{1,128}", "the id of a managed identity"
        ),
        "external_ip": _ADDRESS,
        "disk": _DISK,
        "disk_type": LaunchKey(r"[A-Za-z0-9]{2,20}_[A-Z]{3}", "a type of disk such as StandardSSD_LRS"),
    },
    "gcp": {
        **COMMON,
        "image": LaunchKey(
            r"projects/[a-z][a-z0-9:.-]{0,62}/global/images/(family/)?[a-z][a-z0-9-]{0,62}",
            "an image such as projects/PROJECT/global/images/family/NAME",
            required=True,
        ),
        "subnet": LaunchKey(
            r"([a-z0-9:./-]{1,150}/)?[a-z][a-z0-9-]{0,62}",
            "a subnet, or projects/PROJECT/regions/REGION/subnetworks/NAME",
        ),
        "service_account": LaunchKey(r"[a-z0-9.-]{1,63}@[a-z0-9.-]{1,128}", "the email of a service account"),
        "network_tags": LaunchKey(r"[a-z][a-z0-9-]{0,62}(,[a-z][a-z0-9-]{0,62}){0,15}", "tags such as a,b"),
        "external_ip": _ADDRESS,
        "disk": _DISK,
        "disk_type": LaunchKey(r"[a-z][a-z0-9-]{1,40}", "a type of disk such as pd-balanced"),
    },
}
"""By provider. One that has none of its own yet is not here."""
