"""The figures of the report, each a function from view data to plotly's JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from normkit.lab.comparison import Interval, Score
from normkit.report import wording
from normkit.report.answer import LEADING, STATUS_WORDS, RowView, TaskView
from normkit.report.palette import Look
from normkit.report.plot import (
    Figure,
    Trace,
    add_lane,
    axis,
    layout,
    log_axis,
    places_axis,
    short,
    shorts,
    text,
)
from normkit.report.series import Curves, ScorePoint, Sweep

# A difference below this many nats is small enough to be called none.
SMALL_NATS = 0.02
EVALUATION_MARKERS = {"running": "circle", "batch": "square-open", "recomputed": "diamond"}
EVALUATION_DASHES = {"running": "solid", "batch": "dot", "recomputed": "dash"}
ROW_PX = 34


def matrix(tasks: Sequence[TaskView], norms: Sequence[str]) -> Figure:
    """Every row and norm as a patch of colour: how far behind the best of its row."""
    patches: list[list[float | None]] = []
    labels: list[list[str]] = []
    hovers: list[list[str]] = []
    gaps: list[list[float | None]] = []  # patches without a score, drawn in a colour of their own
    ticks: list[tuple[int, str]] = []
    titles: list[tuple[int, str]] = []
    for task in tasks:
        titles.append((len(patches), task.name))
        for line in (patches, gaps):
            line.append([None] * len(norms))
        for words in (labels, hovers):
            words.append([""] * len(norms))
        for row in task.rows:
            ticks.append((len(patches), str(row.batch_size)))
            plain = [s.behind if s.status == "done" else None for s in row.scores]
            patches.append([None if b is None else short(_strength(b)) for b in plain])
            gaps.append([0.0 if b is None else None for b in plain])
            labels.append([_patch_label(row, place) for place in range(len(norms))])
            hovers.append([_patch_hover(row, place) for place in range(len(norms))])
    top = max([2.0] + [z for line in patches for z in line if z is not None])
    places = {"type": "heatmap", "x": list(range(len(norms))), "y": list(range(len(patches))), "xgap": 3, "ygap": 3}
    told = {"customdata": hovers, "hovertemplate": "%{customdata}<extra></extra>", "hoverongaps": False}
    scale = [[step / 4, f"@heat{step}"] for step in range(5)]
    grey = [[0, "@wash"], [1, "@wash"]]
    data: list[Trace] = [
        {**places, **told, "z": patches, "zmin": 0, "zmax": top, "colorscale": scale, "colorbar": _nats_bar(top)},
        {**places, **told, "z": gaps, "colorscale": grey, "showscale": False},
        _patch_words(labels, patches, top),
    ]
    columns = places_axis("", list(norms)) | {"side": "top", "tickfont": {"size": 12, "color": "@ink"}}
    lines = axis(
        tickvals=[place for place, _ in ticks],
        ticktext=[label for _, label in ticks],
        range=[len(patches) - 0.5, -0.6],
        showgrid=False,
    )
    names = [
        {"x": 0, "y": place + 0.12, "xref": "paper", "yref": "y", "xanchor": "left", "showarrow": False}
        | {"text": f"<b>{text(name)}</b>", "font": {"size": 13, "color": "@ink"}}
        for place, name in titles
    ]
    height = ROW_PX * len(patches) + 110
    return {"data": data, "layout": layout(height, columns, lines, annotations=names)}


def _strength(behind: float) -> float:
    """Linear for small differences, logarithmic beyond, so that 0.05 and 0.5 nats are both seen."""
    return math.asinh(max(behind, 0.0) / SMALL_NATS)


def _patch_words(labels: list[list[str]], patches: list[list[float | None]], top: float) -> Trace:
    """The words on the patches, in the colour that can be read on each."""
    cells = [(x, y) for y, line in enumerate(labels) for x, words in enumerate(line) if words]
    strengths = [patches[y][x] for x, y in cells]
    colours = ["@soft" if z is None else "@paper" if z > 0.6 * top else "@ink" for z in strengths]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x for x, _ in cells],
        "y": [y for _, y in cells],
        "text": [labels[y][x] for x, y in cells],
        "textfont": {"color": colours, "size": [10 if z is None else 11.5 for z in strengths]},
        "hoverinfo": "skip",
    }


def _nats_bar(top: float) -> dict[str, object]:
    values = [v for v in (0.0, 0.02, 0.1, 0.5, 2.0, 10.0) if _strength(v) <= top]
    return {
        "orientation": "h",
        "y": 0,
        "yanchor": "top",
        "ypad": 18,
        "x": 0.5,
        "len": 0.6,
        "thickness": 10,
        "outlinewidth": 0,
        "tickvals": [short(_strength(v)) for v in values],
        "ticktext": ["0"] + [f"+{v:g}" for v in values[1:]],
        "tickfont": {"size": 12, "color": "@soft"},
        "title": {"text": "nats behind the best of the row", "side": "bottom", "font": {"size": 12, "color": "@soft"}},
    }


def _patch_label(row: RowView, place: int) -> str:
    score = row.scores[place]
    if not score.is_asked:
        return score.note
    if score.status != "done" or score.behind is None:
        # A patch is narrow on a phone.
        return "n/a" if score.status == "impossible" else STATUS_WORDS[score.status]
    if score.standing in LEADING:
        return score.standing
    return wording.gap(score.behind)


def _patch_hover(row: RowView, place: int) -> str:
    score = row.scores[place]
    head = f"<b>{text(score.norm)}</b>, {text(row.task)}, batch {row.batch_size}"
    parts = [head]
    if score.nll:
        parts.append(f"test NLL {score.nll}" + (f" ({score.span})" if score.span else ""))
        parts.append(f"accuracy {score.accuracy}")
    if score.note:
        parts.append(score.note)
    return "<br>".join(parts)


def by_batch_size(points: Mapping[str, Sequence[ScorePoint]], look: Mapping[str, Look]) -> Figure:
    """Test NLL against batch size, a line a norm, with intervals."""
    sizes = _sizes(points)
    drawn = [norm for norm in points if points[norm]]
    data: list[Trace] = []
    lane: list[Trace] = []
    for rank, norm in enumerate(drawn):
        shift = _dodge(rank, len(drawn))
        scored = [(sizes.index(p.batch_size) + shift, p.score) for p in points[norm]]
        data.append(_score_line(norm, scored, look[norm]))
        broken = [x for x, score in scored if score.nll is None and score.status == "diverged"]
        if broken:
            lane.append(
                _dots(norm, broken, [0.5] * len(broken), look[norm], "x")
                | {"hovertemplate": f"<b>{text(norm)}</b><br>every run diverged<extra></extra>"}
            )
    figure = {
        "data": data,
        "layout": layout(
            320, places_axis("batch size", [str(s) for s in sizes]), log_axis("test NLL, nats", _heights(data))
        ),
    }
    return add_lane(figure, lane, "diverged")


def _sizes(points: Mapping[str, Sequence[ScorePoint]]) -> list[int]:
    return sorted({point.batch_size for line in points.values() for point in line})


def _heights(data: Sequence[Trace]) -> list[float | None]:
    return [y for trace in data for y in trace["y"]]


def _dodge(rank: int, n: int) -> float:
    """Norms stand beside each other at a batch size, so that their intervals do not overlap."""
    return 0.0 if n == 1 else 0.5 * (rank / (n - 1) - 0.5)


def _score_line(norm: str, scored: Sequence[tuple[float, Score]], look: Look) -> Trace:
    hovers = []
    for _, score in scored:
        interval = f" ({wording.span(score.nll)})" if wording.span(score.nll) else ""
        hovers.append(
            f"<b>{text(norm)}</b><br>test NLL {wording.number(score.nll.mean if score.nll else None)}{interval}"
            + (f"<br>diverged in {score.n_diverged} of {score.n_runs} runs" if score.n_diverged else "")
        )
    symbols = ["x" if score.status == "diverged" else look.marker for _, score in scored]
    xs = [x for x, _ in scored]
    ys = [score.nll.mean if score.nll else None for _, score in scored]
    return _dots(norm, xs, ys, look, symbols) | {
        "mode": "lines+markers",
        "line": {"color": f"@{look.hue}", "width": 1.5},
        "error_y": _error_bars([score.nll for _, score in scored], look.hue),
        "customdata": hovers,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _error_bars(intervals: Sequence[Interval | None], hue: str) -> dict[str, object]:
    """Bars to both ends; on the logarithmic axis a lower end at or below zero stops at a tenth of the mean."""
    above: list[float | None] = []
    below: list[float | None] = []
    for interval in intervals:
        if interval is None or interval.low is None or interval.high is None:
            above.append(None)
            below.append(None)
        else:
            above.append(short(interval.high - interval.mean))
            below.append(short(interval.mean - max(interval.low, 0.1 * interval.mean)))
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": f"@{hue}",
        "thickness": 1.5,
        "width": 3,
    }


def _dots(norm: str, xs: Sequence[float], ys: Sequence[float | None], look: Look, symbol: str | list[str]) -> Trace:
    """Points of one norm. `legendgroup` is what the page's legend shows and hides."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text(norm),
        "legendgroup": norm,
        "x": shorts(xs),
        "y": shorts(ys),
        "marker": {"color": f"@{look.hue}", "symbol": symbol, "size": 9, "line": {"color": f"@{look.hue}"}},
    }


