"""Ray job that learns anew what users of a finished run share, from their present histories.

ray job submit --working-dir . -- python jobs/refresh.py /shared/hydra/runs/demo
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["refresh", *sys.argv[1:]]))
