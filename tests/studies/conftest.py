"""Fixtures that the tests of this room share."""

from __future__ import annotations

import pytest

from rpo_nb.config import loading


@pytest.fixture(scope="module")
def profile():
    return loading.load_profile("smoke", sizes="small", seeds="0")