def by_learning_rate(sweeps: Sequence[Sweep], look: Mapping[str, Look]) -> Figure:
    """Validation NLL against learning rate, a line a norm; the chosen rate is ringed, diverged ones sit on top."""
    data: list[Trace] = []
    lane: list[Trace] = []
    for sweep in sweeps:
        norm, hue = sweep.norm, f"@{look[sweep.norm].hue}"
        xs = [point.learning_rate for point in sweep.points]
        ys = [point.val_nll for point in sweep.points]
        hovers = [
            f"<b>{text(norm)}</b>, learning rate {p.learning_rate:g}{', chosen' if p.is_chosen else ''}"
            f"<br>validation NLL {wording.number(p.val_nll)}"
            + (f"<br>diverged in {p.n_diverged} of {p.n_runs} runs" if p.n_diverged else "")
            for p in sweep.points
        ]
        told = {"customdata": hovers, "hovertemplate": "%{customdata}<extra></extra>"}
        line = _dots(norm, xs, ys, look[norm], look[norm].marker) | told
        data.append(line | {"mode": "lines+markers", "line": {"color": hue, "width": 1.5}})
        ringed = [p for p in sweep.points if p.is_chosen and p.val_nll is not None]
        if ringed:
            ring = _dots(
                norm, [p.learning_rate for p in ringed], [p.val_nll for p in ringed], look[norm], "circle-open"
            )
            ring["marker"] |= {"size": 18, "line": {"color": hue, "width": 2}}
            data.append(ring | {"hoverinfo": "skip"})
        broken = [place for place, p in enumerate(sweep.points) if p.n_diverged]
        if broken:
            cross = _dots(norm, [xs[place] for place in broken], [0.5] * len(broken), look[norm], "x")
            lane.append(cross | {"customdata": [hovers[p] for p in broken], "hovertemplate": told["hovertemplate"]})
    rates = sorted({point.learning_rate for sweep in sweeps for point in sweep.points})
    rate_axis = axis("learning rate", type="log", tickvals=rates, ticktext=[f"{rate:g}" for rate in rates])
    figure = {
        "data": data,
        "layout": layout(300, rate_axis, log_axis("validation NLL, nats", _heights(data))),
    }
    return add_lane(figure, lane, "diverged")


