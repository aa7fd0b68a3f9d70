"""Ray Datasets are told from other tables, and become the same rows as Arrow tables and back."""

import pyarrow as pa
import pytest

from hydra_ray.commands.predict_tables import _kind_of  # pyright: ignore[reportPrivateUsage]
from hydra_ray.engine.datasets import dataset_of, tables_of
from hydra_ray.rows import to_table
from hydra_ray.stages.predicted import Predicted

pytestmark = [
    pytest.mark.ray,
    # Third parties: what imports Ray Data uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.usefixtures("shared_ray")
def test_answers_as_a_dataset_hold_the_same_rows():
    answer = Predicted(
        user_id="a",
        query_id="q",
        answer="comedy",
        system="hydra",
        reason="",
        score=None,
        record_ids=("r1", "r2"),
        error=None,
    )
    tables = [to_table([], Predicted), to_table([answer] * 3, Predicted)]
    dataset = dataset_of(tables)
    assert _kind_of(dataset) == "ray"
    assert pa.concat_tables(tables_of(dataset)).to_pylist() == pa.concat_tables(tables).to_pylist()
