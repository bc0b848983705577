"""Models as users write them: with files of their own, with half of the methods, and without any."""

import json
from pathlib import Path


class Constant:
    """Predicts one number, and can only be pickled."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, features):
        return [self.value] * len(features)


class Saved(Constant):
    """A ``StoredModel``."""

    def save(self, folder: Path) -> None:
        (folder / "value.json").write_text(json.dumps(self.value))

    @classmethod
    def load(cls, folder: Path) -> "Saved":
        return cls(json.loads((folder / "value.json").read_text()))

    def __reduce__(self):
        raise TypeError("this model cannot be pickled")


class LoadsIntoAnInstance(Constant):
    """``load`` changes an instance, as in some libraries: it cannot be called on the class."""

    def save(self, folder: Path) -> None:
        raise AssertionError("nothing could load this again")

    def load(self, folder: Path) -> None:
        self.value = 0.0


class Weighted(Constant):
    """An ``ExplainedModel``."""

    def importance(self) -> dict[str, float]:
        return {"x": self.value}


class WeightedLikeScikitLearn(Constant):
    @property
    def feature_importances_(self):
        return [self.value]
