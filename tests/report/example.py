"""A made-up comparison with everything in it: clear wins, ties, diverged, impossible, failed and missing runs."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass

from normkit.lab.comparison import Cell, Comparison, Interval, Score, TaskInfo
from normkit.lab.records import RunRecord, RunSpec

NORMS = ("none", "batch", "layer", "rms", "group", "instance")
BATCH_SIZES = (1, 4, 64)
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (1000, 1001)
STEPS = {1: 1200, 4: 600, 64: 300}
HOSTILE_NAME = "<img src=x onerror=alert(1)></script>"

# Test NLL of each norm without noise, for the batch sizes in order.
TRUTH = {
    "digits-mlp": {
        "none": (0.19, 0.18, 0.20),
        "batch": (None, 0.34, 0.11),
        "layer": (0.16, 0.14, 0.15),
        "rms": (0.165, 0.142, 0.151),
        "group": (0.17, 0.15, 0.16),
    },
    "digits-cnn": {
        "none": (0.30, 0.22, 0.24),
        "batch": (None, 0.20, 0.041),
        "layer": (0.13, 0.10, 0.12),
        "rms": (0.14, 0.11, 0.13),
        "group": (0.09, 0.07, 0.08),
        "instance": (0.21, 0.16, 0.15),
    },
    "digits-lstm": {
        "none": (0.52, 0.41, 0.47),
        "batch": (None, 0.62, 0.33),
        "layer": (0.25, 0.21, 0.24),
        "rms": (0.26, 0.215, 0.241),
        "group": (0.29, 0.24, 0.26),
    },
    "digits-transformer": {
        "none": (1.10, 0.72, 0.64),
        "batch": (None, 0.81, 0.30),
        "layer": (0.34, 0.28, 0.27),
        "rms": (0.33, 0.279, 0.272),
        "group": (0.36, 0.31, 0.29),
    },
}
DESCRIPTIONS = {
    "digits-mlp": "Two hidden layers of 64 units on the 8×8 digits.",
    "digits-cnn": "Three convolutions and global average pooling on the 8×8 digits.",
    "digits-lstm": "An LSTM that reads each digit row by row, the norm inside its cell.",
    "digits-transformer": "Two pre-norm blocks of width 32 that read each digit row by row.",
}
DIVERGED_SEEDS = {("digits-lstm", 4, "none"): (1, 3), ("digits-transformer", 1, "none"): SEEDS}
NOT_RUN = {("digits-transformer", 64, "instance"), ("digits-lstm", 64, "group")}
FAILED = {("digits-transformer", 64, "group"): "the worker died three times; see its last line: Killed"}
EDGE = {("digits-mlp", 1, "none")}
NO_MAP = "instance normalizes over positions, and the hidden layers of this model have none"
ONE_VALUE = "batch needs more than one value per channel to train, got batch size 1; use 2 or more"
PROVENANCE = {
    "normkit": "0.1.0",
    "versions": {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.6"},
    "machine": "Linux x86_64, 2 cores",
    "engine": "local, 2 workers, one thread each",
    "seeds": {"evaluation": list(SEEDS), "tuning": list(TUNING_SEEDS)},
    "budget": "3m",
    "started_at": "2030-01-02T03:04:05+00:00",
    "protocol": [
        "The learning rate is tuned for each norm and batch size on validation data.",
        "The same seed gives every norm the same initial weights, data order and split.",
    ],
}


@dataclass
class _Builder:
    """Draws every run from one generator, in a fixed order."""

    noise: random.Random

    def record(self, spec: RunSpec, truth: float, diverges: bool) -> RunRecord:
        """One run: its loss decays to somewhere below the truth, or blows up half-way."""
        if diverges:
            half = spec.steps // 2
            curve = tuple((s, 2.3 + (s / half) ** 6 * 40) for s in range(0, half + 1, max(half // 12, 1)))
            return RunRecord(spec, "diverged", "the loss became nan", {}, curve, half, 1.5, 0.9, 1.1)
        # Splits differ in difficulty for all norms alike; a run adds a little of its own.
        nll = truth * (1 + 0.05 * math.sin(7 * spec.seed)) * self.noise.gauss(1.0, 0.02)
        metrics = {"val_nll": nll * 1.02, "val_accuracy": math.exp(-nll / 3)}
        if spec.role == "evaluate":
            metrics |= {"test_nll": nll, "test_accuracy": math.exp(-nll / 3)}
            if spec.norm == "batch":
                small = 1 + 2 / spec.batch_size
                metrics |= {"test_nll_batch": nll * small, "test_nll_recomputed": nll * 0.8}
                metrics |= {"test_accuracy_batch": math.exp(-nll * small / 3)}
                metrics |= {"test_accuracy_recomputed": math.exp(-nll * 0.8 / 3)}
        floor = nll * 0.4
        curve = tuple(
            (s, floor + (2.3 - floor) * math.exp(-6 * s / spec.steps) * self.noise.gauss(1.0, 0.12))
            for s in range(0, spec.steps + 1, max(spec.steps // 30, 1))
        )
        ms = 0.4 + 0.1 * NORMS.index(spec.norm) ** 0.5 + spec.batch_size / 100
        return RunRecord(
            spec, "done", "", metrics, curve, spec.steps, spec.steps * spec.batch_size / 1000, ms, 2.0,
            {"threads": 1},
        )  # fmt: skip


def example_comparison(*, rename: dict[str, str] | None = None, interrupted: bool = False) -> Comparison:
    """The whole example; ``rename`` gives tasks other names."""
    names = rename or {}
    builder = _Builder(random.Random(20300102))
    cells: list[Cell] = []
    records: list[RunRecord] = []
    for task, truths in TRUTH.items():
        for place, batch_size in enumerate(BATCH_SIZES):
            runs = {
                norm: _runs(builder, task, names.get(task, task), batch_size, norm, truths[norm][place])
                for norm in NORMS
                if norm in truths and truths[norm][place] is not None
            }
            records.extend(record for group in runs.values() for record in group)
            cells.append(_cell(task, names.get(task, task), batch_size, runs))
    return Comparison(
        tasks=tuple(
            TaskInfo(names.get(task, task), DESCRIPTIONS[task], {n: 4810 + 128 * i for i, n in enumerate(NORMS)})
            for task in TRUTH
        ),
        norms=NORMS,
        batch_sizes=BATCH_SIZES,
        cells=tuple(cells),
        records=tuple(records),
        cut=("digits-lstm, batch 64: group was left out to stay within 3m.", "One tuning seed instead of two."),
        n_resumed=42,
        n_computed=len(records) - 42,
        wall_s=171.4,
        interrupted=interrupted,
        provenance=PROVENANCE,
    )


def _runs(builder: _Builder, task: str, name: str, batch_size: int, norm: str, truth: float) -> list[RunRecord]:
    """Tuning runs over the grid, then evaluation runs at the best learning rate."""
    if (task, batch_size, norm) in NOT_RUN or (task, batch_size, norm) in FAILED:
        return []
    best = LEARNING_RATES[3] if (task, batch_size, norm) in EDGE else LEARNING_RATES[1 + (batch_size > 4)]
    runs = []
    for rate in LEARNING_RATES:
        for seed in TUNING_SEEDS:
            spec = RunSpec(name, "0" * 64, norm, batch_size, rate, seed, "tune", STEPS[batch_size])
            away = 1 + 0.6 * math.log10(rate / best) ** 2
            runs.append(builder.record(spec, truth * away, rate == 3e-2 and norm == "none" and rate != best))
    for seed in SEEDS:
        spec = RunSpec(name, "0" * 64, norm, batch_size, best, seed, "evaluate", STEPS[batch_size])
        runs.append(builder.record(spec, truth, seed in DIVERGED_SEEDS.get((task, batch_size, norm), ())))
    return runs


def _cell(task: str, name: str, batch_size: int, runs: dict[str, list[RunRecord]]) -> Cell:
    evaluated = {norm: [r for r in group if r.spec.role == "evaluate"] for norm, group in runs.items()}
    means = {
        norm: statistics.fmean(r.metrics["test_nll"] for r in group)
        for norm, group in evaluated.items()
        if group and all(r.status == "done" for r in group)
    }
    best = min(means, key=lambda norm: means[norm])
    scores = tuple(_score(task, batch_size, norm, evaluated, best) for norm in NORMS)
    winners = tuple(s.norm for s in scores if s.norm == best or (s.p_adjusted or 0.0) > 0.05)
    if len(winners) == 1:
        advice = f"Use {best}: it beats every other norm here."
    else:
        advice = f"{' and '.join(winners)} cannot be told apart; take the cheaper."
    return Cell(name, batch_size, scores, winners, advice)


def _score(task: str, batch_size: int, norm: str, evaluated: dict[str, list[RunRecord]], best: str) -> Score:
    cell = (task, batch_size, norm)
    if norm not in TRUTH[task]:
        return Score(norm, "impossible", NO_MAP)
    if cell in FAILED:
        return Score(norm, "failed", FAILED[cell], learning_rate=1e-2, n_runs=5)
    if cell in NOT_RUN:
        return Score(norm, "not-run", "cut to fit the budget")
    if norm not in evaluated:
        return Score(norm, "impossible", ONE_VALUE)
    runs = evaluated[norm]
    done = [r for r in runs if r.status == "done"]
    steps, epochs = runs[0].spec.steps, runs[0].spec.steps * batch_size / 1000
    if not done:
        return Score(
            norm, "diverged", "the loss became nan", runs[0].spec.learning_rate, True, n_diverged=len(runs),
            n_runs=len(runs), steps=steps, epochs=epochs, ms_per_step=0.9,
        )  # fmt: skip
    rivals = {r.spec.seed: r for r in evaluated[best]}
    differences = [r.metrics["test_nll"] - rivals[r.spec.seed].metrics["test_nll"] for r in done]
    compared = norm != best and len(done) == len(runs)
    gap = interval(differences)
    evaluations = {}
    if norm == "batch":
        kinds = {"running": "test_nll", "batch": "test_nll_batch", "recomputed": "test_nll_recomputed"}
        evaluations = {kind: interval([r.metrics[key] for r in done]) for kind, key in kinds.items()}
    finished = len(done) == len(runs)
    return Score(
        norm,
        "done" if finished else "diverged",
        "" if finished else "the loss became nan",
        learning_rate=runs[0].spec.learning_rate,
        tuning_complete=cell not in EDGE,
        nll=interval([r.metrics["test_nll"] for r in done]),
        accuracy=interval([r.metrics["test_accuracy"] for r in done]),
        n_diverged=len(runs) - len(done),
        n_runs=len(runs),
        difference=gap if compared else None,
        p_adjusted=(0.004 if gap.low is not None and gap.low > 0 else 0.31) if compared else None,
        p_sign_flip=0.0625 if compared else None,
        evaluations=evaluations,
        ms_per_step=statistics.median(r.ms_per_step for r in done),
        steps=steps,
        epochs=epochs,
    )


def interval(values: list[float]) -> Interval:
    """The 95 % t-interval of the mean; enough quantiles for the sizes used here."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None, len(values))
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))
