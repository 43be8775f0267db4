"""What fits into a budget: fewer seeds first, then fewer experiments; never fewer steps, never another rule. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from normkit.claims.experiment import Condition, Job
from normkit.claims.trials import FEWEST_SEEDS

# Of more seeds than the quick tier has not so few are kept: with them experiments would take its coarser grids, too.
_FEWEST_OF_MORE = FEWEST_SEEDS + 1


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        jobs: by experiment, the experiments in the order in which they are run; those left out are not there.
        most_seeds: seeds of each condition, at most; None where nothing was reduced.
        left_out: experiments that do not fit.
    """

    jobs: Mapping[str, tuple[Job, ...]]
    most_seeds: int | None
    left_out: tuple[str, ...]


def fit(
    wanted: Mapping[str, Sequence[Job]],
    cost_s: Callable[[Job], float],
    seconds: float,
    *,
    most_seeds: int | None = None,
    begun: Set[str] = frozenset(),
) -> Plan:
    """The largest plan that takes no longer.

    Args:
        wanted: every job of each experiment, the experiments in their order.
        cost_s: seconds of work that a job still takes; 0 for one that is done.
        seconds: of work, over all workers together; infinity for no limit.
        most_seeds: a reduction decided on before, which is never taken back, so that no work is begun in vain.
        begun: experiments that are not left out any more.
    """
    most = _most_seeds(wanted)
    least = _FEWEST_OF_MORE if most > FEWEST_SEEDS else most
    for n_seeds in range(min(most, most_seeds or most), least - 1, -1):
        jobs = {id_: reduced(some, n_seeds) for id_, some in wanted.items()}
        if math.fsum(cost_s(job) for some in jobs.values() for job in some) <= seconds or n_seeds == least:
            break
    else:
        return Plan({}, None, ())
    left_s, kept = seconds, {}
    for id_ in sorted(jobs, key=lambda id_: id_ not in begun):  # stable: those begun first, else as they come
        cost = math.fsum(map(cost_s, jobs[id_]))
        if id_ in begun or cost <= left_s or not cost:
            kept[id_] = jobs[id_]
            left_s -= cost
    in_order = {id_: kept[id_] for id_ in jobs if id_ in kept}
    return Plan(in_order, n_seeds if n_seeds < most else None, tuple(id_ for id_ in jobs if id_ not in kept))


def reduced(jobs: Sequence[Job], n_seeds: int) -> tuple[Job, ...]:
    """The same jobs with the first seeds of each condition only: the same ones for all, so that pairs stay pairs."""
    kept = {conditions: sorted(seeds)[:n_seeds] for conditions, seeds in _seeds_of(jobs).items()}
    fewer = (replace(job, seeds=tuple(seed for seed in job.seeds if seed in kept[job.conditions])) for job in jobs)
    return tuple(job for job in fewer if job.seeds)


def cuts(wanted: Mapping[str, Sequence[Job]], plan: Plan, why: str) -> tuple[str, ...]:
    """What a plan leaves out, a sentence each."""
    sentences = []
    if plan.most_seeds is not None:
        sentences.append(f"At most {plan.most_seeds} seeds instead of {_most_seeds(wanted)}, {why}.")
    if plan.left_out:
        sentences.append(f"Left out {why}: {', '.join(plan.left_out)}.")
    return tuple(sentences)


def _seeds_of(jobs: Sequence[Job]) -> Mapping[tuple[tuple[str, Condition], ...], set[int]]:
    found: dict[tuple[tuple[str, Condition], ...], set[int]] = defaultdict(set)
    for job in jobs:
        found[job.conditions].update(job.seeds)
    return found


def _most_seeds(wanted: Mapping[str, Sequence[Job]]) -> int:
    return max((len(seeds) for jobs in wanted.values() for seeds in _seeds_of(jobs).values()), default=0)
