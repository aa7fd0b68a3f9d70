"""Forgets users as one Ray job, where the storage root can be reached from the cluster alone.

Ray keeps and shows what a job was started with, so give ids in a file:
ray job submit --working-dir . -- python jobs/forget.py --run /shared/hydra/runs/demo --users-file /shared/forget.txt
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["forget", *sys.argv[1:]]))
