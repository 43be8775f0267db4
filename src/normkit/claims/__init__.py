"""What is said about BatchNorm and LayerNorm, put to the test: claims, experiments, rules, verdicts."""

from __future__ import annotations

from normkit.claims.claim import Claim, Contradiction
from normkit.claims.findings import Finding
from normkit.claims.register import contradictions, register
from normkit.claims.run import run
from normkit.claims.shipped import shipped
from normkit.claims.verdicts import Verdict, Verdicts

__all__ = [
    "Claim",
    "Contradiction",
    "Finding",
    "Verdict",
    "Verdicts",
    "contradictions",
    "register",
    "run",
    "shipped",
]
