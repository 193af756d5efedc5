"""Fixtures that the tests of this room share."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from tests.running.keys import model_folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub client's cache with one model and one data set, their refs and snapshots."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, commit in (("models--some--model", "a" * 40), ("datasets--some--data", "d" * 40)):
        model_folder(tmp_path / name / "snapshots" / commit, b"weights")
        (tmp_path / name / "refs").mkdir()
        (tmp_path / name / "refs" / "main").write_text(commit)
    return tmp_path
