"""A worker process keeps the flow runs that it used last, and closes no flow run that is in use."""

import pytest

from rayworks.runner.flow_run_cache import FlowRunCache


class FlowRun:
    """The part of an entered flow run that the cache uses; the cache itself needs neither Prefect nor Ray."""

    def __init__(self, name: str) -> None:
        self.name, self.is_closed = name, False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def entered() -> list[str]:
    return []


@pytest.fixture
def cache(entered: list[str]) -> FlowRunCache:
    def enter(name: str) -> FlowRun:
        entered.append(name)
        return FlowRun(name)

    return FlowRunCache(enter, size=2)  # type: ignore[arg-type]


def use(cache: FlowRunCache, name: str) -> FlowRun:
    with cache.use(name) as flow_run:
        return flow_run  # type: ignore[return-value]


def test_a_flow_run_is_entered_once(cache: FlowRunCache, entered: list[str]):
    assert use(cache, "first") is use(cache, "first")
    assert entered == ["first"]


def test_the_flow_run_that_was_not_used_for_longest_is_closed(cache: FlowRunCache, entered: list[str]):
    first, second = use(cache, "first"), use(cache, "second")
    use(cache, "first")
    use(cache, "third")
    assert (first.is_closed, second.is_closed) == (False, True)
    use(cache, "second")
    assert entered == ["first", "second", "third", "second"]


def test_a_flow_run_is_not_closed_while_a_task_run_of_it_runs(cache: FlowRunCache):
    with cache.use("first") as first, cache.use("first"):
        use(cache, "second")
        use(cache, "third")
        assert not first.is_closed  # type: ignore[attr-defined]
    use(cache, "fourth")
    assert first.is_closed  # type: ignore[attr-defined]


def test_a_flow_run_that_cannot_be_closed_fails_no_other_task_run(
    cache: FlowRunCache, caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        raise OSError("the connection is lost")

    use(cache, "first").close = fail  # type: ignore[method-assign]
    use(cache, "second")
    use(cache, "third")
    assert "A flow run could not be closed" in caplog.text
    assert "the connection is lost" in caplog.text


def test_a_flow_run_that_cannot_be_entered_is_tried_again():
    attempts: list[str] = []

    def enter(name: str) -> FlowRun:
        attempts.append(name)
        if len(attempts) == 1:
            raise OSError("the API cannot be reached")
        return FlowRun(name)

    cache = FlowRunCache(enter, size=1)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="cannot be reached"):
        use(cache, "first")
    assert use(cache, "first").name == "first"
