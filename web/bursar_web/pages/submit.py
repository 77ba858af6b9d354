"""Submitting: a job file or a script is pasted, its plan and price are shown, and then it is sent, once.

Why     the text goes the way that a file of the command goes, so that both say the same of it. What stands in
        this process's environment is nobody's who pastes: a script gets none of it. The key of a plan makes
        the job of a page sent twice the same job.
"""

from __future__ import annotations

import posixpath
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar import jobfile
from bursar.cli.ends import NEVER_STARTS
from bursar.cli.texts import plan_text
from bursar.client.aio import AsyncWireClient
from bursar.client.asked import site_nodes
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.codec.slurm_names import names_from_wire
from bursar.errors import InvalidRequest
from bursar.jobfile.request import job_of_file, job_of_script
from bursar.jobfile.site import Site
from bursar.jobfile.slurm import asks_of_site
from bursar.model import JobSpec
from bursar.smallfile import FILE_BYTES_MAX
from bursar_web.asking import client_of, form_of, text_of
from bursar_web.show import page
from bursar_web.tables import job_link

SOURCE = "pasted"
"""What faults call the text, before their line."""
KEY_CHARS_MAX = 100


async def form(request: Request) -> Response:
    """GET `/submit`: where to paste."""
    return _form(request)


async def plan(request: Request) -> Response:
    """POST `/submit`: what it would cost and where it would go; nothing is submitted yet."""
    fields = form_of(request)
    text, workdir = text_of(fields), fields.get("workdir", "").strip()
    client = client_of(request)
    try:
        spec, notes = await _read(client, text, workdir, request.app.state.clock.now())
        planned = await client.plan(spec)
    except InvalidRequest as problem:
        return _form(request, text, workdir, str(problem), status=400)
    row = view.plan(planned)
    return page(
        request,
        "plan.html",
        command="bursar plan FILE",
        text=text,
        workdir=workdir,
        notes=notes,
        plan=plan_text(row, request.app.state.clock.now()),
        name=spec.name,
        key=f"web-{request.app.state.secret()}",
        never=bool(row["reason"]) and row["reason"]["code"] in NEVER_STARTS,
    )


async def send(request: Request) -> Response:
    """POST `/submit/send`: bring it in, as it was planned, once per plan."""
    fields = form_of(request)
    client, key = client_of(request), fields.get("key", "")
    if not 0 < len(key) <= KEY_CHARS_MAX:
        raise InvalidRequest("this form lacks the key of its plan; open /submit again")
    spec, _ = await _read(client, text_of(fields), fields.get("workdir", ""), request.app.state.clock.now())
    answer = await client.submit(spec, idempotency_key=key)
    return RedirectResponse(job_link({"id": answer.job.id}), 303)


def _form(
    request: Request, text: str = "", workdir: str = "", problem: str = "", status: int = 200
) -> Response:
    return page(
        request,
        "submit.html",
        status=status,
        command="bursar submit FILE",
        text=text,
        workdir=workdir or request.app.state.home,
        problem=problem,
    )


async def _read(client: AsyncWireClient, text: str, workdir: str, now: int) -> tuple[JobSpec, list[str]]:
    """The job that a text means. Raises `InvalidRequest`, with places in the text."""
    if not text.strip():
        raise InvalidRequest("paste a job file (YAML), or a script with #BURSAR or #SBATCH lines")
    if len(text.encode()) > FILE_BYTES_MAX:
        raise InvalidRequest(f"{SOURCE}: more than {FILE_BYTES_MAX // 1024} kB; such files are small")
    if not posixpath.isabs(workdir) or not workdir.isprintable():
        raise InvalidRequest("work directory: write where it runs on the nodes, from the root: /data/run")
    base = posixpath.normpath(workdir)
    if not jobfile.looks_like_script(text):
        return job_of_file(text, SOURCE, base)
    here = datetime.fromtimestamp(now / SECOND_US, UTC)
    caller = jobfile.Caller({}, here, "", await _site(client, text))
    return job_of_script(text, SOURCE, base, (), None, caller)


async def _site(client: AsyncWireClient, text: str) -> Site:
    """What the script may speak of: the nodes, and what names stand for."""
    asks = asks_of_site(text)
    nodes = site_nodes(await client.nodes()) if asks.nodes else None
    return Site(nodes, names_from_wire(await client.slurm_names()) if asks.names else ())
