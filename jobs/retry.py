"""Ray job that repeats the failed requests of a run.

ray job submit --working-dir . -- python jobs/retry.py /shared/hydra/runs/demo
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["retry", *sys.argv[1:]]))
