"""What training on Ray costs beside bare ``xgboost.train``: the same rows, parameters, rounds and cores, in one run.

The bare one runs before and after: where the two differ, something else used the cores, and the run says nothing.

    python benchmarks/training.py [ROUNDS] [FOLDER]

Writes ``training.md`` and ``training.json`` into FOLDER (``benchmarks/results``) and prints the former.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def bare(dataset: Any, rounds: int, threads: int) -> dict[str, float]:
    """Read the rows and boost, with nothing around: seconds of both."""
    import xgboost as xgb

    from rayworks.stages import share
    from rayworks.stages.loop import LoopContext
    from rayworks.stages.xgboost_loop import _matrices, _parameters

    class Context(LoopContext):
        def batches(self, split: Any, rows: int = 65_536) -> Any:
            return share.encoded(self.dataset, split)

    context = Context(dataset, {}, rounds=rounds, patience=rounds, threads=threads)
    context.dataset = dataset
    began = time.monotonic()
    train, validation = _matrices(context, 256)
    read = time.monotonic() - began
    began = time.monotonic()
    evals = [(train, "train"), (validation, "validation")]
    xgb.train(_parameters(context), train, num_boost_round=rounds, evals=evals, verbose_eval=False)
    return {"read": read, "boost": time.monotonic() - began}


def timed(context: Any) -> Any:
    """The built-in loop, which writes down how long it took and when its first and last round ended."""
    from rayworks.stages import xgboost_loop

    log = Path(context.hyperparameters.pop("log"))
    ends: list[float] = []
    report = context.report

    def noted(round: int, **values: Any) -> None:
        report(round, **values)
        ends.append(time.monotonic())

    context.report = noted
    began = time.monotonic()
    model = xgboost_loop.train(context)
    per_round = (ends[-1] - ends[0]) / (len(ends) - 1)
    log.write_text(json.dumps({"loop": time.monotonic() - began, "boost": per_round * len(ends)}))
    return model


def main(rounds: int = 2000, folder: str = "benchmarks/results") -> None:
    import os

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray

    from rayworks.params import ProcessOptions, TrainOptions
    from rayworks.stages import processing, training

    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="rayworks-") as storage:
        ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
        ref = processing.process("example://flights", "arr_delay", ProcessOptions(), storage_uri=storage)
        dataset = processing.load(ref)
        log = Path(storage) / "loop.json"
        options = TrainOptions(
            loop="benchmarks.training:timed",
            hyperparameters={"log": str(log)},
            rounds=rounds,
            early_stopping_rounds=rounds,
        )
        ray.shutdown()  # its idle processes would take time from the peer
        before = bare(dataset, rounds, cores)
        ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
        began = time.monotonic()
        training.train(ref, options, storage_uri=storage)
        total = time.monotonic() - began
        ours = json.loads(log.read_text())
        ray.shutdown()
        after = bare(dataset, rounds, cores)
    rows = dataset.split("train").rows
    facts = {
        "rows": rows,
        "features": len(dataset.feature_set.features),
        "rounds": rounds,
        "cores": cores,
        "rayworks": {**ours, "total": total, "outside_loop": total - ours["loop"]},
        "bare_before": {**before, "loop": sum(before.values())},
        "bare_after": {**after, "loop": sum(after.values())},
    }
    write(facts, Path(folder))


def write(facts: dict[str, Any], folder: Path) -> None:
    ours, before, after = facts["rayworks"], facts["bare_before"], facts["bare_after"]

    def row(name: str, key: str, of_bare: str) -> str:
        ratio = 2 * ours[key] / (before[of_bare] + after[of_bare])
        return f"| {name} | {ours[key]:.1f} | {before[of_bare]:.1f} | {after[of_bare]:.1f} | {ratio:.2f} |"

    text = f"""# Training: rayworks beside bare `xgboost.train`

{facts["rows"]:,} rows, {facts["features"]} features, {facts["rounds"]} rounds, {facts["cores"]} cores, one run.

| seconds | rayworks | bare, before | bare, after | ratio to their mean |
|---|---|---|---|---|
{row("boosting", "boost", "boost")}
{row("reading and boosting (the loop)", "loop", "loop")}
| outside the loop: start of workers, saving the model | {ours["outside_loop"]:.1f} | | | |
{row("total", "total", "loop")}
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.md").write_text(text)
    (folder / "training.json").write_text(json.dumps(facts, indent=1))
    print(text)  # noqa: T201 - a program


if __name__ == "__main__":
    main(*(int(value) if value.isdigit() else value for value in sys.argv[1:]))
