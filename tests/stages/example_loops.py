"""Training loops that work, and loops that fail in every way that a user's loop can."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

from rayworks.errors import DataError
from rayworks.training.loops import xgboost

BACKEND = "xgboost"
DEFAULTS = {"max_depth": 2}


def linear(context):
    """A linear model by stochastic gradient descent (scikit-learn), which resumes from a checkpoint."""
    from sklearn.linear_model import SGDRegressor
    from sklearn.preprocessing import StandardScaler

    numeric = [feature.name for feature in context.features if feature.kind == "numeric"]
    rows, amounts = context.frame("train")
    held_out, actual = context.frame("validation")
    scaler = StandardScaler().fit(rows[numeric].fillna(0))

    def prepared(features):
        return scaler.transform(features[numeric].fillna(0))

    folder = context.restore()
    model, done = pickle.loads((folder / "model.pkl").read_bytes()) if folder else (SGDRegressor(random_state=0), 0)
    for epoch in range(done + 1, context.rounds + 1):
        model.partial_fit(prepared(rows), amounts)
        error = float(((model.predict(prepared(held_out)) - actual) ** 2).mean() ** 0.5)
        state = pickle.dumps((model, epoch))
        context.report(epoch, validation=error, save=lambda to, state=state: (to / "model.pkl").write_bytes(state))
    return Linear(scaler, model, numeric)


class Linear:
    def __init__(self, scaler, model, numeric):
        self.scaler, self.model, self.numeric = scaler, model, numeric

    def predict(self, features):
        return self.model.predict(self.scaler.transform(features[self.numeric].fillna(0)))


def raises(context):
    raise ZeroDivisionError("the user's mistake")


def raises_its_threads(context):
    import threadpoolctl
    import xgboost  # noqa: F401 - brings OpenMP

    raise ValueError({pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"})


def reports_nothing(context):
    return linear(_Silent(context))


def diverges(context):
    context.report(1, validation=float("nan"))


def data_are_bad_for_the_second(context):
    """Only the second worker fails, while the first waits for it. Each start is written to the file ``log``."""
    with Path(context.hyperparameters.pop("log")).open("a") as log:
        log.write(f"{context.rank}\n")
    if context.rank == 1:
        raise DataError("a file is not readable", where="part-7.parquet")
    return xgboost.train(context)


def fails_when_shallow(context):
    """Fails for some hyperparameters only."""
    if context.hyperparameters["max_depth"] < 4:
        raise ZeroDivisionError("too shallow")
    return xgboost.train(context)


def scores_higher_when_deeper(context):
    """Reports a score of which higher is better: the depth, best in the second of three rounds."""
    depth = context.hyperparameters["max_depth"]
    for round, share in enumerate((0.5, 1.0, 0.8), start=1):
        context.report(round, validation=share * depth)
    return Product(depth / 6)


class Product:
    """A share of the product of the first two columns."""

    def __init__(self, share):
        self.share = share

    def predict(self, features):
        return self.share * features.iloc[:, 0] * features.iloc[:, 1]


class Constant:
    def predict(self, features):
        return features.iloc[:, 0] * 0


def predicts_nan(context):
    context.report(1, validation=1.0)
    return NotANumber()


class NotANumberBeyondTheExample:
    """Predicts NaN from its sixth row on: not for the rows on which a model is tried when it is stored."""

    def predict(self, features):
        predictions = features.iloc[:, 0].fillna(0) * 0.0
        predictions.iloc[5:] = float("nan")
        return predictions


class NotANumber:
    def predict(self, features):
        return features.iloc[:, 0] * float("nan")


def holds_a_lock(context):
    """A model that cannot be pickled. Each start is written to the file ``log``, if there is one."""
    if log := context.hyperparameters.pop("log", None):
        with Path(log).open("a") as file:
            file.write("started\n")
    context.report(1, validation=1.0)
    model = Constant()
    model.size, model.lock = 3, threading.Lock()
    return model


def reads_a_file(context):
    """Reads a file of the working directory."""
    Path(context.hyperparameters.pop("file")).read_text()
    context.report(1, validation=1.0)
    return Constant()


def fails_on_the_past(context):
    """Fails unless all validation rows are newer than the training rows: the target grows with time."""
    (_, old), (_, new) = context.frame("train"), context.frame("validation")
    if old.max() >= new.min():
        raise ZeroDivisionError("the past is validated")
    context.report(1, validation=1.0)
    return Constant()


def killed_once(context):
    """The built-in loop on workers of which rank 0 is killed with two checkpoints stored.

    The hyperparameter ``log`` names a file for the rounds, ``storage`` the folder of the storage, ``killed_in`` the
    pass.
    """
    log, storage = (Path(context.hyperparameters.pop(name)) for name in ("log", "storage"))
    this_pass = "refit" if context.refit_rounds else "earlier" if context.is_earlier else "first"
    if context.hyperparameters.pop("killed_in") != this_pass:
        return xgboost.train(context)
    return xgboost.train(_KilledWithACheckpoint(context, log, storage))


def counts_rows(context):
    """Writes of each run of the loop to the file ``log``: the most rounds, the number of training rows, their largest
    target, and the smallest target of the validation rows. Its second round is the best.
    """
    (_, train), (_, validation) = context.frame("train"), context.frame("validation")
    with Path(context.hyperparameters.pop("log")).open("a") as log:
        log.write(f"{context.rounds} {len(train)} {train.max()} {validation.min()}\n")
    for round, error in enumerate((2.0, 1.0, 3.0), start=1):
        context.report(round, validation=error)
    return Constant()


class _Wrapped:
    def __init__(self, context):
        self.context = context

    def __getattr__(self, name):
        return getattr(self.context, name)


def slow(context):
    """The built-in loop with slow rounds, as on large data."""
    return xgboost.train(_Slow(context))


class _Slow(_Wrapped):
    def report(self, round, *, validation, train=None, save=None):
        time.sleep(0.15)
        self.context.report(round, validation=validation, train=train, save=save)


class _Silent(_Wrapped):
    def report(self, round, *, validation, train=None, save=None):
        pass


class _KilledWithACheckpoint(_Wrapped):
    def __init__(self, context, log, storage):
        super().__init__(context)
        self.log, self.storage, self.checkpoints, self.first_life = log, storage, 0, context.restore() is None

    def report(self, round, *, validation, train=None, save=None):
        if self.rank == 0:
            with self.log.open("a") as log:
                log.write(f"{round}\n")
        if self.first_life:
            time.sleep(0.02)  # longer than the seconds between checkpoints, however fast the machine

        def counted(folder):
            self.checkpoints += 1
            if self.first_life and self.checkpoints == 3:
                assert list(self.storage.glob("training/*/checkpoint.zip"))
                os.kill(os.getpid(), signal.SIGKILL)
            save(folder)

        self.context.report(round, validation=validation, train=train, save=counted)
