"""A scorer is opened from an export and from a finished run, on this machine and in an object store."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bytes_below import files_below

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.serving.export import export_run
from hydra_ray.serving.opening import open_scorer
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.plan import Plan

# Third parties: what imports torch uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")
REQUEST = ("nobody", "a night of comedy")


@pytest.fixture(scope="module")
def scorer(small_run: Plan, tmp_path_factory: pytest.TempPathFactory) -> ServedScorer:
    return load_scorer(export_run(small_run, str(tmp_path_factory.mktemp("export") / "export")).folder)


@pytest.fixture(params=["export", "stored export", "run", "stored run"])
def location(request: pytest.FixtureRequest, small_run: Plan, tmp_path: Path) -> str:
    """Where an export or a run is."""
    if request.param == "run":
        return small_run.run_folder
    root = request.getfixturevalue("s3_root") if request.param.startswith("stored") else str(tmp_path)
    place = storage.join(root, request.param.replace(" ", "-"))
    if request.param == "stored run":
        given = small_run.config.storage.root
        storage.copy_files(given, place, storage.list_tree(given))
        return storage.join(place, "runs", small_run.config.run)
    return export_run(small_run, place).folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_whatever_is_opened_scores_alike_and_leaves_no_copy(location: str, temporary: Path, scorer: ServedScorer):
    with ExitStack() as stack:
        opened = open_scorer(location, stack)
        assert opened.choose(*REQUEST) == scorer.choose(*REQUEST)
        assert bool(files_below(temporary)) == (not location.startswith("/") or "/runs/" in location)
    assert not files_below(temporary)


def test_what_is_neither_is_refused_and_leaves_no_copy(tmp_path: Path, temporary: Path):
    with ExitStack() as stack, pytest.raises(InputError, match="is neither an export nor a run: give"):
        open_scorer(str(tmp_path / "nothing"), stack)
    assert not files_below(temporary)
