"""``run``: put the claims to the test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from normkit.claims.archive import Archive, changed_rules
from normkit.claims.claim import Claim
from normkit.claims.code import code_hash
from normkit.claims.costs import Costs
from normkit.claims.experiment import TIERS, Job, Measurement, Tier
from normkit.claims.experiments import experiment, files
from normkit.claims.planning import Plan, cuts, reduced
from normkit.claims.records import JOBS, JobRecord, JobSpec
from normkit.claims.register import claim, evidence_hash, register
from normkit.claims.rulebook import rulebook, rules_hash
from normkit.claims.runner import Runner
from normkit.claims.verdicts import Verdicts, decide, named
from normkit.claims.work import MEASURE
from normkit.errors import ArgumentError
from normkit.lab.comparison import Progress
from normkit.lab.engines.base import Engine
from normkit.lab.engines.choice import check_engine, start_engine
from normkit.lab.extras import require
from normkit.lab.norms import nearest, one_of
from normkit.lab.planning import format_duration, parse_duration
from normkit.lab.provenance import environment, timestamp
from normkit.lab.store import Store

BUDGETS: Mapping[Tier, str] = {"instant": "1m", "quick": "3m", "full": "60m"}

# Kept back from the budget for ending the workers and for the verdicts.
RESERVE_S = 1.0


def run(
    tier: Tier = "quick",
    *,
    claims: Sequence[str] | None = None,
    budget: str | float | None = "",
    engine: str | Engine[JobSpec, JobRecord] = "local",
    address: str | None = None,
    workers: int | None = None,
    store: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    spent_s: float = 0.0,
) -> Verdicts:
    """Put what is said about BatchNorm and LayerNorm to the test on this machine.

    The experiments of a tier are measured in worker processes, those that tell most a second first; then rules that
    were fixed before are applied to the measurements. What does not fit into the budget is cut: seeds first, down to
    5, then whole experiments, never steps or rules; every cut is a sentence in ``cut``.

    Ctrl-C ends the work and returns the verdicts on what is finished, marked ``interrupted``. Each finished job is in
    the store by then: the same call takes up where this one stopped.

    Args:
        tier: "instant" for what can be computed exactly, "quick" for 5 seeds, "full" for 12.
        claims: ids, "001-03"; None for all.
        budget: the longest time to work, "90s", "3m" or seconds; "" for the tier's own (1m, 3m, 60m), None for no
            limit. With 0 nothing is measured: the verdicts are those of what the store holds.
        engine: "local" for worker processes, "ray" for a cluster, or an engine object, which is closed at the end.
        address: of an existing Ray cluster; None starts one on this machine.
        workers: jobs at once; None for one a core.
        store: file of finished jobs, made if there is none; None keeps them in memory only.
        on_progress: called with a snapshot whenever something happens, at least twice a second.
        spent_s: seconds of the budget that are gone already, or kept for what the caller does with the verdicts.

    Raises:
        ArgumentError: an argument has a value that is not known or not possible.
        StoreError: the store cannot be used, or its disk is full; what finished before is safe.
        EngineError, MissingExtraError: the engine cannot be started.

    Example:
        >>> verdicts = run("instant", claims=["001-06"])  # doctest: +SKIP
        >>> verdicts.verdicts[0].evidence  # doctest: +SKIP
        'holds'
    """
    started_at, started = timestamp(), time.monotonic()
    if tier not in TIERS:
        raise ArgumentError(f"claims: expected a tier of {one_of(TIERS)}, got {tier!r}{nearest(str(tier), TIERS)}")
    check_engine(engine, address, call="claims")
    chosen = [claim(id_) for id_ in dict.fromkeys(claims)] if claims is not None else list(register().values())
    asked = BUDGETS[tier] if budget == "" else budget
    budget_s = math.inf if asked is None else parse_duration(asked)
    require("scipy.special", extra="lab", call="claims")
    wanted = wanted_jobs(chosen, tier)
    with Store(store, JOBS) as kept:
        hashes = {id_: code_hash(id_) for id_ in wanted}
        records = list(kept.records(hashes.values()))
        archive = Archive(records)
        is_needed = budget_s > 0 and not all(archive.covers(job) for jobs in wanted.values() for job in jobs)
        ends_at = started - spent_s + budget_s - min(RESERVE_S, 0.05 * budget_s)
        interrupted = False
        with start_engine(
            engine, MEASURE, JOBS, workers=workers, address=address, is_needed=is_needed, call="claims"
        ) as at_work:
            runner = Runner(wanted, at_work, kept, archive, Costs(records), ends_at, on_progress)
            try:
                if is_needed:
                    runner.work()
            except KeyboardInterrupt:
                interrupted = True
        n_foreign = kept.n_foreign({code_hash(id_) for id_ in files()})
    jobs = [job for some in wanted.values() for job in some]
    measurements = archive.measurements(jobs)
    verdicts, findings = decide(chosen, rulebook(), measurements + _missing(wanted, runner.plan.most_seeds, archive))
    used = archive.records(jobs)
    n_computed = len(runner.computed)
    return Verdicts(
        verdicts=verdicts,
        findings=findings,
        measurements=measurements,
        records=tuple(used),
        experiments={id_: (experiment(id_).title, experiment(id_).question) for id_ in wanted},
        tier=tier,
        cut=_cut(wanted, runner, archive, asked, budget_s, interrupted=interrupted),
        notes=changed_rules(used) + _foreign(n_foreign, store),
        failures=tuple(f"{_named(job)} failed: {message}" for job, message in runner.failed.items()),
        interrupted=interrupted,
        n_computed=n_computed,
        n_resumed=len(used) - n_computed,
        wall_s=time.monotonic() - started,
        provenance=provenance(used, started_at) | {"budget": "none" if asked is None else str(asked)},
    )


def wanted_jobs(claims: Sequence[Claim], tier: Tier) -> dict[str, tuple[Job, ...]]:
    """The jobs of a tier by experiment, of those experiments that decide any of these claims."""
    rules = rulebook()
    asked = named(rule for claim in claims for rule in claim.conditions)
    needed = {rules[id_].experiment for id_ in asked if id_ in rules}
    found = {id_: tuple(experiment(id_).jobs(tier)) for id_ in files() if id_ in needed}
    return {id_: jobs for id_, jobs in found.items() if jobs}


def provenance(records: Sequence[JobRecord], at: str) -> dict[str, Any]:
    """Machines and versions of some records, and the rules by which they were judged."""
    machines = {
        tuple(sorted((k, str(r.provenance.get(k))) for k in ("platform", "processor", "cores"))) for r in records
    }
    here = environment()
    first = records[0].provenance if records else here
    times = sorted((str(r.provenance["started_at"]), r.wall_s) for r in records if r.provenance.get("started_at"))
    ends = [datetime.fromisoformat(began) + timedelta(seconds=wall_s) for began, wall_s in times]
    return {
        "versions": first.get("versions", here["versions"]),
        **{name: first.get(name, here[name]) for name in ("platform", "processor", "cores")},
        "n_machines": len(machines),
        "measured_from": times[0][0] if times else "",
        "measured_to": times[-1][0] if times else "",
        "elapsed_s": (max(ends) - datetime.fromisoformat(times[0][0])).total_seconds() if times else 0.0,
        "judged_at": at,
        "rules_hash": rules_hash(),
        "evidence_hash": evidence_hash(),
        "measured_s": math.fsum(record.wall_s for record in records),
    }


def _missing(wanted: Mapping[str, Sequence[Job]], most_seeds: int | None, archive: Archive) -> tuple[Measurement, ...]:
    """What was to be measured and was not: a trend could still turn there, and a search find its counterexample.

    Seeds that the budget cuts before anything is known were not to be measured.
    """
    jobs = [job for some in wanted.values() for job in (some if most_seeds is None else reduced(some, most_seeds))]
    known = {(m.experiment, m.conditions, m.seed) for m in archive.measurements(jobs)}
    return tuple(
        Measurement(job.experiment, job.conditions, seed, "failed", message="not measured")
        for job in jobs
        for seed in job.seeds
        if (job.experiment, job.conditions, seed) not in known
    )


def _cut(
    wanted: Mapping[str, Sequence[Job]],
    runner: Runner,
    archive: Archive,
    budget: str | float | None,
    budget_s: float,
    *,
    interrupted: bool,
) -> tuple[str, ...]:
    """What is not in the verdicts, though asked for: a sentence each."""
    plan: Plan = runner.plan
    unfinished = [
        id_ for id_, jobs in plan.jobs.items() if not all(archive.covers(job) or job in runner.failed for job in jobs)
    ]
    all_of_it = [id_ for id_, jobs in wanted.items() if not all(map(archive.covers, jobs))]
    if not budget_s:
        return (f"Nothing was to be measured; not in the store: {', '.join(all_of_it)}.",) if all_of_it else ()
    words = budget if isinstance(budget, str) else format_duration(budget_s) if budget_s < math.inf else ""
    said = cuts(wanted, plan, f"to fit the budget of {words}") if not interrupted else ()
    if unfinished:
        when = "it was interrupted" if interrupted else f"the budget of {words} ended"
        said += (f"Not finished when {when}: {', '.join(unfinished)}. The same command goes on with it.",)
    if all_of_it and not runner.computed and not interrupted and not runner.failed:
        said += (f"Nothing could be measured within the budget of {words}; take a longer one or another tier.",)
    return said


def _foreign(n: int, store: str | Path | None) -> tuple[str, ...]:
    if not n:
        return ()
    jobs = "1 job is" if n == 1 else f"{n} jobs are"
    return (f"{jobs} of other code or another version of normkit in {store}: left as they are, and not used.",)


def _named(job: Job) -> str:
    return ", ".join((job.experiment, *(f"{name} {value}" for name, value in job.conditions)))
