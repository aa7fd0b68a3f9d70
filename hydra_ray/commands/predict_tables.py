"""`hydra_ray.predict`: what `hydra-ray predict` does, from and to tables in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hydra_ray.api import Run
from hydra_ray.commands.predict import answer_tables, answered_plan
from hydra_ray.engine.datasets import dataset_of, tables_of
from hydra_ray.errors import InputError
from hydra_ray.extras import naming_extras
from hydra_ray.runs.root import absolute_root
from hydra_ray.temporary import temporary_folder

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import Dataset

    TableT = TypeVar("TableT", pd.DataFrame, pa.Table, Dataset)
else:
    TableT = TypeVar("TableT")


@naming_extras()
def predict(run: Run | str | Path, dataset: TableT, overrides: Iterable[str] = ()) -> TableT:
    """Answer queries by what a finished run and its updates know; nothing is learned. It is `hydra-ray predict`: the
    columns are the same, what was answered before is not asked again, and a call that was killed goes on when it is
    repeated with the same queries.

    Args:
        run: the finished run, or its folder, `<storage.root>/runs/<run>`.
        dataset: queries, one a row with the columns user_id, input and, where they have ids, query_id: a pandas
            DataFrame, an Arrow table or a Ray Dataset.
        overrides: each `section.key=value`; of placement, report and input settings.

    Returns:
        A row a query (`hydra_ray.stages.predicted.Predicted`), in no order, of the same type as `dataset`.

    Raises:
        InputError: there is no such run, `dataset` is none of these, or it has no rows or rows that are no queries.
        HydraError: its message says what went wrong and what to do.
    """
    tables = list[pa.Table]()
    with temporary_folder("queries") as folder:
        path = Path(folder) / "queries.parquet"
        _write(path, _rows(dataset))
        plan = answered_plan(run.folder if isinstance(run, Run) else absolute_root(str(run)), [str(path)], [*overrides])
        tables += answer_tables(plan)
    return cast(TableT, _like(dataset, tables))


def _rows(dataset: object) -> Iterator[pa.Table]:
    kind = _kind_of(dataset)
    if kind == "arrow":
        yield cast(pa.Table, dataset)
    elif kind == "pandas":
        yield pa.Table.from_pandas(cast("pd.DataFrame", dataset), preserve_index=False)
    else:
        yield from tables_of(cast("Dataset", dataset))


def _kind_of(dataset: object) -> str:
    """Return "arrow", "pandas" or "ray"; neither pandas nor Ray is imported for it."""
    if isinstance(dataset, pa.Table):
        return "arrow"
    for parent in type(dataset).__mro__:
        package, _, name = f"{parent.__module__}.{parent.__qualname__}".partition(".")
        if package == "pandas" and name.endswith("DataFrame"):
            return "pandas"
        if package == "ray" and name.endswith(".Dataset"):
            return "ray"
    raise InputError(
        f"got queries of the type {type(dataset)}; expected a pandas DataFrame, Arrow table or Ray Dataset"
    )


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next((table for table in tables if table.num_rows), None)
    if first is None:
        raise InputError("there are no queries: expected rows with user_id and input")
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


def _like(dataset: object, tables: list[pa.Table]) -> object:
    kind = _kind_of(dataset)
    if kind == "ray":
        return dataset_of(tables)
    joined = pa.concat_tables(tables)
    return joined if kind == "arrow" else joined.to_pandas()
