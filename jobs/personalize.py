"""Ray job that runs the whole pipeline.

ray job submit --working-dir . -- python jobs/personalize.py jobs/configs/demo.yaml storage.root=/shared/hydra
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
