"""Proves a cluster fit before a run, as one Ray job; exit status 1 where it is not.

ray job submit --working-dir . -- python cluster/check.py jobs/configs/demo.yaml storage.root=/shared/hydra
"""

import argparse
import sys

from hydra_ray.config import load_config
from hydra_ray.errors import HydraError
from hydra_ray.storage import require_absolute
from hydra_ray.stores import reach


def main() -> int:
    """Look at the cluster that this job runs on, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, see jobs/configs/")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="settings to change")
    parser.add_argument(
        "--wait", type=float, default=900, metavar="SECONDS", help="how long nodes that are started now may take"
    )
    arguments = parser.parse_intermixed_args()
    try:
        config = load_config(arguments.config, arguments.overrides)
        require_absolute(config.storage.root, "storage.root")
        reach(config.storage)
        from hydra_ray.cluster.live import examine_cluster
        from hydra_ray.stream import start_ray

        start_ray()
        findings = examine_cluster(config, arguments.wait)
    except HydraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, findings)))
    return int(any(finding.is_problem for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
