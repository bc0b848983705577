"""The promotion gate: whether a candidate may become the champion. Pure: records in, checks out."""

import math

from rayworks.metrics import METRICS
from rayworks.params import PromoteOptions
from rayworks.records import Evaluation, GateCheck, Metrics, ServeCheck, SliceMetrics


def checks(evaluation: Evaluation, serve_check: ServeCheck | None, options: PromoteOptions) -> tuple[GateCheck, ...]:
    """Return all conditions of a promotion, each with its numbers.

    The rival is the champion. If there is none, or it cannot be scored, the rival is the naive baseline: a champion
    that cannot score today's data does not justify keeping a worse service, and a check says so.
    """
    rival = "champion" if evaluation.champion else "baseline"
    results = [_better_overall(evaluation, rival, options)]
    if evaluation.champion:
        results += [_better_than_baseline(evaluation), _no_slice_worse(evaluation, options)]
    if evaluation.champion_error:
        detail = f"could not be scored, so the baseline is the rival: {evaluation.champion_error}"
        results.append(GateCheck(name="champion", passed=True, detail=detail))
    if serve_check is not None:
        detail = "; ".join(serve_check.findings) or f"{serve_check.rows} served predictions match the model's own"
        results.append(GateCheck(name="serving", passed=serve_check.passed, detail=detail))
    return tuple(results)


def _better_overall(evaluation: Evaluation, rival: str, options: PromoteOptions) -> GateCheck:
    other = evaluation.champion or evaluation.baseline
    gain = _gain(evaluation.metric, evaluation.candidate, other)
    compared = _comparison(evaluation.metric, evaluation.candidate, other, rival)
    return GateCheck(
        name=f"better than the {rival}",
        passed=gain >= options.margin and gain > 0,
        detail=f"{compared} (needed: {options.margin:.1%} better)",
    )


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
        return _gain(metric, pair[0].candidate, pair[1])

    worst, champion = min(comparable, key=lambda pair: -math.inf if math.isnan(gain_of(pair)) else gain_of(pair))
    compared = _comparison(metric, worst.candidate, champion, "champion")
    return GateCheck(
        name=name,
        passed=gain_of((worst, champion)) >= -options.slice_tolerance,
        detail=f"worst of {len(comparable)} is {worst.column} = {worst.value}: "
        f"{compared} (allowed: {options.slice_tolerance:.1%} worse)",
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
