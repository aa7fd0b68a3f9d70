"""Whatever kind of fault strikes, a run that is resumed ends as if nothing had: the machinery of `benchmarks/chaos.py`.

One schedule of each kind that strikes a cluster's work, on a cluster of two nodes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_cluster import FaultCluster, fault_cluster
from fault_points import Fault, Point
from fault_runs import Reference, make_reference, run_schedule
from fault_schedules import Schedule, Strike, Trouble
from fault_summary import line

pytestmark = [
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultCluster]:
    with fault_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def reference(cluster: FaultCluster, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that was not disturbed."""
    return make_reference(tmp_path_factory.mktemp("undisturbed"))


STRIKES = {
    Fault.KILL_WORKER: (Point.COMMITTED, 12),
    Fault.KILL_ACTOR: (Point.KEPT, 3),
    Fault.ENGINE_DEATH: (Point.ANSWERED, 2),
    Fault.KILL_NODE: (Point.ANSWERED, 4),
    Fault.KILL_DRIVER: (Point.MANIFEST, 3),
    Fault.STOP_DRIVER: (Point.GENERATE, 5),
    Fault.DISK_FULL: (Point.COMMIT, 14),
    Fault.TRUNCATE: (Point.COMMITTED, 15),
    Fault.FAILED_ROWS: (Point.GENERATE, 4),
    Fault.READ_ONLY: (Point.COMMIT, 20),
}


@pytest.mark.ray
@pytest.mark.parametrize("fault", STRIKES)
def test_a_run_that_is_disturbed_ends_as_if_it_had_not_been(
    fault: Fault, cluster: FaultCluster, reference: Reference, tmp_path: Path
):
    point, count = STRIKES[fault]
    strike = Strike(fault=fault, point=point, count=count)
    schedule = Schedule(seed=0, victim="probes", strikes=(strike,))
    outcome = run_schedule(cluster, reference, schedule, tmp_path / "disturbed", 300)
    assert outcome.is_good, line(outcome)
    assert outcome.struck == (fault,)


@pytest.mark.ray
@pytest.mark.parametrize("trouble", [Trouble.TWO_RUNS, Trouble.CLOCK, Trouble.OTHER_VERSION])
def test_a_run_in_trouble_ends_as_if_it_had_not_been(
    trouble: Trouble, cluster: FaultCluster, reference: Reference, tmp_path: Path
):
    full = Strike(fault=Fault.DISK_FULL, point=Point.COMMIT, count=20)
    strikes = () if trouble == Trouble.TWO_RUNS else (full,)
    schedule = Schedule(seed=1, victim="drafts", strikes=strikes, trouble=trouble)
    outcome = run_schedule(cluster, reference, schedule, tmp_path / "disturbed", 300)
    assert outcome.is_good, line(outcome)
