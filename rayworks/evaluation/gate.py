"""The promotion gate: whether a candidate may become the champion. Pure: records in, checks out."""

import math

from rayworks.metrics import METRICS
from rayworks.params import PromoteOptions
from rayworks.records import Evaluation, GateCheck, Interval, Metrics, ServeCheck, SliceMetrics


def checks(evaluation: Evaluation, serve_check: ServeCheck | None, options: PromoteOptions) -> tuple[GateCheck, ...]:
    """Return all conditions of a promotion, each with its numbers.

    The rival is the champion. If there is none, or it cannot be scored, the rival is the naive baseline: a champion
    that cannot score today's data does not justify keeping a worse service, and a check says so.
    """
    rival = "champion" if evaluation.champion else "baseline"
    results = [_better_overall(evaluation, rival, options), _enough_rows(evaluation, options)]
    if evaluation.champion:
        results += [_better_than_baseline(evaluation), _no_slice_worse(evaluation, options)]
    if evaluation.learned:
        results.append(GateCheck(name="new hold-out rows", passed=False, detail=evaluation.learned))
    if evaluation.champion_error:
        detail = f"could not be scored, so the baseline is the rival: {evaluation.champion_error}"
        results.append(GateCheck(name="champion", passed=True, detail=detail))
    if serve_check is not None:
        detail = "; ".join(serve_check.findings) or f"{serve_check.rows} served predictions match the model's own"
        results.append(GateCheck(name="serving", passed=serve_check.passed, detail=detail))
    return tuple(results)


def hold(name: str, reason: str) -> tuple[GateCheck, ...]:
    """Return the check that fails after a rollback until a person lifts the hold; none without a hold.

    Args:
        name: Of the registered model.
        reason: Why it is on hold; empty if it is not.
    """
    lift = f"`uv run flows/rollback.py --name {name} --lift` lifts the hold, and so does the flow rollback in the UI"
    return (GateCheck(name="not on hold", passed=False, detail=f"{reason}; {lift}"),) if reason else ()


def _enough_rows(evaluation: Evaluation, options: PromoteOptions) -> GateCheck:
    rows = evaluation.candidate.rows
    return GateCheck(
        name="enough hold-out rows",
        passed=rows >= options.minimum_rows,
        detail=f"compared on {rows:,} hold-out rows (needed: {options.minimum_rows:,})",
    )


def _better_overall(evaluation: Evaluation, rival: str, options: PromoteOptions) -> GateCheck:
    """Return whether the gain is large enough, and more than chance."""
    other, interval = evaluation.champion or evaluation.baseline, evaluation.interval
    gain = _gain(evaluation.metric, evaluation.candidate, other)
    compared = _comparison(evaluation.metric, evaluation.candidate, other, rival)
    on_others = _in_words(interval, other.values[evaluation.metric])
    return GateCheck(
        name=f"better than the {rival}",
        passed=gain >= options.margin and gain > 0 and interval is not None and interval.low > 0,
        detail=f"{compared}, {on_others} (needed: {options.margin:.1%} better, and more than chance)",
    )


def _in_words(interval: Interval | None, rival: float) -> str:
    """Return what the improvement may be on other rows, after a comparison on these."""
    if interval is None:
        return "and too few rows, times or keys tell how much of it is chance"

    def words(improvement: float) -> str:
        size = f"{abs(improvement / rival):.1%}" if rival else f"{abs(improvement):.4g}"
        return f"{size} {'better' if improvement >= 0 else 'worse'}"

    return f"on other rows {words(interval.low)} to {words(interval.high)}"


def _better_than_baseline(evaluation: Evaluation) -> GateCheck:
    metric, candidate, baseline = evaluation.metric, evaluation.candidate, evaluation.baseline
    return GateCheck(
        name="better than the baseline",
        passed=_gain(metric, candidate, baseline) > 0,
        detail=_comparison(metric, candidate, baseline, "baseline"),
    )


def _no_slice_worse(evaluation: Evaluation, options: PromoteOptions) -> GateCheck:
    metric, name = evaluation.metric, "no slice worse"
    comparable = [
        (part, part.champion)
        for part in evaluation.slices
        if part.champion and metric in part.champion.values and metric in part.candidate.values
    ]
    if not comparable:
        return GateCheck(name=name, passed=True, detail="there are no slices")

    def gain_of(pair: tuple[SliceMetrics, Metrics]) -> float:
        gain = _gain(metric, pair[0].candidate, pair[1])
        return -math.inf if math.isnan(gain) else gain

    def fails(pair: tuple[SliceMetrics, Metrics]) -> bool:
        interval = pair[0].interval
        return gain_of(pair) < -options.slice_tolerance and (interval is None or interval.high < 0)

    failing = [pair for pair in comparable if fails(pair)]
    worst, champion = min(failing or comparable, key=gain_of)
    compared = _comparison(metric, worst.candidate, champion, "champion")
    on_others = _in_words(worst.interval, champion.values[metric])
    return GateCheck(
        name=name,
        passed=not failing,
        detail=f"worst of {len(comparable)} is {worst.column} = {worst.value}: {compared}, {on_others} "
        f"(allowed: {options.slice_tolerance:.1%} worse, or what may be chance)",
    )


def _gain(metric: str, candidate: Metrics, rival: Metrics) -> float:
    return METRICS[metric].gain(candidate.values[metric], rival.values[metric])


def _comparison(metric: str, candidate: Metrics, rival: Metrics, name: str) -> str:
    """Return the two values in words: 'rmse 10.2 is 3.0% better than the champion's 10.5'."""
    gain = _gain(metric, candidate, rival)
    direction = "better than" if gain >= 0 else "worse than"
    if math.isnan(gain):
        words = "cannot be compared with"
    elif math.isinf(gain):
        words = f"is {direction}"
    else:
        words = f"is {abs(gain):.1%} {direction}"
    return f"{metric} {candidate.values[metric]:.4g} {words} the {name}'s {rival.values[metric]:.4g}"


def reason(results: tuple[GateCheck, ...]) -> str:
    """Return the decision as a sentence."""
    failed = [check for check in results if not check.passed]
    if failed:
        return "Not promoted: " + "; ".join(f"{check.name} failed, {check.detail}" for check in failed) + "."
    return "Promoted: " + "; ".join(check.detail for check in results) + "."
