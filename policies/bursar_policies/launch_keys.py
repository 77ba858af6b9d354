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
    """

    pattern: str
    expected: str
    required: bool = False
    lines: bool = False
    length_max: int = 256


_PATH: Final = r"/[A-Za-z0-9._/-]{1,255}"

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
        "subnet": LaunchKey(r"subnet-[0-9a-f]{8,17}", "a subnet such as subnet-0123456789abcdef0"),
        "security_group": LaunchKey(
            r"sg-[0-9a-f]{8,17}", "the id of a security group such as sg-0123456789abcdef0"
        ),
        "instance_profile": LaunchKey(r"[A-Za-z0-9+=,.@_-]{1,128}", "the name of an instance profile"),
        "key_name": LaunchKey(r"[A-Za-z0-9 ._@()+=:/-]{1,255}", "the name of a key pair"),
        "disk": LaunchKey(r"[1-9][0-9]{0,4}GiB", "the size of its root disk, such as 200GiB"),
    },
}
"""By provider. One that has none of its own yet is not here."""
