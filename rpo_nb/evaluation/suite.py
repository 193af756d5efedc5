"""The metrics of Table II over generated completions; generation itself is `generation`, whose
names are here too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rpo_nb import intervals
from rpo_nb.config.schema import EvaluationConfig
from rpo_nb.evaluation import metrics


@dataclass(frozen=True)
class MetricValue:
    """One metric of one cell. value None: not measured, and reason says why. per_item [n] where the
    metric is a mean of items; ci then is the 95 % percentile interval of that mean over items (None
    for one item, or a corpus metric)."""

    value: float | None
    per_item: np.ndarray | None = None
    ci: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Resource:
    """Something loaded, or the reason why not."""

    use: Any
    label: str = ""
    reason: str = ""


def _load(what: str, make: Callable[[], tuple[Any, str]]) -> _Resource:
    try:
        return _Resource(*make())
    except (OSError, ImportError, LookupError) as error:
        # The reason goes into tables, so it is the same everywhere; the library's own words, paths
        # and all, go to the reader.
        warnings.warn(f"{what} could not be loaded: {error}", stacklevel=2)
        told = str(error) if isinstance(error, metrics.NotInstalled) else type(error).__name__
        return _Resource(None, reason=f"{what} could not be loaded ({told})")


class MetricSuite:
    """The metrics of Table II and those beside them, over the texts of one cell or of many.

    Models are loaded on first use and kept. What cannot be loaded gives a MetricValue without
    value, never a made-up number.
    """

    def __init__(self, config: EvaluationConfig, *, resamples: int = 2000, seed: int = 0):
        """resamples, seed: of the bootstrap; every cell draws the same items."""
        self.config, self.resamples, self.seed = config, resamples, seed

    @cached_property
    def _bertscore(self) -> _Resource:
        def make():
            scorer = metrics.BertScore(self.config.bertscore)
            return scorer.f1, scorer.label

        return _load(f"the BERTScore model {Path(self.config.bertscore).name!r}", make)

    @cached_property
    def _toxicity(self) -> _Resource:
        return _load(
            f"the toxicity model {self.config.toxicity!r}",
            lambda: metrics.load_toxicity(self.config.toxicity),
        )

    @cached_property
    def _wordnet(self) -> _Resource:
        return _load("WordNet", metrics.load_wordnet)

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        references: Sequence[str],
        rewards: Sequence[float] | None = None,
    ) -> dict[str, MetricValue]:
        """The metrics of one cell: n prompts, their completions, the references they are compared
        with, raw rewards [n].

        bertscore_f1, rouge_l, bleu, meteor, toxicity, distinct_1, distinct_2, self_bleu in 0..1;
        sacrebleu in 0..100; length_ratio; reward in the rewards' unit, only when given. Raises
        ValueError for lengths that differ, no row at all, a reference without a word, a reward that
        is not finite.
        """
        cell = {
            "prompts": prompts,
            "completions": completions,
            "references": references,
            "rewards": rewards,
        }
        return self.score_many([cell])[0]

    def score_many(self, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, MetricValue]]:
        """`score` of many cells (each the keywords of `score`), every distinct text and pair
        measured only once."""
        for number, cell in enumerate(cells):
            _check(number, **cell)
        if not cells:
            return []
        pairs = sorted({pair for cell in cells for pair in _pairs(cell)})
        texts = sorted({completion for completion, _ in pairs})
        by_pair = {
            "bertscore_f1": _measure(self._bertscore, pairs),
            "rouge_l": dict(zip(pairs, metrics.rouge_l(pairs), strict=True)),
            "meteor": dict(zip(pairs, metrics.meteor(pairs, self._wordnet.use), strict=True)),
            "length_ratio": dict(zip(pairs, metrics.length_ratio(pairs), strict=True)),
        }
        by_text = {"toxicity": _measure(self._toxicity, texts)}
        return [self._cell(cell, by_pair, by_text) for cell in cells]

    def _cell(
        self, cell: Mapping[str, Any], by_pair: dict[str, Any], by_text: dict[str, Any]
    ) -> dict[str, MetricValue]:
        completions, references = list(cell["completions"]), list(cell["references"])
        keyed = [(name, table, _pairs(cell)) for name, table in by_pair.items()]
        keyed += [(name, table, completions) for name, table in by_text.items()]
        items = {
            name: np.array([table[key] for key in keys])
            for name, table, keys in keyed
            if not isinstance(table, str)
        }
        if cell.get("rewards") is not None:
            items["reward"] = np.asarray(cell["rewards"], dtype=float)
        values = dict(zip(items, self._means(items), strict=True))
        values |= {
            name: MetricValue(None, reason=table)
            for name, table, _ in keyed
            if isinstance(table, str)
        }
        bleu, sacrebleu = metrics.corpus_bleu(completions, references)
        values |= {"bleu": MetricValue(bleu), "sacrebleu": MetricValue(sacrebleu)}
        for n in (1, 2):
            value = metrics.distinct(completions, n)
            values[f"distinct_{n}"] = MetricValue(
                value, reason="" if value is not None else f"no completion has {n}-grams"
            )
        own = metrics.self_bleu(completions)
        # Items of self-BLEU are each other's references: resampling them would not give an
        # interval.
        values["self_bleu"] = (
            MetricValue(float(own.mean()), own)
            if own is not None
            else MetricValue(None, reason="one completion has no others")
        )
        return {name: values[name] for name in METRICS if name in values}

    def _means(self, items: dict[str, np.ndarray]) -> list[MetricValue]:
        """Mean and interval of each row of items, all rows resampled alike."""
        table = np.stack(list(items.values()))
        found = intervals.bootstrap(table, resamples=self.resamples, seed=self.seed)
        return [
            MetricValue(float(mean), row, None if np.isnan(low) else (float(low), float(high)))
            for mean, low, high, row in zip(*found, table, strict=True)
        ]

    @property
    def footnotes(self) -> list[str]:
        """One sentence a metric: library, version, model or resource, scale; or why it was not
        measured."""
        bertscore, toxicity, wordnet = self._bertscore, self._toxicity, self._wordnet
        synonyms = f"with the synonyms of WordNet 3.0 ({wordnet.label})"
        if not wordnet.use:
            synonyms = f"exact and stem matches only, no synonyms: {wordnet.reason}"
        return [
            f"BERTScore F1: bert-score {version('bert-score')}, {bertscore.label}, no idf, no "
            "rescaling."
            if bertscore.use
            else f"BERTScore F1: not measured: {bertscore.reason}",
            f"ROUGE-L: rouge-score {version('rouge-score')}, F-measure without stemming, mean of "
            "items.",
            "BLEU (0..1): unsmoothed over 13a tokens, as Hugging Face's evaluate defines it; here "
            "computed by sacrebleu.",
            "SacreBLEU (0..100): "
            f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}.",
            f"METEOR: nltk {version('nltk')}, {synonyms}.",
            f"Toxicity: {toxicity.label}, mean of items."
            if toxicity.use
            else f"Toxicity: not measured: {toxicity.reason}",
            "distinct-n: share of distinct n-grams, lower case; self-BLEU: sacrebleu's sentence "
            "BLEU with a cell's other "
            "completions as references; length ratio: words of completion by words of reference.",
            "Intervals of one policy (metrics.csv): 95 %, percentile bootstrap over items.",
        ]


METRICS = (
    "bertscore_f1",
    "rouge_l",
    "bleu",
    "sacrebleu",
    "meteor",
    "toxicity",
    "distinct_1",
    "distinct_2",
    "self_bleu",
    "length_ratio",
    "reward",
)


def _pairs(cell: Mapping[str, Any]) -> list[metrics.Pair]:
    return list(zip(cell["completions"], cell["references"], strict=True))


def _measure(resource: _Resource, keys: list) -> dict | str:
    """key -> value, or the reason why there is none."""
    return (
        resource.reason
        if resource.use is None
        else dict(zip(keys, np.asarray(resource.use(keys), dtype=float), strict=True))
    )


def _check(
    number: int,
    prompts: Sequence[str],
    completions: Sequence[str],
    references: Sequence[str],
    rewards: Sequence[float] | None = None,
) -> None:
    where = f"cell {number}"
    lengths = [
        len(column) for column in (prompts, completions, references, rewards) if column is not None
    ]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(
            f"{where}: prompts, completions, references, rewards have {lengths} rows; "
            "give the same number, above 0"
        )
    blank = next((i for i, text in enumerate(references) if not text.split()), None)
    if blank is not None:
        raise ValueError(f"{where}: reference {blank} has no word; leave its row out")
    if rewards is not None and not np.isfinite(np.asarray(rewards, dtype=float)).all():
        raise ValueError(
            f"{where}: reward {int(np.argmin(np.isfinite(rewards)))} is not finite; "
            "leave its row out"
        )
