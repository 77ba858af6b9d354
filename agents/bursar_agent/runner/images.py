"""Images of containers: fetched once for a node, by few at a time, and shown to registries whose they are.

Owns    the turn of an image, the pull with its further tries, credentials. Input: the job and its runtime.
Why     eight members of a gang that start together want the same 20 GB; one fetches them. A pull that fails
        says in one line of what: whoever reads it knows whether to mend the name, the secret or the node.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from typing import Any, NamedTuple

from bursar_agent.runner import runtimes, spawning
from bursar_agent.runner.asking import CALL_S, Failed, call, runtime_env, stat_as, write_private

PULL_S = 3600.0
PULLS_MAX = 2
"""Images that one node fetches at once; each is fetched once, whoever waits for it."""
PULL_PAUSES_S = (2.0, 8.0)
"""Before each further try, where the registry was not reached."""
_LOCK_POLL_S = 0.2
HUB, HUB_BEFORE = "docker.io", "https://index.docker.io/v1/"
"""Docker Hub, and what files of credentials have called it from the beginning."""

DENIED = "image access denied"
NOT_FOUND = "image not found"
UNREACHABLE = "image registry not reached"
DISK = "image does not fit on the disk"
OTHER = "image not fetched"
"""How it begins to say what a pull failed of: `bursar.model.ends` has a remedy for each."""
_BEGINNINGS = {
    runtimes.DENIED: DENIED,
    runtimes.NOT_FOUND: NOT_FOUND,
    runtimes.UNREACHABLE: UNREACHABLE,
    runtimes.DISK: DISK,
    runtimes.OTHER: OTHER,
}


class Image(NamedTuple):
    """One that is here: what a container is made of, its digest and its `PATH`, as far as they are known."""

    made_of: str
    digest: str = ""
    path: str = ""


class Images:
    """The image of one member. `private`: a folder for credentials, in memory."""

    def __init__(self, job: spawning.Job, request: dict[str, Any], home_fd: int, private: str) -> None:
        assert job.runtime is not None
        self._job = job
        self._request = request
        self._runtime = job.runtime
        self._home_fd = home_fd
        self._private = private
        self._image = runtimes.full_name(job.image)

    def fetch(self) -> Image:
        """Have it here. Raises `Failed`."""
        return self._fetch() if self._runtime["kind"] in runtimes.OCI else Image(self._fetch_file())

    def user_env(self, more: dict[str, str]) -> dict[str, str]:
        """What a runtime that runs as the job's user finds in its environment."""
        job = self._job
        env = runtime_env()
        if job.uid is not None:
            env["HOME"] = self._request["home"]
            env["XDG_RUNTIME_DIR"] = f"/run/user/{job.uid}"
        return env | more

    def _fetch(self) -> Image:
        looked = self._look()
        local = runtimes.is_local(self._image)
        if local and looked is None:
            raise Failed(f"{NOT_FOUND}: {self._image} is not on this node", "image_failed")
        if looked is None or (runtimes.moves(self._image) and not local):
            with Turn(self._home_fd, self._image):
                # Whoever had the turn before us may have brought it.
                if looked is None:
                    looked = self._look()
                if looked is None or runtimes.moves(self._image):
                    env, auth_file = self._credentials()
                    self._pull(runtimes.pull(self._runtime, self._image, auth_file), env)
                    looked = self._look()
        if looked is None:
            raise Failed(f"{OTHER}: {self._image} was fetched and is not there", "image_failed")
        made_of = str(looked.get("Id") or self._image)
        return Image(made_of, runtimes.digest_of(looked), runtimes.path_of(looked))

    def _look(self) -> dict[str, Any] | None:
        code, said = call(runtimes.look(self._runtime, self._image), runtime_env(), CALL_S)
        if code != 0:
            return None
        try:
            found = json.loads(said)
        except ValueError:
            raise Failed(f"{self._runtime['kind']} image inspect: {runtimes.last_line(said)}") from None
        return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None

    def _pull(self, argv: list[str], env: dict[str, str], as_user: bool = False) -> None:
        """Ask for it, again where the registry was not reached. Raises `Failed`."""
        job = self._job
        for pause_s in (*PULL_PAUSES_S, None):
            code, said = call(argv, env, PULL_S, job if as_user else None)
            if code == 0:
                return
            what = runtimes.failed_of(said)
            if what != runtimes.UNREACHABLE or pause_s is None:
                raise Failed(
                    f"{_BEGINNINGS[what]}: {self._image}: {runtimes.last_line(said)}", "image_failed"
                )
            time.sleep(pause_s)

    def _credentials(self) -> tuple[dict[str, str], str]:
        """The runtime's environment and, where the job has some, the file with its credentials."""
        env, given = runtime_env(), self._job.image_auth
        if not given:
            return env, ""
        path = f"{self._private}/config.json"
        write_private(path, credentials_json(given, runtimes.registry_of(self._image)))
        return env | {"DOCKER_CONFIG": self._private}, path

    def _fetch_file(self) -> str:
        """An image file in the user's own cache, which apptainer and enroot make of an image."""
        import hashlib

        job, kind = self._job, self._runtime["kind"]
        suffix = "sif" if kind == "apptainer" else "sqsh"
        folder = f"{self._request['home']}/.cache/bursar/images"
        path = f"{folder}/{hashlib.sha256(self._image.encode()).hexdigest()}.{suffix}"
        program = runtimes.base(self._runtime)
        if runtimes.is_local(self._image):
            raise Failed(f"{NOT_FOUND}: {kind} knows no images of this node's own", "image_failed")
        with Turn(self._home_fd, f"{job.uid} {self._image}"):
            there = not isinstance(stat_as(path, job), str)
            if not there or runtimes.moves(self._image):
                call(["mkdir", "-p", "-m", "700", folder], self.user_env({}), CALL_S, job)
                env = self.user_env(self._file_credentials())
                if kind == "apptainer":
                    argv = [*program, "pull", "--force", path, f"docker://{self._image}"]
                else:
                    call(["rm", "-f", path], env, CALL_S, job)
                    argv = [*program, "import", "--output", path, runtimes.enroot_address(self._image)]
                self._pull(argv, env, as_user=True)
        return path

    def _file_credentials(self) -> dict[str, str]:
        job = self._job
        if not job.image_auth:
            return {}
        user, password = user_and_password(job.image_auth, runtimes.registry_of(self._image))
        if self._runtime["kind"] == "apptainer":
            return {"APPTAINER_DOCKER_USERNAME": user, "APPTAINER_DOCKER_PASSWORD": password}
        machine = runtimes.registry_of(self._image)
        text = f"machine {machine} login {user} password {password}\n"
        write_private(f"{self._private}/.credentials", text, job.uid, job.gid)
        return {"ENROOT_CONFIG_PATH": self._private}


