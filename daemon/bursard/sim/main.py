"""The door of `bursar sim`: flags in, files read, summary out.

Why     everything wrong with the input is said before anything runs, with its place, and ends in exit code 2.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest, InvariantViolation
from bursar.jobfile import parse_job
from bursar.yamlfile import nearest
from bursar_policies.document import catalog_dir, parse_documents, parse_files
from bursar_policies.specs import (
    STRATEGIES,
    BudgetSpec,
    CloudPoolSpec,
    CostModelSpec,
    Document,
    PlacementPolicySpec,
    PriceBookSpec,
)
from bursard.sim import csvfile, serving, summary
from bursard.sim.csvfile import BadCell, seconds_us
from bursard.sim.offers import OfferRow, read_offers
from bursard.sim.rented import pool_of
from bursard.sim.replay import replay, table
from bursard.sim.rows import read_jobs, read_nodes
from bursard.sim.simulation import START_AT, Simulation

logging.getLogger("bursard").addHandler(logging.NullHandler())
"""What a daemon logs is for its operator; nobody reads it here."""

FILES_MAX = 1000
POLICY_BYTES_MAX = 4 << 20


def run(argv: Sequence[str]) -> int:
    """Run `bursar sim` with these arguments; the exit code of contract section 2."""
    return int(_command.main(list(argv), prog_name="bursar sim", standalone_mode=False) or 0)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--jobs", "jobs_path", metavar="JOBS.csv", help="The workload; - is stdin.")
@click.option("--nodes", "nodes_path", metavar="NODES.csv", help="The cluster; - is stdin.")
@click.option(
    "--replay",
    "replay_path",
    metavar="FILE",
    help="Make one saved plan again (bursar doctor --save-snapshot) and compare; instead of all other flags.",
)
@click.option(
    "--service", "service_path", metavar="FILE", help="A job file of a service, scaled under --load."
)
@click.option("--load", "load_path", metavar="LOAD.csv", help="What is asked of it; - is stdin.")
@click.option("--price", metavar="PRICE", help="Of one of its replicas.  [default: 1 USD/h]")
@click.option("--cold-start", metavar="S", help="Until a replica is ready.  [default: 60]")
@click.option("--offers", "offers_path", metavar="OFFERS.csv", help="Machines of clouds that may be rented.")
@click.option(
    "--policies", "policies_path", metavar="DIR", help="Policy documents to apply before it starts."
)
@click.option("--policy", metavar="NAME", help="The PlacementPolicy to use, or a strategy: pack, spread.")
@click.option("--seed", type=int, default=0, help="Kept for what will draw lots; nothing does yet.")
@click.option("--until", metavar="S", help="Stop at this second; what is not done stays as it is.")
@click.option("--drop-unplaced", is_flag=True, help="A job that cannot start when it arrives is gone.")
@click.option("--out-jobs", "out_jobs", metavar="FILE", help="Write one CSV row for each job.")
@click.option("--timing", is_flag=True, help="Fill cpu_s and cycle_ms, which differ from run to run.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Output format.")
def _command(
    jobs_path: str | None,
    nodes_path: str | None,
    replay_path: str | None,
    service_path: str | None,
    load_path: str | None,
    price: str | None,
    cold_start: str | None,
    offers_path: str | None,
    policies_path: str | None,
    policy: str | None,
    seed: int,
    until: str | None,
    drop_unplaced: bool,
    out_jobs: str | None,
    timing: bool,
    output: str,
) -> int:
    """Run the scheduler, budgets and ledger on a recorded workload under a virtual clock.

    Same input, same bytes: what is measured with a clock is printed with --timing only. Second 0 is
    2026-01-01T00:00:00Z, from which budget periods are cut. Exit code 1 when an invariant was broken, or a
    replay makes another plan than the file holds.

    Example: bursar sim --jobs jobs.csv --nodes nodes.csv --policies policies/ -o json
    """
    if replay_path is not None:
        return _replay(replay_path, output)
    if service_path is not None:
        return _serve(service_path, load_path, price, cold_start, output)
    if load_path is not None or price is not None or cold_start is not None:
        raise InvalidRequest("--load, --price and --cold-start are of a --service")
    if jobs_path is None or nodes_path is None:
        raise InvalidRequest("--jobs and --nodes are needed: a workload and a cluster to run it on")
    if [jobs_path, nodes_path, offers_path].count("-") > 1:
        raise InvalidRequest("standard input can be read once; name a file for the other")
    if out_jobs is not None and not Path(out_jobs).resolve().parent.is_dir():
        raise InvalidRequest(f"--out-jobs {out_jobs}: there is no such folder")
    documents = _documents(policies_path, policy)
    offers = read_offers(offers_path) if offers_path is not None else []
    documents = _with_pool(documents, offers)
    currency = _currency(documents)
    simulation = Simulation(
        read_jobs(jobs_path),
        read_nodes(nodes_path, some=not offers),
        documents,
        currency=currency,
        until_us=_until(until),
        drop_unplaced=drop_unplaced,
        offer_rows=offers,
    )
    began = time.process_time()
    try:
        simulation.run()
    except InvariantViolation as problem:
        # The state itself refused: what is summed up so far is shown, and the run counts as broken.
        simulation.checks.broken(str(problem))
    found = summary.summarize(simulation, time.process_time() - began, timing)
    if out_jobs is not None:
        Path(out_jobs).write_text(summary.jobs_csv(simulation.runs), encoding="utf-8", newline="")
    text = (
        summary.table(found)
        if output == "table"
        else msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    )
    click.echo(text)
    for sentence in simulation.checks.found:
        click.echo(f"broken: {sentence}", err=True)
    return 1 if simulation.checks.count else 0


def _serve(path: str, load: str | None, price: str | None, cold_start: str | None, output: str) -> int:
    """A service has no workload and no cluster: flags of those are refused."""
    _alone("--service", ("service_path", "load_path", "price", "cold_start", "output"))
    if load is None:
        raise InvalidRequest("--load is needed: what is asked of the service")
    spec = parse_job(csvfile.read_bytes(path), path, str(Path(path).parent))
    if spec.service is None:
        raise InvalidRequest(f"{path}: is no service; its file says type: service")
    rate, currency = serving.price_of(price or "1 USD/h")
    cold_us = _seconds("--cold-start", cold_start or "60")
    found = serving.told(spec.service, serving.read_load(load), cold_us // SECOND_US, rate, currency)
    if output == "table":
        click.echo(serving.table(found))
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    return 0


def _alone(flag: str, mine: Sequence[str]) -> None:
    given = click.get_current_context()
    others = [
        f"--{name.removesuffix('_path').replace('_', '-')}"
        for name in given.params
        if name not in mine and given.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if others:
        raise InvalidRequest(f"{flag} takes none of these beside it; leave out {', '.join(others)}")


def _seconds(flag: str, text: str) -> int:
    try:
        return seconds_us(text.strip())
    except BadCell as problem:
        raise InvalidRequest(f"{flag}: {problem}") from None


def _replay(path: str, output: str) -> int:
    """Only what decides is read from the file, so other flags would be ignored: they are refused."""
    given = click.get_current_context()
    others = [
        f"--{name.removesuffix('_path').replace('_', '-')}"
        for name in given.params
        if name not in ("replay_path", "output")
        and given.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if others:
        raise InvalidRequest(f"--replay takes everything from its file; leave out {', '.join(others)}")
    saved, found = replay(path)
    if output == "table":
        click.echo(table(saved, found))
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    return 1 if found.same is False else 0


def _until(text: str | None) -> int | None:
    return None if text is None else _seconds("--until", text)


# ------------------------------------------------------------------ policies


def _documents(path: str | None, policy: str | None) -> tuple[Document, ...]:
    """What is in force from second 0 on; of the PlacementPolicies, the one chosen."""
    found = _in_force(_read_folder(path)) if path is not None else ()
    if policy is None:
        return found
    others = tuple(one for one in found if not isinstance(one.spec, PlacementPolicySpec))
    return (*others, _placement(found, policy))


def _placement(found: Sequence[Document], policy: str) -> Document:
    known = {one.name: one for one in (*_shipped(), *found) if isinstance(one.spec, PlacementPolicySpec)}
    if policy in known:
        return known[policy]
    if policy in STRATEGIES:
        text = f"kind: PlacementPolicy\nname: {policy}\nspec:\n  strategy: {policy}\n"
        return parse_documents(text, "--policy")[0]
    names = sorted({*known, *STRATEGIES})
    near = nearest(policy, names)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(names)}"
    raise InvalidRequest(f"--policy {policy[:60]!r} is not a PlacementPolicy or a strategy; {hint}")


def _shipped() -> tuple[Document, ...]:
    names = sorted(catalog_dir().glob("placement-*.yaml"))
    return parse_files([(path.name, path.read_bytes()) for path in names])


def _read_folder(path: str) -> tuple[Document, ...]:
    folder = Path(path)
    if not folder.is_dir():
        raise InvalidRequest(f"--policies {path}: is not a folder")
    files = sorted(one for one in folder.rglob("*") if one.suffix in (".yaml", ".yml") and one.is_file())
    if not files:
        raise InvalidRequest(f"--policies {path}: there is no .yaml file in this folder")
    if len(files) > FILES_MAX:
        raise InvalidRequest(f"--policies {path}: {len(files)} files; at most {FILES_MAX}")
    try:
        if (large := next((one for one in files if one.stat().st_size > POLICY_BYTES_MAX), None)) is not None:
            raise InvalidRequest(f"{large}: is over {POLICY_BYTES_MAX >> 20} MiB")
        return parse_files([(str(one), one.read_bytes()) for one in files])
    except OSError as problem:
        raise InvalidRequest(f"{problem.filename}: {problem.strerror or problem}") from None


def _with_pool(documents: Sequence[Document], offers: Sequence[OfferRow]) -> tuple[Document, ...]:
    """With a pool of all offers, where they have none. Raises `InvalidRequest` for a pool without offers."""
    pool = next((one for one in documents if isinstance(one.spec, CloudPoolSpec)), None)
    if offers:
        return (*documents, *(() if pool is not None else (pool_of(offers),)))
    if pool is not None:
        raise InvalidRequest(
            f"{pool.source}:{pool.line}: CloudPool {pool.name}: a simulation rents what --offers has; name a"
            " file with offers, or leave the document out"
        )
    return tuple(documents)


def _in_force(documents: Sequence[Document]) -> tuple[Document, ...]:
    """Versions belong to a running cluster, and what took effect before second 0 holds from there on."""
    return tuple(
        msgspec.structs.replace(
            one,
            version=None,
            effective_at=one.effective_at if one.effective_at and one.effective_at > START_AT else None,
        )
        for one in documents
    )


def _currency(documents: Sequence[Document]) -> str:
    """That of the first document that names one; others are refused when they are applied."""
    for one in documents:
        if isinstance(one.spec, BudgetSpec):
            return one.spec.limit.currency
        if isinstance(one.spec, CostModelSpec):
            return one.spec.node_capex.currency
        if isinstance(one.spec, PriceBookSpec):
            return one.spec.currency
    return "USD"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
