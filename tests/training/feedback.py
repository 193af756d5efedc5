"""Feedback and settings for the tests of `feedback_trainer`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rpo_nb import RPOConfig

WORDS = "red blue green boat kettle clock".split()


def rows(prompts=6, k=3):
    g = np.random.default_rng(0)
    return [
        {
            "prompt": f"{WORDS[i % 6]} {WORDS[(i * 2 + 1) % 6]} {'boat ' * (i % 3)}".strip(),
            "completion": " ".join(g.choice(WORDS, size=2 + j)),
            "reward": float(g.normal()),
        }
        for i in range(prompts)
        for j in range(k)
    ]


def config(tmp_path, kind=RPOConfig, **more):
    settings = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "seed": 3,
        "data_seed": 3,
    }
    return kind(**settings | more)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class Hub:
    """What was sent to the hub, in order: token, repo_id, commit_message, names of files, ..."""

    def __init__(self, monkeypatch):
        self.sent = []
        monkeypatch.setattr("huggingface_hub.HfApi", self._api)

    def _api(self, token=None):
        def create_repo(name, private=None, exist_ok=False):
            return SimpleNamespace(repo_id=f"me/{name}")

        def upload_folder(*, folder_path, **told):
            names = {file.name for file in Path(folder_path).iterdir()}
            self.sent.append(told | {"token": token, "names": names})

        return SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)
