"""What container runtimes are asked, what their answers mean, and which of them an agent finds to work."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support import runtime_stand

from bursar_agent import containers
from bursar_agent.runner import asking, images, runtimes

FAILURES = {
    "unauthorized: authentication required": runtimes.DENIED,
    "requested access to the resource is denied": runtimes.DENIED,
    "manifest unknown: manifest unknown": runtimes.NOT_FOUND,
    "reading manifest v9 in quay.io/x/y: not found": runtimes.NOT_FOUND,
    "writing blob: write /var/tmp/x: no space left on device": runtimes.DISK,
    "pinging container registry a.b: dial tcp: lookup a.b: no such host": runtimes.UNREACHABLE,
    "toomanyrequests: You have reached your pull rate limit": runtimes.UNREACHABLE,
    "something nobody has seen before": runtimes.OTHER,
}


@pytest.mark.parametrize("words", FAILURES)
def test_what_a_pull_failed_of_is_read_from_what_was_said(words: str) -> None:
    assert runtimes.failed_of(f"Trying to pull...\nError: {words}\n") == FAILURES[words]


def test_an_image_without_a_registry_is_docker_hubs() -> None:
    assert runtimes.full_name("busybox") == "docker.io/library/busybox"
    assert runtimes.full_name("acme/train:1") == "docker.io/acme/train:1"
    assert runtimes.full_name("ghcr.io/acme/train:1") == "ghcr.io/acme/train:1"
    assert runtimes.full_name("localhost/train") == "localhost/train"
    assert runtimes.full_name("registry:5000/train") == "registry:5000/train"


def test_only_a_name_that_may_mean_another_image_tomorrow_is_fetched_each_time() -> None:
    assert [runtimes.moves(f"a.b/c{tail}") for tail in ("", ":latest", ":1", "@sha256:" + "0" * 64)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert runtimes.moves("registry:5000/train")


def test_credentials_are_a_pair_a_token_or_the_file_of_a_login() -> None:
    file = json.dumps({"auths": {"a.b": {"auth": base64.b64encode(b"me:pass:word").decode()}}})
    assert images.user_and_password("me:pass:word\n", "a.b") == ("me", "pass:word")
    assert images.user_and_password("ghp_token", "a.b") == ("token", "ghp_token")
    assert images.user_and_password(file, "a.b") == ("me", "pass:word")
    assert json.loads(images.credentials_json("me:pw", "docker.io"))["auths"].keys() == {
        "docker.io", "https://index.docker.io/v1/",
    }  # fmt: skip
    with pytest.raises(asking.Failed, match="docker login"):
        images.credentials_json('{"auths": {"a.b": {}}}', "a.b")


def test_a_registry_is_never_shown_what_is_for_another() -> None:
    auth = {"auth": base64.b64encode(b"me:pw").decode()}
    file = json.dumps({"auths": {"https://index.docker.io/v1/": auth}})
    assert images.user_and_password(file, "docker.io") == ("me", "pw")
    for ask in (images.user_and_password, images.credentials_json):
        with pytest.raises(asking.Failed, match=r"nothing for evil\.example"):
            ask(file, "evil.example")


def wanted(**more: Any) -> runtimes.Wanted:
    fields: dict[str, Any] = {
        "name": "bursar-a", "member": "a", "image": "sha", "argv": ["true"], "env_file": "/e",
        "variables": ["A"], "mounts": [runtimes.Mount("/data", "/in", True)], "workdir": "/w",
        "gpus": ("GPU-1",),
    }  # fmt: skip
    return runtimes.Wanted(**(fields | more))


def test_each_runtime_is_asked_in_its_own_words() -> None:
    def of(kind: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "program": kind, **more}

    docker = " ".join(runtimes.create(of("docker", gpus="runtime"), wanted()))
    assert '--gpus "device=GPU-1"' in docker
    assert "type=bind,src=/data,dst=/in,readonly" in docker
    assert "--cap-drop ALL --security-opt no-new-privileges" in docker
    assert "--sig-proxy=false" not in runtimes.start(of("docker"), "a")
    podman = " ".join(runtimes.create(of("podman", gpus="cdi", rootless=True), wanted()))
    assert "--device nvidia.com/gpu=GPU-1" in podman
    assert "--userns keep-id" in podman
    assert "dst=/in,ro=true" in podman
    apptainer = " ".join(runtimes.run_apptainer(of("apptainer"), wanted(image="/c/x.sif")))
    assert "exec --cleanenv --pid --no-home --writable-tmpfs --pwd /w --nv" in apptainer
    assert "--bind /data:/in:ro /c/x.sif true" in apptainer
    enroot = " ".join(runtimes.run_enroot(of("enroot"), wanted()))
    assert "start --rw --mount /data:/in:x-create=auto,rbind,ro --env A bursar-a /bin/sh" in enroot
    assert runtimes.enroot_address("nvcr.io/nvidia/pytorch:24.01") == "docker://nvcr.io#nvidia/pytorch:24.01"


def test_no_runtime_is_asked_for_more_than_a_job_has() -> None:
    for kind in runtimes.OCI:
        words = runtimes.create({"kind": kind, "program": kind}, wanted())
        assert not [word for word in words if "privileged" in word and word != "no-new-privileges"]
        assert not [word for word in words if word.endswith(".sock")]


class _Job:
    runtime = {"kind": "podman", "program": "/bin/false"}
    image, image_auth = "a.b/c:1", ""
    uid = gid = None


def test_a_registry_that_is_not_reached_is_asked_again_and_no_other_failure_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = [(125, "dial tcp: i/o timeout"), (125, "connection refused"), (0, "")]
    asked: list[list[str]] = []

    def call(argv: list[str], *_: object) -> tuple[int, str]:
        asked.append(argv)
        return said[len(asked) - 1]

    monkeypatch.setattr(images, "call", call)
    monkeypatch.setattr(images, "PULL_PAUSES_S", (0.0, 0.0))
    fetched = images.Images(_Job(), {}, -1, "/none")  # type: ignore[arg-type]
    fetched._pull(["pull"], {})
    assert len(asked) == 3
    said[:] = [(125, "manifest unknown")]
    asked.clear()
    with pytest.raises(asking.Failed, match=r"image not found: a\.b/c:1: manifest unknown"):
        fetched._pull(["pull"], {})
    assert len(asked) == 1


# --- which of them works


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> runtime_stand.Stand:
    stand = runtime_stand.fake(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    return stand


def find(tmp_path: Path, setting: str = "auto", **more: Any) -> containers.Found:
    return containers.find(setting, **({"limited": False, "devices": False} | more), cache=tmp_path / "kept")


def test_a_runtime_that_runs_a_container_is_found_and_what_was_found_is_kept(
    on_path: runtime_stand.Stand, tmp_path: Path
) -> None:
    found = find(tmp_path)
    assert found.runtime is not None
    assert (found.runtime["kind"], found.runtime["version"]) == ("podman", "4.9.3")
    assert set(found.runtime["holds"]) == {"memory", "cpu", "pids", "swap"}
    assert found.labels(simulated=False) == {"containers": "podman-4.9.3"}
    assert found.labels(simulated=True)["container-gpus"] == "simulated"
    assert find(tmp_path) == found
    assert len(on_path.calls("run")) == 1


def test_a_node_whose_first_way_fails_is_tried_the_others(
    on_path: runtime_stand.Stand, tmp_path: Path
) -> None:
    on_path.wants("probe", ["--runtime=runc"])
    found = find(tmp_path)
    assert found.runtime is not None
    assert found.runtime["globals"] == ["--runtime=runc"]
    on_path.wants("probe", ["--cgroups=disabled"])
    found = containers.find("podman", limited=True, devices=False, cache=tmp_path / "other")
    assert found.runtime is not None
    assert (found.runtime["cgroup"], found.runtime["holds"]) == (True, [])


def test_what_does_not_run_is_none_and_the_next_look_tries_again(
    on_path: runtime_stand.Stand, tmp_path: Path
) -> None:
    on_path.wants("fails", {"run": "cannot clone: Operation not permitted"})
    found = find(tmp_path)
    assert found.runtime is None
    assert found.problems == ("podman: cannot clone: Operation not permitted",)
    assert found.labels(simulated=False) == {}
    on_path.wants("fails", {})
    assert find(tmp_path).runtime is not None


def test_a_docker_without_its_daemon_is_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.exists("/var/run/docker.sock"):
        pytest.skip("a docker daemon runs here")
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    monkeypatch.setenv("PATH", str(program.parent))
    found = find(tmp_path)
    assert found.runtime is None
    assert "daemon does not run" in found.problems[0]


def test_what_another_account_keeps_is_not_believed(on_path: runtime_stand.Stand, tmp_path: Path) -> None:
    find(tmp_path)
    kept = json.loads((tmp_path / "kept").read_text())
    kept["runtime"]["program"] = "/evil"
    (tmp_path / "kept").write_text(json.dumps(kept))
    (tmp_path / "kept").chmod(0o666)
    found = find(tmp_path)
    assert found.runtime is not None
    assert found.runtime["program"] != "/evil"


def test_off_is_none(on_path: runtime_stand.Stand, tmp_path: Path) -> None:
    assert find(tmp_path, "off").runtime is None
