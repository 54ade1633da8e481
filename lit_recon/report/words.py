"""A run in plain words, and its numbers as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from math import ceil, isfinite, sqrt
from typing import Any

from lit_recon.metrics.numbers import Number
from lit_recon.report.run import Checkpoint, MethodResults, Run

NOTHING = "–"  # for a number that has no meaning
GOOD = ("good_fraction", "null_good_fraction", "null_good_rows", "null_good_mean")
CLOSER = 0.5  # times the null's direction error: above it nothing of the training data shows


def number(value: float | None) -> str:
    """Three digits: ``0.25``, ``92,160``, ``2.3e-8``."""
    if value is None or not isfinite(value):
        return NOTHING
    if isinstance(value, int) or 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def of_text(value: str) -> str:
    """The text of a table's cell: a number with three digits, anything else as it is.

    >>> of_text("0.6576280"), of_text("relu")
    ('0.658', 'relu')
    """
    try:
        return number(float(value))
    except ValueError:
        return value or NOTHING


def percent(share: float | None) -> str:
    """``85%``."""
    return NOTHING if share is None else f"{100 * share:.3g}%"


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``34 s``, ``5 min 20 s``, ``3 h 5 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def value(described: Number, found: float | None) -> str:
    """The text of a number of the registry, by its scale."""
    if described.scale == "share":
        return percent(found)
    return duration(found) if described.scale == "seconds" else number(found)


def at(point: Checkpoint, described: Number) -> str | None:
    """The same at a checkpoint, as ``3 of 4`` where something is counted; None without a value."""
    counts = {
        "recovered_fraction": (recovered(point) if point.scored else None, point.n),
        "exact_fraction": (exact(point), point.n),
        "certified_fraction": certified(point) or (None, 0),
        **{name: (_good(point, name), point.n) for name in GOOD},
    }
    if described.name in counts:
        count, of = counts[described.name]
        return None if count is None else f"{count} of {of}"
    found = point.number(described.name)
    return None if found is None else value(described, found)


def recovered(point: Checkpoint) -> int:
    """How many training samples came back."""
    return sum(row.recovered for row in point.rows)


def exact(point: Checkpoint) -> int | None:
    """How many came back in every pixel; None for data that are no images."""
    return sum(bool(row.exact) for row in point.rows) if is_image(point) else None


def certified(point: Checkpoint) -> tuple[int, int] | None:
    """How many candidates the certificate accepts, and of how many; None without a certificate."""
    share = point.number("certified_fraction")
    if share is None:
        return None
    candidates = int(point.numbers.get("candidates", point.n))
    return round(share * candidates), candidates


def _good(point: Checkpoint, name: str) -> int | None:
    """How many training images a share of recognisable ones is; None without that share."""
    share = point.number(name)
    return None if share is None else round(share * point.n)


def is_image(point: Checkpoint) -> bool:
    """Whether the training samples are images."""
    return any(row.exact is not None for row in point.rows)


def things(point: Checkpoint, count: int) -> str:
    """``image`` or ``samples``."""
    return ("image" if is_image(point) else "sample") + ("" if count == 1 else "s")


def strongest(results: MethodResults) -> Checkpoint:
    """The first checkpoint at which most came back; the last one if nothing ever did."""
    best = max(results.checkpoints, key=_came_back)
    return best if any(_came_back(best)) else results.last


def best(run: Run) -> MethodResults:
    """The method by which most came back, the first of equals; the run has at least one."""
    return max(run.methods, key=lambda results: _came_back(strongest(results)))


def _came_back(point: Checkpoint) -> tuple[int, int]:
    if point.scored:
        return recovered(point), exact(point) or 0
    accepted, _ = certified(point) or (0, 0)
    return accepted, 0


def headline(results: MethodResults, by: str = "") -> str:
    """What leaked, in one sentence.

    Args:
        results: of one method.
        by: what the sentence says of the method, as ``by projection``; empty: nothing.
    """
    point = strongest(results)
    if not point.scored:
        return _unscored_headline(point, by)
    n, found, right = point.n, recovered(point), exact(point)
    came = f"came back from the weights {by}".rstrip()
    if not found:
        return f"No training {things(point, 1)} {came}"
    of = f"{n} training {things(point, n)}"
    which = f"{found} of {of}"
    if found == n:
        which = f"All {of}" if n > 1 else f"The training {things(point, 1)}"
    sentence = f"{which} {came}"
    if right is None:
        return sentence
    if right == found:
        return f"{sentence}, exact in every pixel"
    return f"{sentence}, {right or 'none'} of them exact in every pixel"


def _unscored_headline(point: Checkpoint, by: str) -> str:
    what = f"candidates from the weights {by}".rstrip()
    counts = certified(point)
    if counts is None:
        return f"{point.numbers['candidates']} {what}, without a certificate"
    accepted, of = counts
    which = {0: f"None of {of}", of: f"All {of}"}.get(accepted, f"{accepted} of {of}")
    return f"{which} {what} {'is' if accepted == 0 else 'are'} certified"


def headline_of(run: Run) -> str:
    """The same for a run, of the method by which most came back."""
    first = best(run)
    if len(run.methods) == 1:
        return headline(first)
    if not any(_came_back(strongest(first))):
        return headline(first, f"by any of {len(run.methods)} methods")
    return headline(first, f"by {first.label}")


def when(results: MethodResults) -> Iterator[str]:
    """From which step on, in sentences."""
    points = results.checkpoints
    best, last = strongest(results), points[-1]
    if not best.scored:
        yield "The training data were not given, so that nothing is scored against them."
        return
    if not recovered(best):
        many = f"{len(points)} checkpoints, steps {points[0].step:,} to {last.step:,}"
        yield f"It was tried at {many if len(points) > 1 else f'step {last.step:,}'}."
        return
    first = next(point for point in points if recovered(point))
    if first is not best:
        most = f"{recovered(best)} of {best.n} at step {best.step:,}"
        yield f"The first came back at step {first.step:,}, {most}."
    elif first is points[0]:
        yield f"First seen at step {first.step:,}, the first checkpoint."
    else:
        before = points[points.index(first) - 1]
        yield f"First seen at step {first.step:,}; at step {before.step:,} there was nothing."
    if _came_back(last) < _came_back(best):
        also = "" if exact(last) is None else f", {exact(last) or 'none'} of them exact"
        yield f"At the last checkpoint, step {last.step:,}, it was {recovered(last)}{also}."


def certainty(point: Checkpoint) -> Iterator[str]:
    """How sure that is, in sentences: the certificate, and the comparison with other data."""
    accepted = certified(point)
    if accepted is not None:
        yield (
            f"The certificate, which has not seen the training data, accepts {accepted[0]} of "
            f"{accepted[1]} candidates."
        )
    error, null = point.number("direction_error"), point.number("null_direction_error")
    if error is not None and null is not None:
        near = "" if error < CLOSER * null else ", hardly different,"
        yield (
            f"The mean direction error is {number(error)} against the training {things(point, 2)} "
            f"and{near} {number(null)} against others that were not trained on; between unrelated "
            f"ones it is about {number(sqrt(2))}."
        )
    yield from _recognisable(point)
    yield f"The attack ended after {duration(point.number('seconds'))}: {point.numbers['reason']}."


def _recognisable(point: Checkpoint) -> Iterator[str]:
    """How many images only look alike, beside what would without an attack; nothing if unknown."""
    count = _good(point, "good_fraction")
    if count is None:
        return
    held_out, rows = _good(point, "null_good_fraction"), _good(point, "null_good_rows")
    others = []
    if held_out is not None:
        given = point.numbers["null_held_out"]
        others.append(f"{held_out} in {given:,} held-out image{'' if given == 1 else 's'}")
    if rows is not None:
        others.append(f"{rows} in the rows of the first layer's weights")
    beside = f"; the same score finds {' and '.join(others)}" if others else ""
    milder = "by a milder score that ignores brightness and contrast"
    yield f"{count} of {point.n} are recognisable, {milder}{beside}."


def progress(run: Run) -> str | None:
    """Where training stopped, if that was before its end; None otherwise, or if it is not known."""
    planned = _planned_steps(run.config)
    steps = [row["step"] for row in run.training]
    steps += [point.step for results in run.methods for point in results.checkpoints]
    reached = max(steps, default=0)
    if planned is None or reached >= planned:
        return None
    return f"Training stopped at step {reached:,} of {planned:,}."


def _planned_steps(config: Mapping[str, Any]) -> int | None:
    """The steps that the configuration asks for; None where time or an interruption ends it."""
    trainer = config.get("trainer") or {}
    data = (config.get("data") or {}).get("init_args") or {}
    if trainer.get("max_steps", -1) not in (-1, None):
        return int(trainer["max_steps"])
    epochs, n = trainer.get("max_epochs"), data.get("n")
    if (
        not epochs
        or not n
        or trainer.get("max_time")
        or trainer.get("accumulate_grad_batches") != 1
    ):
        return None
    return int(epochs) * ceil(n / (data.get("batch_size") or n))


def facts(run: Run) -> list[tuple[str, str]]:
    """The run in a few names and numbers."""
    config = run.config
    shown = []
    for group, title in (("data", "Data"), ("model", "Model"), ("optim", "Optimiser")):
        part = config.get(group)
        if part is None:  # `reconstruct` knows no training
            continue
        given = part.get("init_args") or {}
        named = [f"{name} {_plain(given[name])}" for name in SHOWN if given.get(name) is not None]
        shown.append((title, ", ".join([short(part.get("class_path")), *named])))
    chosen = config.get("recon") or []  # an audit and somebody's own Trainer choose none
    chosen = chosen if isinstance(chosen, list) else [chosen]
    named = [short(method.get("class_path")) for method in chosen]
    named = named or [results.method for results in run.methods]
    shown.append(("Method" if len(named) == 1 else "Methods", ", ".join(named) or NOTHING))
    ratios = [results.last.number("p_over_dn") for results in run.methods]
    known = next(filter(None, ratios), None)
    if known is not None:
        shown.append(("Equations per unknown", number(known)))
    return shown


# Of all constructor arguments those that make a run what it is.
SHOWN = ("n", "d", "classes", "image_size", "p", "width", "blocks", "activation", "lr", "momentum")


def short(class_path: str | None) -> str:
    """The name of a class without where it is."""
    return class_path.rpartition(".")[2] if class_path else NOTHING


def wall_time(provenance: Mapping[str, Any]) -> float | None:
    """Seconds from the start to the end of the run; None where one is not recorded."""
    times = [provenance.get(name) for name in ("started_utc", "finished_utc")]
    if None in times:
        return None
    start, end = (datetime.fromisoformat(str(time)) for time in times)
    return (end - start).total_seconds()


def first_step(points: Sequence[Checkpoint], index: int, what: str) -> int | None:
    """The first step at which a training sample was ``recovered`` or ``exact``; None if never."""
    return next((point.step for point in points if getattr(point.rows[index], what)), None)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return number(value) if isinstance(value, int | float) else str(value)
