"""Whether a candidate may become the champion. Pure: records in, findings out."""

import math

from rayworks.params import PromoteOptions
from rayworks.records import Evaluation, GateCheck, Metrics, ServeCheck, SliceMetrics


def checks(evaluation: Evaluation, serve_check: ServeCheck | None, options: PromoteOptions) -> tuple[GateCheck, ...]:
    """All conditions of a promotion, each with its numbers.

    The rival is the champion. Without one, or where it cannot be scored at all, it is the naive baseline: a champion
    that no longer answers on today's data is no reason to keep a worse service, and the finding says so.
    """
    rival = "champion" if evaluation.champion else "baseline"
    found = [_overall(evaluation, rival, options)]
    if evaluation.champion:
        found.append(_beats_baseline(evaluation))
        found.append(_slices(evaluation, options))
    if evaluation.champion_error:
        found.append(
            GateCheck(
                name="champion",
                passed=True,
                detail=f"could not be scored, so the baseline is the rival: {evaluation.champion_error}",
            )
        )
    if serve_check is not None:
        detail = "; ".join(serve_check.findings) or f"{serve_check.rows} rows were answered as the model itself answers"
        found.append(GateCheck(name="serving", passed=serve_check.passed, detail=detail))
    return tuple(found)


def gain(candidate: float, rival: float) -> float:
    """By which share of the rival's value the candidate's is lower; negative if it is higher, NaN if that says nothing."""
    if math.isnan(candidate) or math.isnan(rival):
        return math.nan
    if rival == 0:
        return 0.0 if candidate == 0 else -math.inf
    return (rival - candidate) / abs(rival)


def _overall(evaluation: Evaluation, rival: str, options: PromoteOptions) -> GateCheck:
    metric = evaluation.metric
    other = evaluation.champion or evaluation.baseline
    better = gain(evaluation.candidate.values[metric], other.values[metric])
    detail = f"{_compared(metric, evaluation.candidate, other, rival)} (needed: {options.margin:.1%} better)"
    return GateCheck(name=f"better than the {rival}", passed=better >= options.margin and better > 0, detail=detail)


def _beats_baseline(evaluation: Evaluation) -> GateCheck:
    metric = evaluation.metric
    better = gain(evaluation.candidate.values[metric], evaluation.baseline.values[metric])
    detail = _compared(metric, evaluation.candidate, evaluation.baseline, "baseline")
    return GateCheck(name="better than the baseline", passed=better > 0, detail=detail)


def _slices(evaluation: Evaluation, options: PromoteOptions) -> GateCheck:
    metric = evaluation.metric
    judged = [
        s for s in evaluation.slices if s.champion and metric in s.champion.values and metric in s.candidate.values
    ]
    if not judged:
        return GateCheck(name="no slice worse", passed=True, detail="there are no slices")

    def gain_of(part: SliceMetrics) -> float:
        assert part.champion is not None
        return gain(part.candidate.values[metric], part.champion.values[metric])

    worst = min(judged, key=lambda part: -math.inf if math.isnan(gain_of(part)) else gain_of(part))
    assert worst.champion is not None
    compared = _compared(metric, worst.candidate, worst.champion, "champion")
    detail = f"worst of {len(judged)} is {worst.column} = {worst.value}: {compared} (allowed: {options.slice_tolerance:.1%} worse)"
    return GateCheck(name="no slice worse", passed=gain_of(worst) >= -options.slice_tolerance, detail=detail)


def _compared(metric: str, candidate: Metrics, other: Metrics, name: str) -> str:
    ours, theirs = candidate.values[metric], other.values[metric]
    better = gain(ours, theirs)
    words = (
        "cannot be compared with"
        if math.isnan(better)
        else f"is {abs(better):.1%} {'better' if better >= 0 else 'worse'} than"
    )
    return f"{metric} {ours:.4g} {words} the {name}'s {theirs:.4g}"


def reason(found: tuple[GateCheck, ...]) -> str:
    """The decision in a sentence."""
    failed = [check for check in found if not check.passed]
    if failed:
        return "Not promoted: " + "; ".join(f"{check.name} failed, {check.detail}" for check in failed) + "."
    return "Promoted: " + "; ".join(check.detail for check in found) + "."
