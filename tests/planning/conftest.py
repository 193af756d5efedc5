"""Fixtures that the tests of this room share."""

from __future__ import annotations

import pytest

from rpo_nb.config.loading import load_profile


@pytest.fixture(scope="module")
def profile():
    return load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="sft,best_of_k,rpo",
        preset="paper",
        **{"training.batch_size": 24, "training.epochs": 2, "data.prompts": 23},
    )


@pytest.fixture
def empty_hub_cache(tmp_path, monkeypatch):
    """Nothing of any hub is on this machine."""
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
