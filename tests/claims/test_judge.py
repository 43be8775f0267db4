"""The judge on made-up measurements whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from claims.made_up import arm, arms, noise, rule
from normkit.claims.experiment import UNDEFINED, Measurement
from normkit.claims.findings import Finding
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.judge import judge

NAN = math.nan
N_FAMILIES = 200


def one(hypothesis: Hypothesis, measurements: list[Measurement]) -> Finding:
    return judge([hypothesis], measurements)[hypothesis.id]


def shifted(by: float, n: int = 12) -> list[Measurement]:
    """BatchNorm's error is ``by`` above LayerNorm's; seeds move both together, and each a little alone."""
    base = noise(0, n)
    batch = [10 + 3 * b + by + 0.5 * e for b, e in zip(base, noise(1, n), strict=True)]
    layer = [10 + 3 * b + 0.5 * e for b, e in zip(base, noise(2, n), strict=True)]
    return arms(batch, layer)


@pytest.mark.parametrize("n", [5, 12])
@pytest.mark.parametrize(("by", "outcome"), [(8.0, "holds"), (2.0, "inconclusive"), (-4.0, "fails")])
def test_a_difference_of_known_size(by: float, outcome: str, n: int) -> None:
    finding = one(rule(), shifted(by, n))
    assert (finding.outcome, finding.n) == (outcome, n)
    assert finding.low is not None
    assert finding.high is not None
    assert finding.effect is not None
    assert finding.low < by < finding.high
    assert bool(finding.reason) == (outcome == "inconclusive")


def test_p_and_interval_are_the_paired_t_test_s_and_the_exact_sign_flip_s() -> None:
    measurements = shifted(3.0)
    values = [m.metrics["error"] for m in measurements]
    finding = one(rule(), measurements)
    theirs = stats.ttest_1samp(np.subtract(values[:12], values[12:]), 2.0)
    ci = theirs.confidence_interval(0.95)
    assert finding.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (finding.low, finding.high) == pytest.approx((ci.low, ci.high), rel=1e-9)
    flips = stats.permutation_test(
        (np.subtract(values[:12], values[12:]) - 2.0,),
        lambda x: abs(x.sum()),
        permutation_type="samples",
        n_resamples=5000,
        alternative="greater",
    )
    assert finding.p_sign_flip == pytest.approx(flips.pvalue, abs=1e-9)


def test_the_sign_of_the_data_is_the_sign_of_the_verdict() -> None:
    measurements = shifted(8.0)
    turned = [replace(m, metrics={"error": -m.metrics["error"]}) for m in measurements]
    assert one(rule(margin=0.0), measurements).outcome == "holds"
    assert one(rule(margin=0.0), turned).outcome == "fails"
    assert one(rule(margin=0.0, metric="-error"), measurements).outcome == "fails"
    assert one(rule(margin=0.0, these=rule().those, those=rule().these), measurements).outcome == "fails"


def test_the_same_runs_on_both_sides_never_differ() -> None:
    values = noise(3, 12)
    assert one(rule(margin=0.0), arms(values, values)).outcome == "inconclusive"
    assert one(rule(margin=0.5), arms(values, values)).outcome == "fails"
    assert one(rule(kind="equivalence", margin=0.5), arms(values, values)).outcome == "holds"


@pytest.mark.parametrize("gone", ["batch", "layer"])
@pytest.mark.parametrize("kind", ["difference", "equivalence"])
def test_without_a_side_it_was_not_run(kind: str, gone: str) -> None:
    left = [m for m in shifted(8.0) if dict(m.conditions)["norm"] != gone]
    finding = one(rule(kind=kind), left)
    assert finding.outcome == "not run"
    assert finding.reason == f"not measured: norm={gone}"


def test_what_failed_was_not_measured() -> None:
    failed = [replace(m, status="failed", metrics={}) for m in shifted(8.0)]
    assert one(rule(), failed).outcome == "not run"


def test_fewer_than_five_seeds_decide_nothing() -> None:
    finding = one(rule(), shifted(50.0, 4))
    assert finding.outcome == "inconclusive"
    assert "4 seeds decide nothing" in finding.reason


def test_seeds_of_one_side_only_do_not_count() -> None:
    measurements = shifted(8.0)
    assert one(rule(), measurements[2:]).n == 10


def test_conditions_that_leave_open_what_varies_are_not_averaged() -> None:
    finding = one(rule(), shifted(8.0) + arm(noise(1, 12), norm="batch", batch=4))
    assert finding.outcome == "inconclusive"
    assert "leave open what varies" in finding.reason


def test_true_is_not_one() -> None:
    measurements = arm([9.0] * 6, norm="batch", pads=True) + arm(noise(0, 6), norm="batch", pads=1)
    finding = one(rule(these={"pads": True}, those={"pads": 1}), measurements)
    assert finding.outcome == "holds"


# --- equivalence, slopes, values, trends, interactions, ratios


@pytest.mark.parametrize(("by", "outcome"), [(0.0, "holds"), (1.0, "inconclusive"), (5.0, "fails"), (-5.0, "fails")])
def test_equivalence_is_shown_and_not_concluded_from_silence(by: float, outcome: str) -> None:
    assert one(rule(kind="equivalence", margin=1.0), shifted(by)).outcome == outcome


def test_equivalence_of_few_noisy_seeds_is_open() -> None:
    wide = arms([10 * x for x in noise(0, 5)], [10 * x for x in noise(1, 5)])
    assert one(rule(kind="equivalence", margin=1.0), wide).outcome == "inconclusive"


@pytest.mark.parametrize(("power", "outcome"), [(-1.0, "holds"), (-0.5, "fails")])
def test_a_slope(power: float, outcome: str) -> None:
    measurements = [
        m
        for place in (2, 4, 16, 64)
        for m in arm([3 * place**power * (1 + 0.01 * e) for e in noise(place, 12)], "variance", n=place)
    ]
    hypothesis = rule(kind="slope", metric="variance", these={}, along="n", target=-1.0, margin=0.05)
    finding = one(hypothesis, measurements)
    assert finding.outcome == outcome
    assert finding.effect == pytest.approx(power, abs=0.02)


@pytest.mark.parametrize(("centre", "outcome"), [(1.2112, "holds"), (1.30, "fails")])
def test_a_value(centre: float, outcome: str) -> None:
    measurements = arm([centre + 0.002 * e for e in noise(0, 12)], "factor", norm="batch")
    hypothesis = rule(kind="value", metric="factor", target=1.2112, margin=0.0242)
    finding = one(hypothesis, measurements)
    assert finding.outcome == outcome
    assert finding.effect == pytest.approx(centre, abs=0.005)


@pytest.mark.parametrize(("step", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")])
def test_a_trend(step: float, outcome: str) -> None:
    measurements = [
        m
        for place, batch in enumerate((2, 4, 8, 16))
        for m in arm([step * place + 0.3 * e for e in noise(batch, 6)], batch=batch)
    ]
    assert one(rule(kind="trend", these={}, along="batch"), measurements).outcome == outcome


@pytest.mark.parametrize("kind", ["trend", "slope"])
def test_a_line_without_all_of_its_places_decides_nothing(kind: str) -> None:
    """The places that were left out could turn it."""
    hypothesis = rule(kind=kind, these={}, along="batch", target=1.0, margin=0.1)
    measurements = [m for batch in (2, 4, 8, 16) for m in arm([float(batch)] * 12, batch=batch)]
    assert one(hypothesis, measurements).outcome == "holds"
    gone = [replace(m, status="failed") if dict(m.conditions)["batch"] == 16 else m for m in measurements]
    found = one(hypothesis, gone)
    assert (found.outcome, "every batch" in found.reason) == ("inconclusive", True)


def test_the_chance_of_a_trend_is_counted_exactly() -> None:
    """3 places, 1 seed: of the 6 orders one rises, so two-sided p is 2 / 6."""
    measurements = [m for place in (1, 2, 3) for m in arm([float(place)], batch=place)]
    assert one(rule(kind="trend", these={}, along="batch"), measurements).p == pytest.approx(1 / 3)


def test_an_interaction() -> None:
    here = shifted(6.0)
    there = shifted(1.0)
    marked = [
        replace(m, conditions=(*m.conditions, ("small", s))) for s, ms in ((True, here), (False, there)) for m in ms
    ]
    sides = {
        "these": {"norm": "batch", "small": True},
        "those": {"norm": "layer", "small": True},
        "these_without": {"norm": "batch", "small": False},
        "those_without": {"norm": "layer", "small": False},
    }
    finding = one(rule(kind="interaction", **sides), marked)
    assert finding.outcome == "holds"
    assert finding.effect == pytest.approx(5.0)
    assert one(rule(kind="interaction", margin=6.0, **sides), marked).outcome == "fails"
    assert one(rule(kind="interaction", **sides), marked[:-12]).outcome == "not run"
    assert one(rule(kind="no interaction", margin=6.0, **sides), marked).outcome == "holds"
    assert one(rule(kind="no interaction", margin=4.0, **sides), marked).outcome == "fails"
    mirrored = {name: sides[other] for name, other in zip(sides, [*sides][2:] + [*sides][:2], strict=True)}
    assert one(rule(kind="no interaction", margin=4.0, **mirrored), marked).outcome == "fails"
    assert one(rule(kind="no interaction", margin=5.0, **sides), marked).outcome == "inconclusive"
    assert one(rule(kind="no interaction", margin=6.0, **sides), marked[:-12]).outcome == "not run"


def test_a_ratio() -> None:
    base = [math.exp(x) for x in noise(0, 12)]
    measurements = arms([1.5 * b * (1 + 0.01 * e) for b, e in zip(base, noise(1, 12), strict=True)], base, "steps")
    finding = one(rule(metric="steps", scale="ratio", margin=0.1), measurements)
    assert finding.outcome == "holds"
    assert finding.effect == pytest.approx(0.5, abs=0.02)
    assert one(rule(metric="steps", scale="ratio", margin=0.6), measurements).outcome == "fails"
    assert one(rule(metric="steps", scale="ratio"), arms([0.0] * 6, base[:6], "steps")).outcome == "inconclusive"


# --- exact ones


def test_an_exact_hypothesis_holds_below_its_margin_and_shows_what_breaks_it() -> None:
    hypothesis = rule(kind="exact", metric="gap", these={}, margin=1e-6)
    fine = arm([1e-9, 2e-9], "gap", norm="layer")
    assert one(hypothesis, fine).outcome == "holds"
    finding = one(hypothesis, fine + arm([1e-9, 0.25], "gap", norm="batch"))
    assert (finding.outcome, finding.effect) == ("fails", 0.25)
    assert finding.reason == "off by 0.25 at norm=batch, seed 1"


def test_what_is_not_finite_breaks_an_exact_hypothesis() -> None:
    hypothesis = rule(kind="exact", metric="gap", these={}, margin=1e-6, diverged_as=0.0)
    for odd in (arm([1e-9, NAN], "gap", norm="layer"), [replace(arm([0.0], "gap")[0], metrics={"gap": NAN})]):
        finding = one(hypothesis, odd)
        assert finding.outcome == "fails"
        assert finding.reason.startswith("not finite at")


def test_a_number_is_shown_as_the_counterexample_before_what_is_none() -> None:
    hypothesis = rule(kind="exact", metric="gap", these={}, margin=1e-6)
    finding = one(hypothesis, arm([NAN, 0.25, UNDEFINED], "gap", norm="layer"))
    assert (finding.outcome, finding.effect, finding.is_undefined) == ("fails", 0.25, False)
    assert one(hypothesis, arm([NAN, 1e-9, UNDEFINED], "gap", norm="layer")).is_undefined


def test_a_search_of_which_a_part_is_missing_does_not_hold_and_can_fail() -> None:
    hypothesis = rule(kind="exact", metric="gap", these={"norm": "layer"}, margin=1e-6)
    fine = arm([1e-9] * 5, "gap", norm="layer")
    gone = [replace(m, status="failed", metrics={}) for m in fine[3:]]
    assert one(hypothesis, fine).outcome == "holds"
    finding = one(hypothesis, fine[:3] + gone)
    assert (finding.outcome, finding.reason) == ("inconclusive", "2 of the search were not measured")
    assert one(hypothesis, arm([0.25], "gap", norm="layer") + gone).outcome == "fails"
    elsewhere = [replace(m, conditions=(("norm", "batch"),)) for m in gone]
    assert one(hypothesis, fine + elsewhere).outcome == "holds"


# --- runs that diverged


@pytest.mark.parametrize("metric", ["test_error", "nll", "-accuracy"])
def test_a_run_that_diverges_is_the_worst_one_can_be(metric: str) -> None:
    """BatchNorm diverges always: it is worse. LayerNorm diverges always: BatchNorm is not worse."""
    base = metric.removeprefix("-")
    fine = noise(0, 12)
    hypothesis = rule(metric=metric, margin=0.0)
    assert one(hypothesis, arms([NAN] * 12, fine, base)).outcome == "holds"
    assert one(hypothesis, arms(fine, [NAN] * 12, base)).outcome == "fails"


@pytest.mark.parametrize("diverged_as", [None, 90.0])
@pytest.mark.parametrize("seed", range(12))
def test_a_run_that_diverges_cannot_improve_its_arm(seed: int, diverged_as: float | None) -> None:
    """Whichever run of an arm diverges, nothing is concluded in that arm's favour that was not before."""
    order = ["fails", "inconclusive", "holds"]  # of "BatchNorm's error is higher", the better for BatchNorm the lower
    hypothesis = rule(margin=0.0, diverged_as=diverged_as)
    for by in (-1.5, -0.2, 0.0, 0.2, 1.5):
        measurements = shifted(by)
        before = order.index(one(hypothesis, measurements).outcome)
        for norm, is_worse in (("batch", True), ("layer", False)):
            broken = [
                replace(m, status="diverged", metrics={})
                if m.seed == seed and dict(m.conditions)["norm"] == norm
                else m
                for m in measurements
            ]
            after = order.index(one(hypothesis, broken).outcome)
            assert after >= min(before, 1) if is_worse else after <= max(before, 1), (by, norm)


