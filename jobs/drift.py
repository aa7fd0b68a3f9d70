"""Ray job that tells whether what users of a finished run share still fits.

ray job submit --working-dir . -- python jobs/drift.py /shared/hydra/runs/demo
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["drift", *sys.argv[1:]]))
