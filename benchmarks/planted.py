"""Personal heads where the truth is known: 200 users with planted preferences.

    python benchmarks/planted.py [--root FOLDER] [section.key=value ...]

Runs jobs/configs/planted.yaml (about a quarter of an hour on two cores; resumable) and compares, on new users: personal
heads must beat the prompt with k retrieved records and the shared heads by more than the interval, and heads shuffled
between users must not beat the shared ones. Exit status 1 otherwise.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from hydra_ray.config import load_config
from hydra_ray.stages.run import personalize

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "planted.yaml"


def main() -> int:
    """Run, compare and print."""
    parser = argparse.ArgumentParser(description="The planted-preference benchmark")
    parser.add_argument("--root", default="outputs", help="storage.root of the run")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    root = f"storage.root={Path(arguments.root).resolve()}"
    plan = personalize(load_config(CONFIG, [root, *arguments.overrides]))
    metrics = json.loads(Path(plan.run_folder, "metrics.json").read_text())

    print(f"{metrics['num_users']} new users, {metrics['num_queries']} queries; accuracy [95 % interval]")
    for name, system in metrics["systems"].items():
        accuracy = system["metrics"]["accuracy"]
        print(f"  {name:<16}{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]")
    differences = {name: each["accuracy"] for name, each in metrics["differences"]["hydra"].items()}
    for name, difference in differences.items():
        print(f"  hydra - {name:<16}{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]")
    personal = metrics["differences"]["hydra_personal"]["hydra_shared"]["accuracy"]
    beats = differences["rag_k"]["low"] > 0 and personal["low"] > 0
    accuracies = {name: system["metrics"]["accuracy"]["value"] for name, system in metrics["systems"].items()}
    falls_back = accuracies["hydra_shuffled"] <= accuracies["hydra_shared"]
    print(f"personal heads beat RAG and the shared heads by more than the interval: {'yes' if beats else 'NO'}")
    print(f"shuffled heads are no better than the shared ones: {'yes' if falls_back else 'NO'}")
    return 0 if beats and falls_back else 1


if __name__ == "__main__":
    sys.exit(main())
