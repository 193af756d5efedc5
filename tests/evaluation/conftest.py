"""Fixtures that the tests of this room share."""

from __future__ import annotations

import pytest

from rpo_nb.config.schema import EvaluationConfig
from rpo_nb.evaluation.suite import MetricSuite


@pytest.fixture(scope="module")
def suite():
    return MetricSuite(EvaluationConfig(), resamples=200)
