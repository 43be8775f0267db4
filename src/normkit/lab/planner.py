"""Keeps to a plan while it fits into the time left, and makes another when it does not, or is done."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from normkit.lab.costs import Costs
from normkit.lab.planning import Plan, PlannedCell, RemainingS, fit, levels, to_begin
from normkit.lab.records import RunRecord, RunSpec
from normkit.lab.schedule import Schedule

# Predictions are rarely exact, and the last runs leave some workers idle: plan for this part of the time.
USABLE_PART = 0.85


class Planner:
    """Decides what is worked on, again and again, by what runs turned out to cost.

    Args:
        asked: everything that was asked for.
        costs: predicts how long runs take; learns meanwhile.
        known: runs that are finished already.
        is_limited: whether less than everything may be done, for want of time.
    """

    def __init__(self, asked: Plan, costs: Costs, known: Iterable[RunRecord], *, is_limited: bool) -> None:
        self.asked = asked
        self.plan: Plan | None = None if is_limited else asked
        self.schedule = _schedule(asked, known)
        self._costs = costs
        self._is_limited = is_limited
        self._is_beginning = False  # nothing fitted when this command came: it works towards a plan for later ones

    def revise(self, available_s: float) -> Schedule:
        """What to work on, with so many seconds of work to come, all workers together.

        What is begun is kept to while it fits, however closely; only what is added has to fit with some room. So no
        plan is given up for another because of a prediction that wavers.
        """
        if self._is_limited and not self._keeps_busy(available_s):
            remaining_s = self._predictor()
            plan = fit(self.asked, remaining_s, USABLE_PART * available_s)
            if plan is None and (self.plan is None or (self._is_beginning and self.schedule.is_complete)):
                self._is_beginning = True
                plan = to_begin(self.asked, remaining_s)
            if plan is not None and plan != self.plan:
                self.plan = plan
                self.schedule = _schedule(plan, self.schedule.known.values(), self.schedule.running)
        return self.schedule

    def shortest_row_s(self) -> float:
        """Predicted seconds of work for the row that needs least."""
        *_, smallest = levels(self.asked)
        remaining_s = self._predictor()
        return min(remaining_s(smallest, cell) for cell in smallest.cells)

    def answer(self) -> tuple[Plan, Schedule]:
        """The plan with the most finished rows; of equals the one that is worked on, else the largest.

        Its rows are those that are finished, and those that were to be; all in the order asked for.
        """
        finished: dict[Plan, set[PlannedCell]] = {}
        for plan in levels(self.asked) if self._is_limited else (self.asked,):
            schedule = _schedule(plan, self.schedule.known.values())
            finished[plan] = {
                cell for cell, arms in zip(plan.cells, schedule.cells, strict=True) if schedule.is_finished(arms)
            }
        worked_on = None if self.plan is None else replace(self.plan, cells=self.asked.cells)
        # max() takes the first of equals.
        best = max(finished, key=lambda plan: (len(finished[plan]), plan == worked_on))
        planned = self.plan.cells if self.plan is not None and best == worked_on else ()
        shown = finished[best].union(planned) or self.asked.cells
        plan = replace(best, cells=tuple(cell for cell in best.cells if cell in shown))
        return plan, _schedule(plan, self.schedule.known.values())

    def _keeps_busy(self, available_s: float) -> bool:
        """Whether the plan at hand fits, and has runs that may start."""
        if self.plan is None or not any(map(self.schedule.missing, self.schedule.cells)):
            return False
        arms = [arm for cell in self.schedule.cells for arm in cell]
        needed_s = math.fsum(self._costs.remaining_s(arm, self.schedule.stage(arm)) for arm in arms)
        return needed_s <= available_s

    def _predictor(self) -> RemainingS:
        """Seconds of work until a row of a plan is finished, given what is finished already."""
        by_row: dict[tuple[str, int], list[RunRecord]] = defaultdict(list)
        for record in self.schedule.known.values():
            by_row[record.spec.task_hash, record.spec.batch_size].append(record)

        @cache
        def remaining_s(plan: Plan, cell: PlannedCell) -> float:
            arms = plan.arms(cell)
            schedule = Schedule([arms], by_row[cell.task_hash, cell.batch_size])
            return math.fsum(self._costs.remaining_s(arm, schedule.stage(arm)) for arm in arms)

        return remaining_s


def _schedule(plan: Plan, known: Iterable[RunRecord], running: Iterable[RunSpec] = ()) -> Schedule:
    return Schedule([plan.arms(cell) for cell in plan.cells], known, running)
