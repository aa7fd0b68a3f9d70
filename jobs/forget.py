"""Ray job that removes users, for storage roots that only the cluster can reach.

Ray keeps and shows what a job was started with, so give ids in a file:
ray job submit --working-dir . -- python jobs/forget.py --run /shared/hydra/runs/demo --users-file /shared/forget.txt
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["forget", *sys.argv[1:]]))