def test_where_nobody_says_what_divergence_counts_as_nothing_is_decided() -> None:
    finding = one(rule(metric="cosine"), arms([NAN] * 12, noise(0, 12), "cosine"))
    assert finding.outcome == "inconclusive"
    assert "a run diverged, and the rule does not say" in finding.reason
    assert finding.n_diverged == 12


def test_a_number_that_is_not_finite_is_a_run_that_diverged() -> None:
    values = noise(0, 12)
    odd = [replace(m, status="done", metrics={"error": NAN}) for m in arm(values, norm="batch")]
    assert one(rule(margin=0.0), odd + arm(values, norm="layer")).outcome == "holds"


def test_where_no_learning_rate_trains_is_the_worst_and_no_number() -> None:
    """It takes the place below all others, whatever number stands for it."""
    lr = rule(metric="log10_max_lr", margin=0.5)
    none_trains = [{"log10_max_lr": -1.0}] * 6 + [{"log10_max_lr": UNDEFINED}] * 6
    these = [replace(m, metrics={"log10_max_lr": 0.0}) for m in arm([0.0] * 12, norm="batch")]
    those = [replace(m, metrics=own) for m, own in zip(arm([0.0] * 12, norm="layer"), none_trains, strict=True)]
    finding = one(lr, these + those)
    assert (finding.outcome, finding.n_diverged, finding.values) == ("holds", 6, ())
    assert one(lr, [replace(m, metrics={"log10_max_lr": UNDEFINED}) for m in these] + those).outcome != "holds"


