"""Ray job that adds users to a finished run.

ray job submit --working-dir . -- python jobs/fit_users.py /shared/hydra/runs/demo --users /shared/june.jsonl
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit-users", *sys.argv[1:]]))
