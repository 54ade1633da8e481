"""The verdict of an audit: what came back, how sure that is, and what it does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, Literal, get_args

from scipy.stats import binomtest
from torch import Tensor

from lit_recon.audit.loaders import whole_pixels
from lit_recon.records.truth import Truth

Level = Literal["exact", "uncertified", "recognisable", "inputs", "nothing"]
CONFIDENCE = 0.95
RATES = (0.0, 0.001, 0.01)  # of false positives
CHANCE = 1e-3  # a probability below which so many recognisable images are no chance
PLURAL = {"image": "images", "patch": "patches"}
LIMITS = (
    "A model from which nothing came back has not been shown to be safe: other attacks, more time"
    " or an attacker who knows more may get more.",
    "The attacks look for whole training inputs. They do not ask whether a given person was in the"
    " training set.",
    "Certificates hold for images of whole pixel levels under the pixel scale that was given.",
)


@dataclass(frozen=True)
class Share:
    """A count with its exact binomial interval (Clopper and Pearson 1934).

    >>> Share.of(0, 20).words
    '0 of 20 (95 % interval: 0 to 17 %)'

    Attributes:
        count: how many.
        total: of how many, at least 1.
        low, high: the interval of confidence `CONFIDENCE` for the share, in [0, 1].
    """

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int) -> Share:
        """A count of so many cases."""
        found = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
        return cls(count, total, float(found.low), float(found.high))

    @property
    def words(self) -> str:
        """Count and interval for people."""
        low, high = (f"{100 * value:.0f}" for value in (self.low, self.high))
        interval = f"{100 * CONFIDENCE:.0f} % interval: {low} to {high} %"
        return f"{self.count} of {self.total} ({interval})"


@dataclass(frozen=True)
class Rate:
    """How many training images are told from held-out ones at a false-positive rate.

    An image counts as trained on if its nearest candidate is more like it (NCC) than a threshold,
    the lowest at which no more than that share of the held-out images count as well (Carlini et
    al. 2022, arXiv 2112.03570).

    Attributes:
        false_positives: the rate, in [0, 1]; 0: none of the held-out images counts.
        members: how many training images count; None: fewer held-out images than 1 over the rate,
            so the rate cannot be claimed.
    """

    false_positives: float
    members: Share | None

    @classmethod
    def of(cls, rate: float, members: Tensor, held_out: Tensor) -> Rate:
        """From the likeness of n training images (n,) and of m held-out ones (m,), at least one.

        >>> import torch
        >>> told = Rate.of(0.0, torch.tensor([0.9, 0.2]), torch.tensor([0.3, 0.1]))
        >>> told.members.count, Rate.of(0.01, torch.ones(2), torch.zeros(99)).members
        (1, None)
        """
        if 0 < rate * len(held_out) < 1:
            return cls(rate, None)
        threshold = held_out.sort(descending=True).values[floor(rate * len(held_out))]
        return cls(rate, Share.of(int((members > threshold).sum()), len(members)))


@dataclass(frozen=True)
class Attacked:
    """What one method gave.

    Attributes:
        numbers: content of its metrics.json.
        images: (m, c, h, w) uint8 decoded candidates; None: the inputs are no images.
        certified: (m,) bool; None: without certificates.
        patches: whether the images are patches of images.
        likeness: (n,) and (m,) how like each training image and each held-out one is to its nearest
            candidate, in [-1, 1]; None: not known.
    """

    numbers: Mapping[str, Any]
    images: Tensor | None = None
    certified: Tensor | None = None
    patches: bool = False
    likeness: tuple[Tensor, Tensor] | None = None

    @property
    def rates(self) -> tuple[Rate, ...]:
        """At each rate of `RATES`; empty where they cannot be known."""
        if self.likeness is None or not all(map(len, self.likeness)):
            return ()
        return tuple(Rate.of(rate, *self.likeness) for rate in RATES)

    @property
    def sure(self) -> set[bytes]:
        """The certified images, each once."""
        if self.images is None or self.certified is None:
            return set()
        return as_keys(self.images[self.certified])

    @property
    def complete(self) -> bool:
        """Whether the method is sure that all images have come back, each with a certificate."""
        whole = (
            self.certified is not None and len(self.certified) > 0 and bool(self.certified.all())
        )
        return bool(self.numbers["sure"]) and whole


@dataclass(frozen=True)
class Verdict:
    """What an audit says.

    Attributes:
        level: ``exact``: images came back with a certificate, or exact where the data are known;
            ``uncertified``: a method is sure of success, and no image has a certificate, as where
            differences of images came back; ``recognisable``: more images of the data are
            recognisable than by chance; ``inputs``: inputs that are no images came back;
            ``nothing``.
        certified: images with a certificate, from all methods, each counted once.
        members: how many images of the given data are among these; None: no data of images.
        held_out: the same for images that were not trained on; None: there are none.
        control: the same for the given data and a network that was not trained on them; None:
            there is no such network.
        recognisable: images of the data that are recognisable (stretched SSIM above 0.4), by the
            best method; None: not known.
        chance: the largest share of them that is recognisable without an attack: in held-out
            images, rows of the first layer, or the mean image.
        inputs: inputs of the data that are recovered (direction error below 0.1), by the best
            method; None: not known.
        evidence: where no image is certified, what methods say that are sure of success.
        what: what came back, a key of `PLURAL`.
        rates: training images that are told from held-out ones, at each rate of `RATES`, by the
            method that tells most of them without a false positive; empty: not known.
        controls: how many held-out images these are of.
        patches: the verdict on patches of images, where the first layer reads these.
    """

    level: Level
    certified: int
    members: Share | None = None
    held_out: Share | None = None
    control: Share | None = None
    recognisable: Share | None = None
    chance: float | None = None
    inputs: Share | None = None
    evidence: tuple[str, ...] = ()
    what: str = "image"
    rates: tuple[Rate, ...] = ()
    controls: int = 0
    patches: Verdict | None = None

    @property
    def worst(self) -> Level:
        """The level of this verdict or that on patches, whichever came back better."""
        levels = [self.level] if self.patches is None else [self.level, self.patches.level]
        return min(levels, key=get_args(Level).index)

    @property
    def status(self) -> int:
        """The exit status: 0 if nothing came back, 3 if something did."""
        return 0 if self.worst == "nothing" else 3

    @property
    def words(self) -> list[str]:
        """The verdict in sentences."""
        if self.patches is None or self.patches.level == "nothing":
            return list(_sentences(self))
        whole = [] if self.level == "nothing" else _sentences(self)
        return [*_sentences(self.patches), *whole]


def verdict_of(
    attacked: Sequence[Attacked],
    truth: Truth | None,
    control: Sequence[Attacked] = (),
    what: str = "image",
) -> Verdict:
    """The verdict of an audit.

    Args:
        attacked: what every method gave.
        truth: the data that the network is said to be trained on; None: not given.
        control: what every method gave on a network that was not trained on them; empty: none.
        what: what the images are, a key of `PLURAL`.
    """
    sure: set[bytes] = set().union(*(result.sure for result in attacked))
    numbers = [result.numbers for result in attacked]
    told = [f"{found['method']}: {found['reason']}" for found in numbers if found["sure"]]
    evidence = () if sure else tuple(told)
    without: Level = "uncertified" if evidence else "nothing"
    if truth is None:
        return Verdict("exact" if sure else without, len(sure), evidence=evidence, what=what)
    inputs = _best(numbers, "recovered_fraction", truth.n)
    if truth.images is None:
        level: Level = "inputs" if inputs is not None and inputs.count else without
        return Verdict(level, 0, inputs=inputs, evidence=evidence, what=what)
    members = Share.of(_found(truth.images, sure), truth.n)
    held_out = None
    if truth.pixels is not None and len(truth.held_out):
        others = whole_pixels(truth.held_out, truth.pixels)
        if others is not None:
            held_out = Share.of(_found(others, sure), len(others))
    control_sure: set[bytes] = set().union(*(result.sure for result in control))
    recognisable = _best(numbers, "good_fraction", truth.n)
    nulls = ("null_good_fraction", "null_good_rows", "null_good_mean")
    chance = max((found[name] or 0 for found in numbers for name in nulls), default=None)
    exact = sure or any(found["exact_fraction"] for found in numbers)
    level = "exact" if exact else without
    if level == "nothing" and recognisable is not None and recognisable.count:
        rate = max(chance or 0, 1 / (truth.n + 1))
        unlikely = binomtest(recognisable.count, truth.n, rate, alternative="greater").pvalue
        level = "recognisable" if unlikely < CHANCE else "nothing"
    return Verdict(
        level,
        len(sure),
        members,
        held_out,
        Share.of(_found(truth.images, control_sure), truth.n) if control else None,
        recognisable,
        chance,
        inputs,
        evidence,
        what,
        *_best_rates(attacked),
    )


def as_keys(images: Tensor) -> set[bytes]:
    """The images (m, c, h, w) uint8 as keys of a set."""
    return {_key(image) for image in images}


def _found(images: Tensor, among: set[bytes]) -> int:
    """How many of the images (m, c, h, w) are among them."""
    return sum(_key(image) in among for image in images)


def _key(image: Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


def _best(numbers: Iterable[Mapping[str, Any]], name: str, n: int) -> Share | None:
    """The best method's count of a share of n; None: no method has it."""
    shares = [found[name] for found in numbers if found[name] is not None]
    return Share.of(round(max(shares) * n), n) if shares else None


