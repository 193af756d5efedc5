"""What a plan says of hours."""

import pytest

from rpo_nb.config.loading import load_profile, repository_root
from rpo_nb.planning import plan, plan_text
from tests.planning.machines import A100

CPU, GPU = {"name": "CPU (2 threads)"}, {"name": "A100 80GB"}


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (None, "?"),
        (0.001, "1 min"),
        (3.54, "3.5 h"),
        (96, "4.0 days"),
        (128_690 * 24, "over a year"),
    ],
)
def test_hours_are_told_as_people_tell_them(hours, text):
    assert plan_text.time_text(hours) == text


def test_what_a_cpu_cannot_do_names_the_gpu_option_and_no_number_of_days():
    said = plan_text.in_all({"hours": 128_690 * 24.0, "device": CPU})
    assert "--gpu 'A100 80GB'" in said and "128" not in said
    for hours, device in ((128_690 * 24.0, GPU), (5.0, CPU)):
        assert "--gpu" not in plan_text.in_all({"hours": hours, "device": device})


def test_the_guides_table_is_what_the_plan_says(tmp_path, empty_hub_cache):
    made = plan.make_plan(load_profile("flan-t5"), tmp_path, device=A100)
    guide = (repository_root() / "docs" / "scale.md").read_text(encoding="utf-8")
    for row in made["sizes"]:
        cells = [
            f"{row['to train']}",
            plan_text.time_text(row["hours"]),
            f"{row['memory'] / 2**30:.1f} GiB",
            f"{row['disk'] / 2**30:.0f} GiB",
        ]
        (line,) = (one for one in guide.splitlines() if one.lower().startswith(f"| {row['size']}"))
        assert line.endswith(f"| {' | '.join(cells)} |")
    days = plan_text.time_text(sum(made["judge_hours"].values()))
    assert f"| both judges, Tables III and IV in both orders | | {days} | |" in guide
