"""Ray job that answers queries by a finished run and its updates.

ray job submit --working-dir . -- python jobs/predict.py /shared/hydra/runs/demo --queries /shared/asked.csv \\
    --output /shared/answers.parquet
"""

import sys

from hydra_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
