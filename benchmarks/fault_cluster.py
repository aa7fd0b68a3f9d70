"""A cluster of two nodes on this machine, one of which may be killed, with fault points in its workers."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fault_conditions
import fault_points


@dataclass(slots=True, kw_only=True)
class FaultCluster:
    """Head node and a second one, which may be killed."""

    cluster: Any
    node: Any

    @property
    def address(self) -> str:
        """Return the address for drivers in other processes."""
        return self.cluster.address

    @property
    def raylet_pid(self) -> int:
        """Return the process id of the raylet of the node that may be killed."""
        return self.node.all_processes["raylet"][0].process.pid

    def heal(self) -> None:
        """Replace the second node if it was killed."""
        if self.node.all_processes["raylet"][0].process.poll() is not None:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = self.cluster.add_node(**_NODE)


_NODE = {"num_cpus": 1, "object_store_memory": 200 << 20}
_HEAD = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 << 20}
"""Resources of the head node, enough for all work by itself."""


@contextmanager
def fault_cluster() -> Iterator[FaultCluster]:
    """Start a cluster on this machine, with fault points in its workers, and connect this process to it."""
    import ray
    from ray.cluster_utils import Cluster

    share_modules()
    os.environ.setdefault("RAY_worker_niceness", "0")
    # As many idle workers as a run needs are kept for the next run, not as few as there are CPUs.
    os.environ |= {"RAY_num_workers_soft_limit": "8", "RAY_idle_worker_killing_time_threshold_ms": "600000"}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A node that was killed counts as dead after five seconds, not after twenty.
    os.environ |= {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"}
    os.environ[fault_conditions.CLOCK] = os.path.join(tempfile.gettempdir(), f"chaos-clock-{os.getpid()}")
    cluster: Any = Cluster(initialize_head=True, head_node_args=_HEAD)
    try:
        connect(cluster.address)
        yield FaultCluster(cluster=cluster, node=cluster.add_node(**_NODE))
    finally:
        fault_conditions.right_clock()
        ray.shutdown()
        cluster.shutdown()


def share_modules() -> None:
    """Let workers, and processes that this one starts, find modules in the same places as this one."""
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))


def connect(address: str) -> None:
    """Connect this process to a cluster; faults can strike in its workers."""
    import ray

    ray.init(
        address=address,
        runtime_env={"worker_process_setup_hook": fault_points.install},
        log_to_driver=False,
        logging_level=logging.FATAL,
    )