def _best_rates(attacked: Iterable[Attacked]) -> tuple[tuple[Rate, ...], int]:
    """The rates of the method that tells most images without a false positive, and of how many."""
    known = [(result.rates, len(result.likeness[1])) for result in attacked if result.likeness]
    told = [(rates, m) for rates, m in known if rates and rates[0].members is not None]
    return max(told, key=lambda found: getattr(found[0][0].members, "count", 0), default=((), 0))


def _sentences(verdict: Verdict) -> Iterable[str]:
    many = PLURAL[verdict.what]
    if verdict.certified:
        one = verdict.certified == 1
        came = f"{verdict.what} was" if one else f"{many} were"
        yield (
            f"{verdict.certified} {came} read out of the weights, exact in every pixel,"
            f" {'with' if one else 'each with'} a certificate."
        )
    if verdict.members is not None and verdict.certified:
        yield f"Of the given training {many}, they are {verdict.members.words}."
    if verdict.level == "exact" and not verdict.certified:
        yield f"Training {many} came back exact in every pixel, without a certificate."
    if verdict.recognisable is not None and verdict.level in ("exact", "recognisable"):
        by_chance = "" if verdict.chance is None else f"; without an attack {verdict.chance:.0%}"
        yield f"Recognisable training {many}: {verdict.recognisable.words}{by_chance}."
    if verdict.level == "inputs" and verdict.inputs is not None:
        yield f"Training inputs that came back: {verdict.inputs.words}."
    if verdict.level == "uncertified":
        yield f"There is evidence of success, without a certified {verdict.what}."
    yield from (f"{clause}." for clause in verdict.evidence)
    if verdict.level == "nothing":
        yield "Nothing came back."
    if verdict.held_out is not None:
        yield (
            f"{many.capitalize()} that were not trained on, among the certified:"
            f" {verdict.held_out.words}."
        )
    if verdict.control is not None:
        yield (
            "Of the given images, a network that was not trained on them gave"
            f" {verdict.control.words}."
        )
    yield from _rates_in_words(verdict)


def _rates_in_words(verdict: Verdict) -> Iterable[str]:
    if verdict.level == "nothing":
        return
    many = PLURAL[verdict.what]
    for rate in verdict.rates:
        at = f"at {100 * rate.false_positives:g} % false positives"
        if not rate.false_positives:
            at = f"without a false positive among {verdict.controls} held-out ones"
        if rate.members is not None:
            yield f"Training {many} told from others by what came back, {at}: {rate.members.words}."
    unknown = [100 * rate.false_positives for rate in verdict.rates if rate.members is None]
    if unknown:
        rates = " and ".join(f"{rate:g} %" for rate in unknown)
        yield (
            f"{verdict.controls} held-out {many} are too few for a false-positive rate of {rates};"
            f" the smallest that they can show is {100 / verdict.controls:.2g} %."
        )
