"""The metrics of Table II over completions: which of them can be measured here, and what each
says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
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
    def _loaded(self) -> dict[str, _Resource]:
        """Metric -> what it is measured with, of those that need something."""
        return {
            name: _load(row.resource(self.config), partial(row.load, self.config))
            for name, row in MEASURES.items()
            if row.load
        }

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        references: Sequence[str],
        rewards: Sequence[float] | None = None,
        fluency: Sequence[float] | None = None,
    ) -> dict[str, MetricValue]:
        """The metrics of one cell: n prompts, their completions, the references they are compared
        with, and where the ground truth is known raw rewards [n] and fluency [n] (0..1).

        bertscore_f1, rouge_l, bleu, meteor, toxicity, distinct_1, distinct_2, self_bleu in 0..1;
        sacrebleu in 0..100; length_ratio; reward in the rewards' unit and fluency only when
        given. Raises ValueError for lengths that differ, no row at all, a reference without a word,
        a reward that is not finite.
        """
        cell = {
            "prompts": prompts,
            "completions": completions,
            "references": references,
            "rewards": rewards,
            "fluency": fluency,
        }
        return self.score_many([cell])[0]

    def score_many(self, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, MetricValue]]:
        """`score` of many cells (each the keywords of `score`), every distinct text and pair
        measured only once."""
        for number, cell in enumerate(cells):
            _check(number, **cell)
        if not cells:
            return []
        columns = [_columns(cell) for cell in cells]
        tables = {name: self._by_item(name, columns) for name in MEASURES}
        return [
            self._cell(cell, column, tables) for cell, column in zip(cells, columns, strict=True)
        ]

    def _by_item(self, name: str, columns: Sequence[dict[str, list]]) -> dict[Any, float] | str:
        """Every distinct item of all cells -> its value, of a metric that is a mean over items; the
        reason why there is none."""
        row, found = MEASURES[name], self._loaded.get(name)
        if row.of not in ITEMS:
            return {}
        if found and found.use is None and not row.without:
            return found.reason
        items = sorted({item for column in columns for item in column[row.of]})
        values = row.measure(items, found.use) if found else row.measure(items)
        return dict(zip(items, np.asarray(values, dtype=float), strict=True))

    def _cell(
        self, cell: Mapping[str, Any], column: dict[str, list], tables: dict[str, Any]
    ) -> dict[str, MetricValue]:
        values, items = {}, {}
        for name, row in MEASURES.items():
            table = tables[name]
            if row.of == "given":
                if cell.get(row.measure) is not None:
                    items[name] = np.asarray(cell[row.measure], dtype=float)
            elif row.of == "cell":
                values[name] = row.measure(tuple(cell["completions"]), tuple(cell["references"]))
            elif isinstance(table, str):
                values[name] = MetricValue(None, reason=table)
            else:
                items[name] = np.array([table[item] for item in column[row.of]])
        values |= zip(items, self._means(items), strict=True)
        return {name: values[name] for name in MEASURES if name in values}

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
        notes = [row.note(self._loaded.get(name)) for name, row in MEASURES.items() if row.note]
        return [
            *dict.fromkeys(notes),
            "Intervals of one policy (metrics.csv): 95 %, percentile bootstrap over items.",
        ]


@dataclass(frozen=True)
class Measure:
    """How a metric comes about.

    of: what its function takes. "pairs" (completion, reference) and "texts" (completions): a list
    of items, and beside it what was loaded where something is; it gives a value each, [n], and the
    metric is their mean. "cell": completions and references of one cell; it gives a MetricValue.
    "given": nothing, measure is the keyword of `MetricSuite.score` that brings the values.
    note: its sentence below a table, given what was loaded. load: loads what it needs by the
    evaluation's settings; resource: what that is called when it is not there; without: whether
    there is a value even so.
    """

    of: str
    measure: Any
    note: Callable[[_Resource | None], str] | None = None
    load: Callable[[EvaluationConfig], tuple[Any, str]] | None = None
    resource: Callable[[EvaluationConfig], str] | None = None
    without: bool = False


ITEMS = ("pairs", "texts")


def _bertscore(config: EvaluationConfig) -> tuple[Any, str]:
    scorer = metrics.BertScore(config.bertscore)
    return scorer.f1, scorer.label


def _bertscore_note(found: _Resource) -> str:
    if found.use is None:
        return f"BERTScore F1: not measured: {found.reason}"
    return f"BERTScore F1: bert-score {version('bert-score')}, {found.label}, no idf, no rescaling."


def _meteor_note(found: _Resource) -> str:
    synonyms = f"with the synonyms of WordNet 3.0 ({found.label})"
    if found.use is None:
        synonyms = f"exact and stem matches only, no synonyms: {found.reason}"
    return f"METEOR: nltk {version('nltk')}, {synonyms}."


def _toxicity_note(found: _Resource) -> str:
    if found.use is None:
        return f"Toxicity: not measured: {found.reason}"
    return f"Toxicity: {found.label}, mean of items."


_corpus_bleu = lru_cache(maxsize=1)(metrics.corpus_bleu)  # BLEU and SacreBLEU of a cell at once


def _distinct(n: int, completions: Sequence[str], references: Sequence[str]) -> MetricValue:
    value = metrics.distinct(completions, n)
    return MetricValue(value, reason="" if value is not None else f"no completion has {n}-grams")


def _self_bleu(completions: Sequence[str], references: Sequence[str]) -> MetricValue:
    """Its items are each other's references: resampling them would not give an interval."""
    own = metrics.self_bleu(completions)
    if own is None:
        return MetricValue(None, reason="one completion has no others")
    return MetricValue(float(own.mean()), own)