# --- sides that learned nothing


@pytest.mark.parametrize(
    ("idle", "by", "outcome"),
    [
        ("batch", 8.0, "inconclusive"),  # BatchNorm is worse, as any network that learns nothing
        ("layer", 8.0, "holds"),  # it beats what learned nothing, and so lost by less than it could
        ("batch", -8.0, "fails"),
        ("layer", -8.0, "inconclusive"),
    ],
)
def test_a_side_that_learned_nothing_is_not_found_worse(idle: str, by: float, outcome: str) -> None:
    measurements = [
        replace(m, metrics={**m.metrics, "not_learned": float(dict(m.conditions)["norm"] == idle and m.seed > 2)})
        for m in shifted(by)
    ]
    finding = one(rule(), measurements)
    assert finding.outcome == outcome
    assert ("learned nothing" in finding.reason) == (outcome == "inconclusive")
    assert one(rule(is_about_learning=True), measurements).outcome == ("holds" if by > 0 else "fails")
    few = [
        replace(m, metrics={**m.metrics, "not_learned": m.metrics["not_learned"] * (m.seed < 6)}) for m in measurements
    ]
    assert one(rule(), few).outcome == ("holds" if by > 0 else "fails")


# --- learning rates at the edge


@pytest.mark.parametrize(
    ("untuned", "by", "outcome"),
    [
        ("batch", 8.0, "inconclusive"),  # BatchNorm is worse, and might not be
        ("layer", 8.0, "holds"),  # LayerNorm would be better still
        ("batch", -8.0, "fails"),
        ("layer", -8.0, "inconclusive"),
    ],
)
def test_a_side_tuned_up_to_the_edge_is_not_found_worse(untuned: str, by: float, outcome: str) -> None:
    measurements = [
        replace(m, metrics={**m.metrics, "tuning_incomplete": float(dict(m.conditions)["norm"] == untuned)})
        for m in shifted(by)
    ]
    finding = one(rule(), measurements)
    assert finding.outcome == outcome
    assert ("edge of those tried" in finding.reason) == (outcome == "inconclusive")
    assert one(rule(kind="equivalence", margin=20.0), measurements).outcome == "inconclusive"


