"""What container runtimes are asked: the words of their commands, and what their answers mean. PURE.

Owns    the command lines of podman, docker, apptainer and enroot, and what a failed pull failed of.
Input   a runtime as the agent found it (`bursar_agent.containers`), what a container is to be made of.
Why     each has its own words for the same wish, and every one of them is here. Values of variables never
        stand in a command line, which whoever is on the machine can read, nor in the environment of a runtime
        that is root (`LD_PRELOAD`): they come from a file. Imports only what the launcher can afford.
Rule    nothing is asked that gives a container more than its job has: never `--privileged`, no socket of a
        runtime, no capability beyond those of a job that runs without one.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

OCI = ("podman", "docker")
"""Those that keep containers by name."""
KINDS = (*OCI, "apptainer", "enroot")

TOP = "/run/bursar"
STEPS, LIB, SCRIPT, SETUP = f"{TOP}/steps", f"{TOP}/lib", f"{TOP}/script", f"{TOP}/setup"
"""Where a container finds what is its node's: programs for steps, the library that they load, its texts."""
PRIVATE_TMP = "/tmp"
LABEL = "bursar.member"

DENIED, NOT_FOUND, UNREACHABLE, DISK, OTHER = "denied", "not_found", "unreachable", "disk", "other"

_FAILED_OF = (
    (DISK, r"no space left|disk quota exceeded|not enough space"),
    (
        UNREACHABLE,
        r"no such host|dial tcp|lookup \S+|i/o timeout|connection re(?:fused|set)|timed? ?out|TLS handshake"
        r"|network is unreachable|server misbehaving|unexpected EOF|Could not resolve|x509:|toomanyrequests"
        r"|too many requests|\b(?:429|500|502|503|504)\b",
    ),
    (
        DENIED,
        r"unauthorized|access (?:to the \w+ )?(?:is |was )?denied|\bdenied\b|authentication required"
        r"|invalid username|\b(?:401|403)\b|forbidden|no basic auth",
    ),
    (
        NOT_FOUND,
        r"manifest unknown|name unknown|not found|no such image|does not exist|image not known|\b404\b",
    ),
)


DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Mount(NamedTuple):
    """A directory or file of the node, and where the container has it."""

    source: str
    target: str
    read_only: bool = False


class Wanted(NamedTuple):
    """One container.

    Attributes:
        image: what it is made of: an id or a name that the runtime has already.
        env_file: lines of NAME=VALUE. variables: their names, which a runtime that reads no file has itself.
        user: `UID:GID`; empty: the account that the runtime runs as.
        own_root: it is root because its agent runs jobs as root, as outside of a container.
        memory_bytes, cpu_milli: 0: none, or held by a cgroup around it.
        gpus: UUIDs of devices that exist. shared_ipc: its devices are reached through a server of the node.
    """

    name: str
    member: str
    image: str
    argv: list[str]
    env_file: str
    variables: list[str]
    mounts: list[Mount]
    workdir: str
    user: str = ""
    groups: tuple[int, ...] = ()
    own_root: bool = False
    memory_bytes: int = 0
    cpu_milli: int = 0
    pids: int = 0
    gpus: tuple[str, ...] = ()
    shared_ipc: bool = False
    shm_bytes: int = 0
    limits: tuple[tuple[str, int], ...] = ()


def container_name(marker: str) -> str:
    """Of a member's container (`layout.marker_of`), in letters that every runtime takes."""
    return "bursar-" + re.sub(r"[^a-zA-Z0-9_.-]", "-", marker)


def full_name(image: str) -> str:
    """The image with its registry: what names none is Docker Hub's, as everywhere."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def is_local(image: str) -> bool:
    """It was made on the node, and no registry has it."""
    return image.startswith("localhost/")


def moves(image: str) -> bool:
    """May its name mean another image tomorrow, so that it is asked for each time: `latest`, or no tag."""
    if "@" in image:
        return False
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return not colon or tag == "latest"


def registry_of(image: str) -> str:
    """The registry of a full name."""
    return image.partition("/")[0]


def base(runtime: dict[str, Any]) -> list[str]:
    """The program with what each of its commands is given."""
    return [runtime["program"], *runtime.get("globals", ())]


def pull(runtime: dict[str, Any], image: str, auth_file: str) -> list[str]:
    """Fetch an image. Docker is told where to find its credentials by a variable (`DOCKER_CONFIG`)."""
    words = [*base(runtime), "pull", "--quiet"]
    if auth_file and runtime["kind"] == "podman":
        words += ["--authfile", auth_file]
    return [*words, image]


def look(runtime: dict[str, Any], image: str) -> list[str]:
    """Ask what an image is, in JSON; it fails where there is none."""
    return [*base(runtime), "image", "inspect", image]


def create(runtime: dict[str, Any], wanted: Wanted) -> list[str]:
    """Make a container that `start` starts."""
    podman = runtime["kind"] == "podman"
    words = [*base(runtime), "create", *runtime.get("create", ()), "--name", wanted.name]
    words += ["--label", f"{LABEL}={wanted.member}", "--log-driver", "none", "--network", "host"]
    words += ["--pull", "never", "--workdir", wanted.workdir]
    if runtime.get("init"):
        words.append("--init")
    if wanted.user:
        words += ["--user", wanted.user]
    if runtime.get("rootless") and podman:
        words += ["--userns", "keep-id"]
    if not wanted.own_root:
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    for group in wanted.groups:
        words += ["--group-add", str(group)]
    for name, most in wanted.limits:
        words += ["--ulimit", f"{name}={most}:{most}"]
    words += _limits(runtime, wanted)
    words += _devices(runtime, wanted)
    if wanted.shared_ipc:
        words += ["--ipc", "host"]
    elif wanted.shm_bytes:
        words += ["--shm-size", str(wanted.shm_bytes)]
    for mount in wanted.mounts:
        words += ["--mount", _mount(mount, podman)]
    return [*words, "--env-file", wanted.env_file, "--entrypoint", "", wanted.image, *wanted.argv]


def _limits(runtime: dict[str, Any], wanted: Wanted) -> list[str]:
    """Where no cgroup of ours is around it, the runtime's own."""
    holds = runtime.get("holds", ())
    words: list[str] = []
    if wanted.memory_bytes and "memory" in holds:
        words += ["--memory", str(wanted.memory_bytes)]
        if "swap" in holds:
            words += ["--memory-swap", str(wanted.memory_bytes)]
    if wanted.cpu_milli and "cpu" in holds:
        words += ["--cpus", f"{wanted.cpu_milli // 1000}.{wanted.cpu_milli % 1000:03d}"]
    if wanted.pids and "pids" in holds:
        words += ["--pids-limit", str(wanted.pids)]
    return words