def _texts_note(found: None) -> str:
    return (
        "distinct-n: share of distinct n-grams, lower case; self-BLEU: sacrebleu's sentence BLEU "
        "with a cell's other completions as references; length ratio: words of completion by words "
        "of reference."
    )


# In the order of the tables; how each is called and read stands in `config.metrics`.
MEASURES = {
    "bertscore_f1": Measure(
        "pairs",
        lambda pairs, f1: f1(pairs),
        _bertscore_note,
        load=_bertscore,
        resource=lambda config: f"the BERTScore model {Path(config.bertscore).name!r}",
    ),
    "rouge_l": Measure(
        "pairs",
        metrics.rouge_l,
        lambda _: (
            f"ROUGE-L: rouge-score {version('rouge-score')}, F-measure without stemming, mean of "
            "items."
        ),
    ),
    "bleu": Measure(
        "cell",
        lambda *texts: MetricValue(_corpus_bleu(*texts)[0]),
        lambda _: (
            "BLEU (0..1): unsmoothed over 13a tokens, as Hugging Face's evaluate defines it; here "
            "computed by sacrebleu."
        ),
    ),
    "sacrebleu": Measure(
        "cell",
        lambda *texts: MetricValue(_corpus_bleu(*texts)[1]),
        lambda _: (
            "SacreBLEU (0..100): "
            f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}."
        ),
    ),
    "meteor": Measure(
        "pairs",
        metrics.meteor,
        _meteor_note,
        load=lambda config: metrics.load_wordnet(),
        resource=lambda config: "WordNet",
        without=True,
    ),
    "toxicity": Measure(
        "texts",
        lambda texts, probability: probability(texts),
        _toxicity_note,
        load=lambda config: metrics.load_toxicity(config.toxicity),
        resource=lambda config: f"the toxicity model {config.toxicity!r}",
    ),
    "distinct_1": Measure("cell", partial(_distinct, 1), _texts_note),
    "distinct_2": Measure("cell", partial(_distinct, 2), _texts_note),
    "self_bleu": Measure("cell", _self_bleu, _texts_note),
    "length_ratio": Measure("pairs", metrics.length_ratio, _texts_note),
    "reward": Measure("given", "rewards"),
    "fluency": Measure("given", "fluency"),
}


def _columns(cell: Mapping[str, Any]) -> dict[str, list]:
    """What functions of items are given of a cell."""
    completions = list(cell["completions"])
    pairs = list(zip(completions, cell["references"], strict=True))
    return {"pairs": pairs, "texts": completions}


def _check(
    number: int,
    prompts: Sequence[str],
    completions: Sequence[str],
    references: Sequence[str],
    rewards: Sequence[float] | None = None,
    fluency: Sequence[float] | None = None,
) -> None:
    where = f"cell {number}"
    columns = (prompts, completions, references, rewards, fluency)
    lengths = [len(column) for column in columns if column is not None]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(
            f"{where}: prompts, completions, references, rewards, fluency have {lengths} rows; "
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
