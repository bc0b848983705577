"""The records of a made-up run, for tests of its report."""

import math
from datetime import UTC, datetime

from rayworks import records as r

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def dataset(problem: r.Problem = "regression") -> r.Dataset:
    classes = {"regression": (), "binary": ("no", "yes"), "multiclass": ("a", "b", EVIL)}[problem]
    columns = (
        r.Column(name="distance", kind="numeric", dtype="float"),
        r.Column(name="city", kind="categorical", dtype="string"),
    )
    features = (
        r.Feature(name="distance", kind="numeric", source="distance"),
        r.Feature(name="city", kind="categorical", source="city", categories=("Oslo", EVIL)),
    )
    ignored = (r.Column(name="id", kind="ignored", dtype="string", note="every value differs"),)
    target = r.Target(name="delay", problem=problem, classes=classes)

    def split(name: r.SplitName, rows: int) -> r.Split:
        edges = tuple(float(edge) for edge in range(5))
        numeric = {"rows": rows, "missing": 0, "mean": 3.5, "minimum": 0.0, "maximum": 4.0, "edges": edges}
        statistics = (
            r.ColumnStatistics(name="distance", kind="numeric", counts=(rows // 2, rows // 2, 0, 0), **numeric),
            r.ColumnStatistics(
                name="city", kind="categorical", rows=rows, missing=1, values=("Oslo", EVIL), counts=(rows - 2, 1)
            ),
            r.ColumnStatistics(name="delay", kind="numeric", counts=(0, rows // 2, rows // 2, 0), **numeric),
        )
        return r.Split(name=name, uri=f"/data/{name}", rows=rows, statistics=statistics)

    return r.Dataset(
        name="trips",
        fingerprint="0123456789ab",
        uri="/data/trips",
        target=target,
        feature_set=r.FeatureSet(columns=columns, features=features, ignored=ignored),
        splits=(split("train", 7000), split("validation", 1500), split("test", 1500)),
        split_by="at random (seed 0)",
        split_method="random",
        split_column=None,
        sources=(r.SourceFile(uri="/lake/trips.csv", bytes=123456, modified=None),),
        rows_in=10234,
        rows_kept=10000,
        rows_rejected=234,
        reasons={f"not a number: {EVIL}": 234},
        rejected_uri="/data/trips/rejected",
        class_counts={str(label): 100 * (number + 1) for number, label in enumerate(classes)},
    )


def tune() -> r.TuneResult:
    def trial(number: int, metric: float | None) -> r.Trial:
        searched = {"eta": 0.1 * (number + 1), "booster": "abc"[number]}
        state, error = ("completed", "") if metric else ("failed", f"boom {EVIL}")
        return r.Trial(
            number=number, hyperparameters=searched, metric=metric, rounds=10, seconds=1.25, state=state, error=error
        )

    trials = [trial(number, metric) for number, metric in enumerate([9.0, 4.5, None])]
    return r.TuneResult(
        uri="/data/tuning",
        dataset_uri="/data/trips",
        loop="loops:train",
        ended=datetime(2025, 6, 1, tzinfo=UTC),
        metric="rmse",
        best=trials[1],
        trials=tuple(trials),
    )


def evaluation(*, champion: bool = True) -> r.Evaluation:
    def metrics(rmse: float, rows: int = 1500) -> r.Metrics:
        return r.Metrics(rows=rows, values={"mae": rmse * 0.7, "rmse": rmse, "r2": 1 - rmse / 20})

    slices = tuple(
        r.SliceMetrics(
            column="city",
            value=value,
            candidate=metrics(rmse, rows),
            baseline=metrics(12, rows),
            champion=metrics(5, rows) if champion else None,
        )
        for value, rmse, rows in (("Oslo", 4.0, 1200), (EVIL, 6.0, 300))
    )
    tenths = tuple(float(tenth) for tenth in range(1, 11))
    models = ("candidate", "champion") if champion else ("candidate",)
    bell = tuple(math.exp(-((x - 5) ** 2) / 4) for x in tenths)
    plots = (
        r.PlotData(name="residuals", x=tenths, series=dict.fromkeys(models, bell)),
        r.PlotData(
            name="calibration", x=tenths, series={f"{m} {w}": tenths for m in models for w in ("predicted", "actual")}
        ),
        r.PlotData(name="roc", x=tenths, series=dict.fromkeys(models, tenths)),
        r.PlotData(name="confusion", x=("a", "b"), series={"a": (8.0, 1.0), "b": (2.0, 9.0)}),
        r.PlotData(name="importance", x=("distance", "city"), series={"candidate": (0.8, 0.2)}),
    )
    return r.Evaluation(
        uri="/data/evaluation.json",
        metric="rmse",
        dataset_uri="/data/trips",
        candidate_uri="models:/trips/2",
        champion_uri="models:/trips/1",
        candidate=metrics(4.5),
        baseline=metrics(12),
        champion=metrics(5) if champion else None,
        champion_error="" if champion else f"The champion is gone: {EVIL}",
        slices=slices,
        plots=plots,
    )


def run(**changes: object) -> dict:
    """Return the arguments of the report functions, for a run that promoted its model."""
    version = r.ModelVersion(name="trips", version=2, uri="models:/trips/2", run_id="abc", fingerprint="f")
    model = r.ModelRef(
        uri="/data/models/trips",
        name="trips",
        dataset_uri="/data/trips",
        dataset_fingerprint="0123456789ab",
        loop="a:b",
        hyperparameters={"eta": 0.2, "max_depth": 4},
        metric="rmse",
        validation=4.0,
        best_round=2,
        seconds=12,
        workers=2,
        curve=tuple(r.CurvePoint(round=n, train=5.0 - n / 2, validation=6.0 - n) for n in (1, 2)),
    )
    decision = r.PromotionDecision(
        promoted=True,
        changed=True,
        reason="Promoted: it is better.",
        candidate=version,
        previous="models:/trips/1",
        checks=(r.GateCheck(name="better than the champion", passed=True, detail=f"by 10 % {EVIL}"),),
        uri="/data/decision",
    )
    serve_check = r.ServeCheck(
        uri="/data/serve_check.json",
        model_uri=version.uri,
        passed=True,
        rows=100,
        largest_difference=0,
        milliseconds_per_request=5,
    )
    records = {
        "title": "trips",
        "dataset": dataset(),
        "tune": tune(),
        "model": model,
        "version": version,
        "evaluation": evaluation(),
        "serve_check": serve_check,
        "decision": decision,
        "links": {"Prefect": "http://127.0.0.1:4200", "bad": "javascript:document.title='owned'"},
        "seconds": {"train": 12.0},
    }
    return records | changes
