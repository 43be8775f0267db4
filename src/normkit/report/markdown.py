"""The answer of a comparison as a Markdown table, from the JSON that ``normkit compare --json`` prints."""

from __future__ import annotations

from typing import Any


def answer_table(result: dict[str, Any]) -> str:
    """A row for each task and batch size: every norm's test NLL with half of its 95 % interval, winners in bold.

    Args:
        result: the parsed JSON of a comparison.
    """
    norms = result["norms"]
    lines = [
        f"| task | batch | {' | '.join(norms)} | what it says |",
        f"|---|--:|{'---|' * len(norms)}---|",
    ]
    for cell in result["cells"]:
        scores = {score["norm"]: score for score in cell["scores"]}
        leading = [norm for norm in cell["winners"] if not scores[norm].get("unclear")]
        shown = [_score(scores.get(norm), leading) for norm in norms]
        lines.append(f"| {cell['task']} | {cell['batch_size']} | {' | '.join(shown)} | {cell['advice']} |")
    return "\n".join([*lines, "", _provenance(result)])


def _score(score: dict[str, Any] | None, leading: list[str]) -> str:
    if score is None:
        return ""
    nll = score["nll"]
    if nll is None:
        return str(score["status"])
    text = f"{nll['mean']:.3f}" + ("" if score["tuning_complete"] else "†")
    if score.get("unclear"):
        text += " unclear"
    elif score["norm"] in leading:
        text = f"**{text}**" if len(leading) == 1 else f"**{text}** tie"
    if nll["high"] is not None:
        text += f" ±{nll['high'] - nll['mean']:.3f}"
    return text + (f" ({score['n_diverged']} diverged)" if score["n_diverged"] else "")


def _provenance(result: dict[str, Any]) -> str:
    made = result["provenance"]
    seeds = len(made["seeds"]["evaluation"])
    sentences = [
        f"Test NLL in nats over {seeds} seeds, lower is better; ± is half of the 95 % interval. Bold: best, or tied "
        "with it (paired t-tests, Holm over all pairs of a row); unclear: worse by its own interval, not after Holm.",
        f"{result['n_computed'] + result['n_resumed']} runs with torch {made['versions']['torch']}, "
        f"{made['started_at'][:10]}.",
    ]
    if any(not score["tuning_complete"] and score["nll"] for cell in result["cells"] for score in cell["scores"]):
        sentences.append("† The best learning rate lies at the edge of the grid that was searched.")
    return " ".join([*sentences, *result["cut"]])
