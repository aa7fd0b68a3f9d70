"""Ray job by which a finished run learns from what people say of the answers that they were given.

ray job submit --working-dir . -- python jobs/feedback.py /shared/hydra/runs/demo --file /shared/said.csv
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["feedback", *sys.argv[1:]]))
