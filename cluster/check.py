"""Ray job that checks, node by node, whether a running cluster is fit for a run; exit status 1 where it is not.

ray job submit --working-dir . -- python cluster/check.py jobs/configs/demo.yaml storage.root=/shared/hydra
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
