"""Reader of a finished run's metrics.json."""

from typing import Any

from hydra_ray import storage
from hydra_ray.errors import InputError

REPORT_ANEW = "Remove it, and the manifest.json of the report stage, and run again: only the report is made anew."
_EXPECTED = ("systems", "significance", "harm", "features", "users", "totals")


def read_report(run_folder: str) -> dict[str, Any]:
    """Read metrics.json in the folder of a run.

    Raises:
        InputError: the run has no report, or one of another version of this package.
    """
    location = storage.join(run_folder, "metrics.json")
    if not storage.exists(location):
        raise InputError(f"no report at {location}. Give <storage.root>/runs/<run> of a finished run.")
    report = storage.read_json(location, anew=REPORT_ANEW)
    missing = [key for key in _EXPECTED if key not in report]
    if missing:
        raise InputError(
            f"{location} lacks {missing}: another version of hydra_ray wrote it. Run its configuration again; only the "
            "report is made anew."
        )
    return report