# --- error rates


def family_rate(make: str, n: int) -> tuple[int, int]:
    """Of families of ten true nulls, how many have any "holds", and how many any conclusion."""
    rng = np.random.default_rng(12 + n)
    holds = any_ = 0
    for _ in range(N_FAMILIES):
        hypotheses, measurements = [], []
        for place in range(10):
            id_ = f"E05-H{place}"
            base = rng.standard_normal(n)
            batch, layer = base + rng.standard_normal(n), base + rng.standard_normal(n)
            if make == "difference":
                hypotheses.append(
                    rule(id=id_, margin=0.0, these={"norm": "batch", "k": place}, those={"norm": "layer", "k": place})
                )
            else:  # the truth lies on the edge of the margin
                batch = batch + 4.0
                hypotheses.append(
                    rule(
                        id=id_,
                        kind="equivalence",
                        margin=4.0,
                        these={"norm": "batch", "k": place},
                        those={"norm": "layer", "k": place},
                    )
                )
            measurements += arm(batch.tolist(), norm="batch", k=place) + arm(layer.tolist(), norm="layer", k=place)
        outcomes = {finding.outcome for finding in judge(hypotheses, measurements).values()}
        holds += "holds" in outcomes
        any_ += bool(outcomes & {"holds", "fails"})
    return holds, any_


