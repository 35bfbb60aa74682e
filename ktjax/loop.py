"""The training loop that every job shares: a generator of events.

The caller handles them: logs, evaluates, saves. The loop itself knows neither data nor files.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from ktjax import progress
from ktjax.train import Metrics, State, Step


class Pace(NamedTuple):
    """How long training takes, and how often events occur, in steps."""

    total: int  # completed updates at the end
    log_every: int
    eval_every: int
    per_dispatch: int = 1  # the host gets results of this many steps at a time
    frozen_every: int | None = None  # `frozen` may change every so many steps; None: never


class Log(NamedTuple):
    """Metrics are due: their means over the steps since the last log."""

    step: int
    means: dict[str, float]


class Evaluation(NamedTuple):
    """An evaluation and a checkpoint are due; the metrics are means since the last evaluation."""

    step: int
    state: State
    means: dict[str, float]


class Stop(NamedTuple):
    """Training was stopped between two evaluations; `recent`: the metrics since the last one."""

    step: int
    state: State
    recent: list[dict[str, float]]


Event = Log | Evaluation | Stop


def dispatches(
    first: int, total: int, *, eval_every: int, size: int, frozen_every: int | None = None
) -> Iterator[int]:
    """How many steps each dispatch makes: `size`, or fewer before an evaluation and at the end.

    Also fewer before `frozen` changes. Where dispatches end does not depend on where a run begins,
    so that a resumed run compiles the same programs.
    """
    ends = [n for n in (size, eval_every, frozen_every) if n is not None]
    while first < total:
        end = min(total, *((first // n + 1) * n for n in ends))
        yield end - first
        first = end


def of_steps(
    frozen: Callable[[int], Any], *, every: int | None, views: int | None
) -> Callable[[int], Any]:
    """The `frozen` that `run` takes, made from `frozen(view)`, which is called once per view.

    Args:
      frozen: gives what steps take while they see a view.
      every: steps after which the view changes; None: one `frozen` serves all views.
      views: how many there are; None: as many as epochs.
    """
    of_view = functools.lru_cache(maxsize=1)(frozen)

    def of_step(step: int) -> Any:
        epoch = 0 if every is None else step // every
        return of_view(epoch if views is None else epoch % views)

    return of_step


def run(
    step: Step,
    state: State,
    batches: Iterator[Mapping[str, jax.Array]],
    *,
    frozen: Callable[[int], Any],
    key: jax.Array,
    pace: Pace,
    name: str,
    recent: Sequence[dict[str, float]] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains from `state.step` to `pace.total`, or until `stop` returns True.

    Args:
      step: a compiled train step; it donates the state.
      state: where to begin.
      batches: device batches, starting with step `state.step`; grouped as `dispatches` says.
      frozen: maps a step to what is passed to the steps from there on; see `Pace.frozen_every`.
      key: randomness of the run; each step folds its number in.
      pace: when events are due.
      name: label of the progress bar.
      recent: the metrics of each step before the first one, back to the last evaluation.
      stop: called once after every dispatch; whether to stop there.

    Yields:
      The events. There is an Evaluation at the end, too, and a Log before each. A Stop comes last,
      unless its step was evaluated. The state of an event is only valid until the next event: that
      of the last one is the final state.

    Raises:
      FloatingPointError: a loss was not finite; names the steps. No later state was yielded.
    """
    now = int(state.step)
    sizes = dispatches(
        now,
        pace.total,
        eval_every=pace.eval_every,
        size=pace.per_dispatch,
        frozen_every=pace.frozen_every,
    )
    with progress.bar(total=pace.total, initial=now, desc=name, unit="step", leave=False) as bar:
        seen = _Seen(now, recent, name=name, log_every=pace.log_every, bar=bar)
        bar.set_postfix_str("compiling the first step")
        for size, batch in zip(sizes, batches, strict=False):
            state, metrics = step(state, frozen(now), batch, key)
            if bar.postfix:
                bar.set_postfix_str("")
            # These steps are running on the device: fetching earlier ones costs no wait.
            yield from seen.logs_due(now)
            seen.pending.append(metrics)
            now += size
            stopping = stop()
            evaluates = now % pace.eval_every == 0 or now == pace.total
            if evaluates or stopping:
                seen.fetch()
                yield from seen.logs_due(now)
            if evaluates:
                if seen.logged < now:
                    yield seen.log(now)
                yield Evaluation(now, state, _means(seen.recent))
                seen.begin(now)
            elif stopping:
                yield Stop(now, state, seen.recent)
            if stopping:
                return


class _Seen:
    """The metrics of each step since the last evaluation, on the device and on the host."""

    def __init__(
        self,
        now: int,
        recent: Sequence[dict[str, float]],
        *,
        name: str,
        log_every: int,
        bar: tqdm.tqdm,
    ):
        self.recent = list(recent)
        self.pending: list[Metrics] = []
        self._evaluated = now - len(self.recent)
        self.logged = max(self._evaluated, now // log_every * log_every)
        self._name, self._log_every, self._bar = name, log_every, bar

    def begin(self, now: int) -> None:
        """Starts over: this step was evaluated."""
        self.recent, self._evaluated = [], now

    def fetch(self) -> None:
        """Waits for the metrics on the device; FloatingPointError if they are not finite."""
        first = self._evaluated + len(self.recent) + 1
        fetched = [m for metrics in jax.device_get(self.pending) for m in per_step(metrics)]
        self.pending.clear()
        # Checks gradients, too: bad ones reach the parameters before the next loss shows them.
        bad = [i for i, m in enumerate(fetched) if not math.isfinite(m["loss"] + m["grad_norm"])]
        if bad:
            raise FloatingPointError(
                f"{self._name}: the loss or its gradient is not finite at step {first + bad[0]}, "
                f"and in {len(bad)} of the steps {first} to {first + len(fetched) - 1}. Nothing "
                "was saved after that; a lower learning rate, or clipping, may help."
            )
        self.recent.extend(fetched)
        self._bar.update(len(fetched))

    def log(self, until: int) -> Log:
        """The means since the last log; the steps must have been fetched."""
        start, end = self.logged - self._evaluated, until - self._evaluated
        self.logged = until
        return Log(until, _means(self.recent[start:end]))

    def logs_due(self, done: int) -> Iterator[Log]:
        """The logs up to step `done`; fetches only if one is due."""
        due = range(
            (self.logged // self._log_every + 1) * self._log_every, done + 1, self._log_every
        )
        if due:
            self.fetch()
        for until in due:
            yield self.log(until)


def per_step(metrics: Metrics) -> list[dict[str, float]]:
    """The metrics of a dispatch, for each step."""
    arrays = {name: np.atleast_1d(value) for name, value in metrics.items()}
    return [{name: float(x[i]) for name, x in arrays.items()} for i in range(len(arrays["loss"]))]


def _means(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {k: sum(m[k] for m in metrics) / len(metrics) for k in metrics[0]}
