"""Experiment trackers: what they are told of a finished run, and how each is told it.

Settings, figures, costs and the report's page, without ids and texts of users. A tracker's package is imported where
the tracker is told something, and nowhere else.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra_ray.evaluate.phrases import Report, headline
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.evaluate.settings import dotted_settings
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.temporary import temporary_folder

PAGE = "report.html"
_MAX_VALUE = 500
"""Number of characters of a setting that MLflow keeps in all of its stores."""
_MAX_BATCH = 100
"""Number of settings that MLflow takes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What a tracker is told of a run."""

    run: str
    experiment: str
    """Name that runs of one task share."""
    headline: str
    settings: Mapping[str, str]
    """Settings by their dotted names."""
    figures: Mapping[str, float]
    """Figures by a name with a slash: of what, and whose."""
    page: str
    """The report as HTML, without examples and single users."""


def tracked_of(report: Report) -> Tracked:
    """Return what is told of a run.

    Args:
        report: content of a metrics.json.
    """
    settings = {name: str(value)[:_MAX_VALUE] for name, value in dotted_settings(report["config"]).items()}
    return Tracked(
        run=report["run"],
        experiment=f"hydra_ray {report['task']['name']}",
        headline=headline(report),
        settings=settings,
        figures=dict(_figures(report)),
        page=render_page({**report, "examples": [], "users": None}),
    )


def _figures(report: Report) -> Iterator[tuple[str, float]]:
    """Yield the headline's difference with its interval, every metric of every system, costs, and stages' seconds."""
    main, rival = report["metrics"][0]["name"], report["best_prompt_baseline"] or report["best_simple_baseline"]
    if rival is not None:
        difference: Mapping[str, float | None] = report["differences"][HYDRA][rival][main]
        named = {"difference": difference["value"], "low": difference["low"], "high": difference["high"]}
        yield from ((f"headline/{name}", value) for name, value in named.items() if value is not None)
    for system, scores in report["systems"].items():
        yield f"quality/{system}", scores["quality"]["value"]
        for metric, figure in scores["metrics"].items():
            yield f"{metric.replace(':', '.')}/{system}", figure["value"]
    for name, value in report["totals"].items():
        yield f"costs/{name}", float(value)
    for stage in report["stages"]:
        yield f"seconds/{stage['name']}", stage["seconds"]


def tell(tracker: str, tracked: Tracked, folder: Path) -> None:
    """Tell a tracker of a run.

    Args:
        tracker: one of `ReportConfig.trackers`.
        folder: folder for what the tracker writes in the place of a server; only TensorBoard's does.
    """
    _TRACKERS[tracker](tracked, folder)


def _tell_tensorboard(tracked: Tracked, folder: Path) -> None:
    from tensorboardX import SummaryWriter

    rows = "\n".join(f"| {name} | {value} |".replace("\n", " ") for name, value in tracked.settings.items())
    with SummaryWriter(logdir=str(folder)) as writer:
        for name, value in tracked.figures.items():
            writer.add_scalar(name, value, 0)
        writer.add_text("headline", tracked.headline, 0)
        writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)


def _tell_mlflow(tracked: Tracked, _: Path) -> None:
    import mlflow  # pyright: ignore[reportMissingImports]

    mlflow.set_experiment(tracked.experiment)
    with mlflow.start_run(run_name=tracked.run, description=tracked.headline), _written(tracked) as page:
        settings = [*tracked.settings.items()]
        for start in range(0, len(settings), _MAX_BATCH):
            mlflow.log_params(dict(settings[start : start + _MAX_BATCH]))
        mlflow.log_metrics(dict(tracked.figures))
        mlflow.log_artifact(str(page))


def _tell_wandb(tracked: Tracked, _: Path) -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    project = tracked.experiment.replace(" ", "-")
    given = {"name": tracked.run, "notes": tracked.headline, "config": dict(tracked.settings)}
    with wandb.init(project=project, **given) as run, _written(tracked) as page:
        run.summary.update(dict(tracked.figures))
        artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9._-]", "-", tracked.run), type="report")
        artifact.add_file(str(page))
        run.log_artifact(artifact)


@contextmanager
def _written(tracked: Tracked) -> Iterator[Path]:
    """Write the report's page to a file for the time of the block."""
    with temporary_folder("report") as folder:
        page = Path(folder) / PAGE
        page.write_text(tracked.page, encoding="utf-8")
        yield page


_TRACKERS: Mapping[str, Callable[[Tracked, Path], None]] = {
    "tensorboard": _tell_tensorboard,
    "mlflow": _tell_mlflow,
    "wandb": _tell_wandb,
}
