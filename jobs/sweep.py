"""Ray job that runs a sweep: many runs that share their stages.

ray job submit --working-dir . -- python jobs/sweep.py jobs/configs/sweep.yaml storage.root=/shared/hydra
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
