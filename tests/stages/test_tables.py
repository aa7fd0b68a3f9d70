"""Parts of a stage's tables."""

from pathlib import Path

import pytest

from hydra_ray.rows import ProfiledUser
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.user_rows import rows_of_users
from hydra_ray.stages.tables import read_rows, write_rows
from hydra_ray.storage import open_part, read_counters


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(name="profiles", fingerprint="0" * 16, root=str(tmp_path), num_buckets=1)


@pytest.mark.parametrize(("num", "num_groups"), [(0, 1), (1, 1), (256, 1), (600, 3)])
def test_rows_are_written_in_groups_and_read_as_they_were(stage: Stage, num: int, num_groups: int):
    rows = [ProfiledUser(user_id=f"{n:04d}", profile=str(n), error=None) for n in range(num)]
    counters = write_rows(stage, "profiles", 0, rows, ProfiledUser, {"answers": 7.0})
    location = stage.part("profiles", 0)
    assert read_counters(location) == counters == {"rows": num, "answers": 7.0}
    with open_part(location) as part:
        assert part.num_row_groups == num_groups
    assert read_rows(stage, "profiles", 0, ProfiledUser) == {row.user_id: row for row in rows}
    wanted = {"0000", "0300", "0599", "none"}
    assert rows_of_users(location, ProfiledUser, wanted) == {r.user_id: r for r in rows if r.user_id in wanted}
