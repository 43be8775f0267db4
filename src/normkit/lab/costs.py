"""How long runs take: learnt from runs, used to plan and to stop in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from normkit.lab.provenance import environment, same_machine
from normkit.lab.records import Role, RunRecord, RunSpec
from normkit.lab.schedule import Arm, Stage

# A run of this many steps tells what a step costs; the training loop times all after the first 5.
CALIBRATION_STEPS = 12

# Of the learning rates that tuning adds to its grid, this many are expected for each arm.
EXPECTED_ADDED_RATES = 1.0

# Scoring an evaluation run takes so many times as long as scoring a tuning run: two data sets, and three kinds
# of statistics on one of them.
EVALUATION_OVERHEAD = 3.0

# What is expected of a run of which nothing is known, and at least of any: a run that is missing is never free.
_UNKNOWN_S = 1.0
_LEAST_S = 1e-3

_ArmKey = tuple[str, str, int]  # task hash, norm, batch size


class Costs:
    """Predicts the duration of runs from runs of the same arm, or else from short runs of it, or of others.

    Short runs may mislead, for they are made while workers start, or while something else was at work. So what they
    predict is multiplied by how far they were off for the arms of which whole runs are known.
    """

    def __init__(self, known: Iterable[RunRecord] = ()) -> None:
        self._wall_s: dict[tuple[_ArmKey, Role, int], list[float]] = defaultdict(list)
        self._step_s: dict[_ArmKey, list[float]] = defaultdict(list)
        self._short_step_s: dict[_ArmKey, float] = {}
        self._scoring_s: dict[tuple[str, Role], list[float]] = defaultdict(list)
        here = environment()
        for record in known:
            if same_machine(record.provenance, here):
                self.learn(record)

    def learn(self, record: RunRecord) -> None:
        """Take in how long a run took."""
        spec = record.spec
        if record.status == "done":
            self._wall_s[_key(spec), spec.role, spec.steps].append(record.wall_s)
            self._step_s[_key(spec)].append(record.ms_per_step / 1e3)
            self._scoring_s[spec.task_hash, spec.role].append(_scoring(record))

    def learn_from_short(self, record: RunRecord) -> None:
        """Take in how long the steps of a run took that was made for that purpose."""
        spec = record.spec
        if record.status == "done":
            self._short_step_s[_key(spec)] = record.ms_per_step / 1e3
            self._scoring_s[spec.task_hash, spec.role].append(_scoring(record))

    def knows(self, arm: Arm) -> bool:
        """Whether any run of the arm was seen."""
        return _key(arm) in self._step_s or _key(arm) in self._short_step_s

    def run_s(self, arm: Arm | RunSpec, role: Role) -> float:
        """Seconds that one run of an arm, or like another, will take."""
        walls = self._wall_s.get((_key(arm), role, arm.steps))
        if walls:
            return max(median(walls), _LEAST_S)
        step_s = self._predicted_step_s(arm)
        if step_s is None:
            return _UNKNOWN_S
        return max(arm.steps * step_s + self._predicted_scoring_s(arm.task_hash, role), _LEAST_S)

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

    def _predicted_step_s(self, arm: Arm | RunSpec) -> float | None:
        """From the arm's own runs, or its short one, or those of other norms in the same cell."""
        key = _key(arm)
        if key in self._step_s:
            return median(self._step_s[key])
        if key in self._short_step_s:
            return self._short_step_s[key] * self._error_of_short_runs()
        cell = (arm.task_hash, arm.batch_size)
        alike = [median(steps) for (task, _, size), steps in self._step_s.items() if (task, size) == cell]
        alike += [step for (task, _, size), step in self._short_step_s.items() if (task, size) == cell]
        return median(alike) if alike else None

    def _error_of_short_runs(self) -> float:
        """By what the steps of short runs must be multiplied to be those of whole ones."""
        both = [key for key, short in self._short_step_s.items() if short and key in self._step_s]
        if not both:
            return 1.0
        return median(median(self._step_s[key]) / self._short_step_s[key] for key in both)

    def _predicted_scoring_s(self, task_hash: str, role: Role) -> float:
        """Everything in a run that is not steps: data, model, scores."""
        own = self._scoring_s.get((task_hash, role))
        if own:
            return _lower_quartile(own)
        tuning = self._scoring_s.get((task_hash, "tune"))
        return EVALUATION_OVERHEAD * _lower_quartile(tuning) if tuning else 0.0


def _lower_quartile(values: Sequence[float]) -> float:
    """Not the median: of few runs, half may be the first ones of their workers, which pay for imports."""
    return sorted(values)[(len(values) - 1) // 4]


def _key(item: Arm | RunSpec) -> _ArmKey:
    return item.task_hash, item.norm, item.batch_size


def _scoring(record: RunRecord) -> float:
    return max(0.0, record.wall_s - record.steps_done * record.ms_per_step / 1e3)
