"""From the finished runs of a cell to its row of the answer: scores, winners and a line of advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from normkit.lab.comparison import Cell, Interval, Score
from normkit.lab.records import RunRecord
from normkit.lab.schedule import Arm, Schedule, Stage, is_finite
from normkit.lab.statistics import Contest, contest, interval

# How a norm with running statistics was scored -> the end of the metric's name.
EVALUATIONS = {"running": "", "batch": "_batch", "recomputed": "_recomputed"}


def build_cell(name: str, arms: Sequence[Arm], schedule: Schedule) -> Cell:
    """The row of a cell.

    Only norms that finished all their evaluation runs can win or tie: a run that diverged is an outcome, and a
    mean over the runs that did not would hide it. While any norm of the cell still lacks runs, nobody wins.
    """
    evaluated = {arm.norm: _evaluated(schedule.used(arm)) for arm in arms}
    stages = {arm.norm: schedule.stage(arm) for arm in arms}
    is_complete = all(stage.status != "not-run" for stage in stages.values())
    losses = {
        norm: [record.metrics["test_nll"] for record in evaluated[norm]]
        for norm, stage in stages.items()
        if stage.status == "done"
    }
    found = contest(losses) if is_complete else None
    scores = tuple(_score(arm, stages[arm.norm], evaluated[arm.norm], found) for arm in arms)
    return Cell(
        task=name,
        batch_size=arms[0].batch_size,
        scores=scores,
        winners=found.winners if found else (),
        advice=advice(scores, found),
    )


def _evaluated(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The evaluation runs that came to an end, by seed."""
    ended = (r for r in records if r.spec.role == "evaluate" and r.status in ("done", "diverged"))
    return sorted(ended, key=lambda record: record.spec.seed)


def _score(arm: Arm, stage: Stage, evaluated: Sequence[RunRecord], found: Contest | None) -> Score:
    finished = [record for record in evaluated if is_finite(record)]
    if stage.status == "not-run":
        return Score(arm.norm, "not-run", _what_is_missing(arm, stage, len(evaluated)), steps=arm.steps)
    versus = found.versus_best.get(arm.norm) if found else None
    return Score(
        norm=arm.norm,
        status=stage.status,
        message=stage.message,
        learning_rate=stage.learning_rate,
        tuning_complete=stage.tuning_complete,
        nll=_interval_of("test_nll", finished),
        accuracy=_interval_of("test_accuracy", finished),
        n_diverged=len(evaluated) - len(finished),
        n_runs=len(evaluated),
        difference=versus.difference if versus else None,
        p_adjusted=versus.p_adjusted if versus else None,
        unclear=found is not None and arm.norm in _unclear(found),
        p_sign_flip=versus.p_sign_flip if versus else None,
        evaluations=_evaluations(finished),
        ms_per_step=median(r.ms_per_step for r in evaluated) if evaluated else None,
        steps=arm.steps,
        epochs=fmean(r.epochs for r in finished) if finished else 0.0,
    )


def _what_is_missing(arm: Arm, stage: Stage, n_evaluated: int) -> str:
    if stage.learning_rate is None:
        return "its learning rate was not tuned yet"
    return f"{n_evaluated} of {arm.n_seeds} evaluation runs finished"


def _interval_of(metric: str, records: Sequence[RunRecord]) -> Interval | None:
    return interval([record.metrics[metric] for record in records if metric in record.metrics])


def _evaluations(finished: Sequence[RunRecord]) -> dict[str, Interval]:
    """Test NLL under each kind of statistics; empty for norms that have only one."""
    found = {kind: _interval_of(f"test_nll{end}", finished) for kind, end in EVALUATIONS.items()}
    known = {kind: value for kind, value in found.items() if value is not None}
    return known if len(known) > 1 else {}


def advice(scores: Sequence[Score], found: Contest | None) -> str:
    """One plain line on what to use, which claims nothing that the scores do not show."""
    by_norm = {score.norm: score for score in scores}
    waiting = [score for score in scores if score.status == "not-run"]
    if waiting:
        return f"Not finished: {_join(score.norm for score in waiting)} still to run. The same command goes on."
    if all(score.status == "impossible" for score in scores):
        return f"{_capital(_join(_called(score.norm) for score in scores))}: impossible at this batch size."
    troubles = "".join(f" {_trouble(score)}" for score in scores if score.status != "done")
    if found is None:
        return f"No norm finished all its runs.{troubles}"
    return _verdict(by_norm, found) + troubles + _doubts(by_norm, found)


def _verdict(by_norm: Mapping[str, Score], found: Contest) -> str:
    """Ties with how far apart the means are: not to be told apart is not the same as equal."""
    best = _called(found.best)
    if not found.versus_best:
        return f"{_capital(best)} is the only one that finished all its runs."
    gaps = sorted((versus.difference.mean, norm) for norm, versus in found.versus_best.items())
    unclear = _unclear(found)
    ties = _join(f"{_called(norm)} (+{gap:.2g})" for gap, norm in gaps if norm in found.winners and norm not in unclear)
    doubtful = [f"{_called(norm)} (+{gap:.2g})" for gap, norm in gaps if norm in unclear]
    losers = [(gap, _called(norm)) for gap, norm in gaps if norm not in found.winners]
    # "a is 0.2 nats worse, b 0.3 and c 0.7"
    behind = _join(
        f"{norm} {gap:.2g}" if n else f"{norm} is {gap:.2g} nats worse" for n, (gap, norm) in enumerate(losers)
    )
    if not ties and not doubtful:
        return f"Use {best}: {behind}."
    told = f"Use {best} (lowest mean)"
    if ties:
        told += f"; at {by_norm[found.best].n_runs} seeds {ties} cannot be told from it"
    if doubtful:
        verb = "is" if len(doubtful) == 1 else "are"
        told += f"; {_join(doubtful)} {verb} worse, though not beyond what so many comparisons turn up by chance"
    return f"{told}. {_capital(behind)}." if behind else f"{told}."


def _unclear(found: Contest) -> set[str]:
    """Norms that the correction for many comparisons leaves beside the best, though their own interval does not."""
    differences = {norm: versus.difference for norm, versus in found.versus_best.items() if norm in found.winners}
    return {norm for norm, difference in differences.items() if difference.low is not None and difference.low > 0}


def _trouble(score: Score) -> str:
    name = _capital(_called(score.norm))
    if score.status == "diverged" and score.n_runs:
        return f"{name} diverged in {score.n_diverged} of {score.n_runs} runs."
    if score.status == "diverged":
        return f"{name} diverged at every learning rate tried."
    return f"{name} is impossible here." if score.status == "impossible" else f"{name} failed."


def _doubts(by_norm: Mapping[str, Score], found: Contest) -> str:
    unsure = [norm for norm in by_norm if by_norm[norm].status == "done" and not by_norm[norm].tuning_complete]
    if not unsure:
        return ""
    return f" The best learning rate of {_join(map(_called, unsure))} may lie beyond those tried."


def _called(norm: str) -> str:
    """The norm inside a sentence: "use none" would be read as advice against everything."""
    return "no normalization" if norm == "none" else norm


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _join(parts: Iterable[str]) -> str:
    """A list in words: "a, b and c"; nothing for nothing."""
    words = list(parts)
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
