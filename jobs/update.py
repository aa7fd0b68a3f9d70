"""Ray job that updates a finished run: users who come back, and new ones.

ray job submit --working-dir . -- python jobs/update.py /shared/hydra/runs/demo --users /shared/monday.jsonl
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["update", *sys.argv[1:]]))