def loss_curves(curves: Sequence[Curves], look: Mapping[str, Look]) -> Figure:
    """Training loss against step: the mean over seeds, the range in a tint, diverged runs by themselves."""
    tints: list[Trace] = []
    lines: list[Trace] = []
    for curve in curves:
        hue = f"@{look[curve.norm].hue}"
        base: Trace = {"type": "scatter", "mode": "lines", "name": text(curve.norm), "legendgroup": curve.norm}
        steps = list(curve.steps)
        if steps:
            edge = base | {"x": steps, "hoverinfo": "skip", "line": {"width": 0, "color": hue}}
            tints.append(edge | {"y": shorts(curve.low)})
            tints.append(edge | {"y": shorts(curve.high), "fill": "tonexty", "fillcolor": f"{hue}-tint"})
            lines.append(
                base
                | {"x": steps, "y": shorts(curve.mean), "line": {"width": 2, "color": hue}}
                | {"hovertemplate": f"<b>{text(curve.norm)}</b><br>step %{{x}}: %{{y:.3g}}<extra></extra>"}
            )
        for run in curve.diverged:
            lines.append(
                base
                | {"x": [step for step, _ in run], "y": shorts(loss for _, loss in run)}
                | {"mode": "lines+markers", "line": {"width": 1, "color": hue, "dash": "dot"}}
                | {"marker": {"color": hue, "size": [0] * (len(run) - 1) + [9], "symbol": "x"}}
                | {"hovertemplate": f"<b>{text(curve.norm)}</b>, a run that diverged<br>step %{{x}}<extra></extra>"}
            )
    data = tints + lines  # every line above every tint
    return {"data": data, "layout": layout(300, axis("step"), log_axis("training loss, nats", _heights(data)))}