def _devices(runtime: dict[str, Any], wanted: Wanted) -> list[str]:
    if not wanted.gpus:
        return []
    if runtime.get("gpus") == "cdi":
        return [word for uuid in wanted.gpus for word in ("--device", f"nvidia.com/gpu={uuid}")]
    return ["--gpus", '"device={}"'.format(",".join(wanted.gpus))]


def _mount(mount: Mount, podman: bool) -> str:
    said = f"type=bind,src={mount.source},dst={mount.target}"
    if mount.read_only:
        said += ",ro=true" if podman else ",readonly"
    return said


def init(runtime: dict[str, Any], name: str) -> list[str]:
    """Have it stand ready, with nothing of it run yet; podman alone can."""
    return [*base(runtime), "init", name]


def start(runtime: dict[str, Any], name: str) -> list[str]:
    """Run it, its output ours; ends with its exit code."""
    quiet = ("--sig-proxy=false",) if runtime["kind"] == "podman" else ()
    return [*base(runtime), "start", "--attach", *quiet, name]


def state(runtime: dict[str, Any], name: str) -> list[str]:
    """How it is, in JSON."""
    return [*base(runtime), "inspect", "--type", "container", name]


def remove(runtime: dict[str, Any], name: str) -> list[str]:
    """End and remove it, whatever it does; of one that is not there, nothing."""
    return [*base(runtime), "rm", "--force", "--volumes", name]


def run_apptainer(runtime: dict[str, Any], wanted: Wanted) -> list[str]:
    """Run from an image file, as the user who asks: no name is kept, no daemon is in between."""
    words = [*base(runtime), "--silent", "exec", "--cleanenv", "--pid", "--no-home", "--writable-tmpfs"]
    words += ["--pwd", wanted.workdir, *(("--nv",) if wanted.gpus else ())]
    for mount in wanted.mounts:
        words += ["--bind", f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")]
    return [*words, wanted.image, *wanted.argv]


def run_enroot(runtime: dict[str, Any], wanted: Wanted) -> list[str]:
    """The same with enroot, from a container that was made of the image."""
    words = [*base(runtime), "start", "--rw"]
    for mount in wanted.mounts:
        ro = ",ro" if mount.read_only else ""
        words += ["--mount", f"{mount.source}:{mount.target}:x-create=auto,rbind{ro}"]
    for name in wanted.variables:
        words += ["--env", name]
    inside = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", wanted.workdir, *wanted.argv]
    return [*words, wanted.name, *inside]


def enroot_address(image: str) -> str:
    """How enroot writes the name of an image: `docker://REGISTRY#PATH:TAG`."""
    registry, _, path = image.partition("/")
    return f"docker://{registry}#{path}"


def failed_of(said: str) -> str:
    """What a pull failed of, by what its runtime said."""
    return next((what for what, pattern in _FAILED_OF if re.search(pattern, said, re.IGNORECASE)), OTHER)


def last_line(said: str, most: int = 300) -> str:
    """The last line of what a runtime said, as a message can bear it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = lines[-1].removeprefix("Error: ") if lines else ""
    return "".join(c if c.isprintable() else "?" for c in text[-most:])


def digest_of(looked: dict[str, Any]) -> str:
    """What identifies the image for good: its digest at the registry, or its own id where none has it."""
    for one in looked.get("RepoDigests") or ():
        _, at, digest = str(one).partition("@")
        if at:
            return digest[:80]
    found = str(looked.get("Digest") or looked.get("Id") or "")
    return found[:80] if ":" in found or not found else f"sha256:{found}"[:80]


def path_of(looked: dict[str, Any]) -> str:
    """`PATH` as the image sets it; empty: it does not."""
    for one in (looked.get("Config") or {}).get("Env") or ():
        name, _, value = str(one).partition("=")
        if name == "PATH":
            return value
    return ""