class Turn:
    """One image at a time, once, and few images at once: locks of files that whoever dies lets go."""

    def __init__(self, home_fd: int, image: str) -> None:
        self._home_fd = home_fd
        self._image = image
        self._fds: list[int] = []

    def __enter__(self) -> Turn:
        """Wait for it; whoever is told to stop meanwhile is killed, and waits no more."""
        import hashlib

        folder = "../../pulls"
        try:  # noqa: SIM105  contextlib is not loaded here
            os.mkdir(folder, 0o700, dir_fd=self._home_fd)
        except FileExistsError:
            pass
        name = hashlib.sha256(self._image.encode()).hexdigest()[:32]
        fd = self._open(f"{folder}/{name}")
        fcntl.flock(fd, fcntl.LOCK_EX)
        while True:
            for slot in range(PULLS_MAX):
                fd = self._open(f"{folder}/slot.{slot}")
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return self
                except OSError as problem:
                    os.close(self._fds.pop())
                    if problem.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
            time.sleep(_LOCK_POLL_S)

    def _open(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._home_fd)
        self._fds.append(fd)
        return fd

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def user_and_password(given: str, registry: str) -> tuple[str, str]:
    """Of `USER:PASSWORD`, of a token alone, or of a file of `docker login`."""
    text = given.strip()
    if text.startswith("{"):
        import base64

        try:
            entries = json.loads(text)["auths"]
            # Never another registry's: this one would be shown a password that is not its own.
            name = next(one for one in names_of(registry) if one in entries)
            text = base64.b64decode(entries[name]["auth"]).decode()
        except StopIteration:
            raise Failed(
                f"{DENIED}: the secret of image_auth is a file of `docker login` with nothing for {registry}",
                "image_failed",
            ) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Failed(
                f"{DENIED}: the secret of image_auth is no file of `docker login` with an `auth`",
                "image_failed",
            ) from None
    user, colon, password = text.partition(":")
    return (user, password) if colon else ("token", user)


def credentials_json(given: str, registry: str) -> str:
    """A file of credentials as podman and docker read it."""
    import base64

    text = given.strip()
    if text.startswith("{"):
        user_and_password(text, registry)
        return text
    user, password = user_and_password(text, registry)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    names = {registry, HUB_BEFORE} if registry == HUB else {registry}
    return json.dumps({"auths": {name: {"auth": auth} for name in sorted(names)}})


def names_of(registry: str) -> tuple[str, ...]:
    """What a file of credentials may call a registry."""
    if registry == HUB:
        return HUB, HUB_BEFORE, f"index.{HUB}"
    return registry, f"https://{registry}", f"https://{registry}/v1/"