def evaluation_kinds(
    kinds: Mapping[str, Mapping[str, Sequence[tuple[int, Interval]]]], look: Mapping[str, Look]
) -> Figure:
    """Test NLL of one trained model under three kinds of statistics, against batch size."""
    sizes = sorted({size for lines in kinds.values() for line in lines.values() for size, _ in line})
    data: list[Trace] = []
    for norm, lines in kinds.items():
        hue = look[norm].hue
        for rank, (kind, line) in enumerate(lines.items()):
            xs = [sizes.index(size) + 0.5 * _dodge(rank, len(lines)) for size, _ in line]
            dots = _dots(norm, xs, [i.mean for _, i in line], look[norm], EVALUATION_MARKERS.get(kind, "cross"))
            data.append(
                dots
                | {"mode": "lines+markers", "error_y": _error_bars([i for _, i in line], hue)}
                | {"line": {"color": f"@{hue}", "width": 1.5, "dash": EVALUATION_DASHES.get(kind, "longdash")}}
                | {"customdata": [f"{wording.number(i.mean)} ({wording.span(i)})" for _, i in line]}
                | {"hovertemplate": f"<b>{text(norm)}</b>, {text(kind)}<br>%{{customdata}}<extra></extra>"}
            )
    nats = log_axis("test NLL, nats", _heights(data))
    return {"data": data, "layout": layout(300, places_axis("batch size", [str(s) for s in sizes]), nats)}


def step_times(points: Mapping[str, Sequence[ScorePoint]], look: Mapping[str, Look]) -> Figure:
    """Milliseconds a training step, bars beside each other at each batch size."""
    sizes = _sizes(points)
    data: list[Trace] = []
    for norm, line in points.items():
        timed = [p for p in line if p.score.ms_per_step is not None]
        if timed:
            data.append(
                {"type": "bar", "name": text(norm), "legendgroup": norm, "offsetgroup": norm}
                | {"x": [sizes.index(p.batch_size) for p in timed]}
                | {"y": shorts(p.score.ms_per_step for p in timed)}
                | {"marker": {"color": f"@{look[norm].hue}", "line": {"width": 0}}}
                | {"hovertemplate": f"<b>{text(norm)}</b><br>%{{y:.3g}} ms a step<extra></extra>"}
            )
    names = [str(size) for size in sizes]
    ms = axis("ms per step", rangemode="tozero")
    return {"data": data, "layout": layout(280, places_axis("batch size", names), ms, bargap=0.25, bargroupgap=0.1)}
