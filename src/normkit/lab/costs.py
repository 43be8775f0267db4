"""How long runs take: learnt from runs, used to plan and to stop in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from normkit.lab.provenance import environment, same_machine
from normkit.lab.records import Role, RunRecord
from normkit.lab.schedule import Arm, Stage

# A run of this many steps tells what a step costs; the training loop times all after the first 5.
CALIBRATION_STEPS = 20

# Of the learning rates that tuning adds to its grid, this many are expected for each arm.
EXPECTED_ADDED_RATES = 1.0

# Scoring an evaluation run takes so many times as long as scoring a tuning run: two data sets, and three kinds
# of statistics on one of them.
EVALUATION_OVERHEAD = 3.0

# What is expected of a run of which nothing is known, and at least of any: a run that is missing is never free.
_UNKNOWN_S = 1.0
_LEAST_S = 1e-3


class Costs:
    """Predicts the duration of runs from runs of the same arm, or else of the same task."""

    def __init__(self, known: Iterable[RunRecord] = ()) -> None:
        self._step_s: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        self._overhead_s: dict[tuple[str, Role], list[float]] = defaultdict(list)
        self._wall_s: dict[tuple[str, str, int, Role, int], list[float]] = defaultdict(list)
        here = environment()
        for record in known:
            if same_machine(record.provenance, here):
                self.learn(record)

    def learn(self, record: RunRecord) -> None:
        """Take in how long a run took. Short ones count as well: they tell what a step and the rest cost."""
        spec = record.spec
        if record.status not in ("done", "diverged") or not record.steps_done:
            return
        step_s = record.ms_per_step / 1e3
        self._step_s[spec.task_hash, spec.norm, spec.batch_size].append(step_s)
        self._overhead_s[spec.task_hash, spec.role].append(max(0.0, record.wall_s - record.steps_done * step_s))
        if record.status == "done":
            self._wall_s[spec.task_hash, spec.norm, spec.batch_size, spec.role, spec.steps].append(record.wall_s)

    def knows(self, arm: Arm) -> bool:
        """Whether any run of the arm was seen."""
        return (arm.task_hash, arm.norm, arm.batch_size) in self._step_s

    def run_s(self, arm: Arm, role: Role) -> float:
        """Seconds that one run of an arm will take."""
        walls = self._wall_s.get((arm.task_hash, arm.norm, arm.batch_size, role, arm.steps))
        if walls:
            return max(median(walls), _LEAST_S)
        steps = self._step_s.get((arm.task_hash, arm.norm, arm.batch_size))
        if not steps:
            alike = [
                s for (task, _, size), s in self._step_s.items() if (task, size) == (arm.task_hash, arm.batch_size)
            ]
            steps = [s for found in alike for s in found]
        if not steps:
            return _UNKNOWN_S
        return max(arm.steps * median(steps) + self._scoring_s(arm.task_hash, role), _LEAST_S)

    def remaining_s(self, arm: Arm, now: Stage) -> float:
        """Seconds of work until an arm has ended, as far as can be told."""
        if not now.missing:
            return 0.0
        n_evaluations = len(now.missing)
        seconds = 0.0
        if now.learning_rate is None:
            n_tuning = len(now.missing) + EXPECTED_ADDED_RATES * arm.n_tuning_seeds
            seconds = n_tuning * self.run_s(arm, "tune")
            n_evaluations = arm.n_seeds
        return seconds + n_evaluations * self.run_s(arm, "evaluate")

    def _scoring_s(self, task_hash: str, role: Role) -> float:
        """Everything in a run that is not steps: data, model, scores."""
        own = self._overhead_s.get((task_hash, role))
        if own:
            return median(own)
        tuning = self._overhead_s.get((task_hash, "tune"))
        return EVALUATION_OVERHEAD * median(tuning) if tuning else 0.0