@pytest.mark.parametrize("n", [5, 12])
@pytest.mark.parametrize("kind", ["difference", "equivalence"])
def test_arms_that_are_alike_hold_no_more_often_than_stated(kind: str, n: int) -> None:
    """A/A: at most 5 % of families have any false "holds". The bound is what 5 % exceed once in a million."""
    holds, _ = family_rate(kind, n)
    assert holds <= stats.binom.ppf(1 - 1e-6, N_FAMILIES, 0.05)


def test_more_hypotheses_make_each_harder() -> None:
    """Holm: what is decided alone is open among many that chance could decide."""
    measurements = shifted(3.0, 12)
    alone = judge([rule(margin=2.7)], measurements)["E05-H1"]
    assert alone.outcome == "holds"
    assert alone.p is not None
    noise_rules = [
        rule(id=f"E05-N{k}", margin=0.0, these={"k": k, "norm": "a"}, those={"k": k, "norm": "b"}) for k in range(40)
    ]
    extra = [m for k in range(40) for name, s in (("a", 0), ("b", 100)) for m in arm(noise(k + s, 12), k=k, norm=name)]
    among = judge([rule(margin=2.7), *noise_rules], measurements + extra)["E05-H1"]
    assert among.p == alone.p
    assert among.p_adjusted is not None
    assert among.p_adjusted > alone.p
    assert among.outcome == "inconclusive"
    assert among.reason == "decided alone, but not among so many hypotheses"
    assert among.adjusted_low is not None
    assert among.adjusted_low < 2.7 < alone.low


def test_families_are_judged_apart_and_what_is_in_several_must_pass_in_each() -> None:
    measurements = shifted(3.0, 12)
    names = [f"E05-N{k}" for k in range(40)]
    noise_rules = [
        rule(id=id_, margin=0.0, these={"k": k, "norm": "a"}, those={"k": k, "norm": "b"})
        for k, id_ in enumerate(names)
    ]
    extra = [m for k in range(40) for name, s in (("a", 0), ("b", 100)) for m in arm(noise(k + s, 12), k=k, norm=name)]

    def outcome(*families: set[str]) -> str:
        return judge([rule(margin=2.7), *noise_rules], measurements + extra, families)["E05-H1"].outcome

    assert outcome({"E05-H1"}, set(names)) == "holds"
    assert outcome({"E05-H1"}, {"E05-H1", *names}) == "inconclusive"
    assert outcome({"E05-H1"}) == "holds"  # the others are in no family, and make none harder
    assert outcome(set(names)) == "inconclusive"  # in none: among all
