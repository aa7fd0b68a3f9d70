"""Ray job that forecasts a run, calibrated on the cluster that is to run it.

ray job submit --working-dir . -- python jobs/plan.py jobs/configs/demo.yaml storage.root=/shared/hydra
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
