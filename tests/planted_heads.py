"""Heads of planted users, fitted without Tune, for the tests of the scorer."""

from dataclasses import replace

from hydra_ray.config import HeadsConfig
from hydra_ray.rows import ScoredUser, arrow_schema, from_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.kinds import head_kinds
from hydra_ray.scorer.heads.projection import SCHEMA
from hydra_ray.scorer.heads.selection import cohort_losses
from hydra_ray.scorer.heads.store import UserHead, heads_table, read_heads, read_lineage, scores_table
from hydra_ray.scorer.heads.tasks import HeadJob, make_bucket, make_prior, make_projected, make_trial
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.storage import read_part, write_row_groups


def head_job(root, features, fold=0, **settings):
    stage = Stage(name="planted.heads", fingerprint="h" * 16, root=str(root), num_buckets=features.num_buckets)
    config = HeadsConfig(**{"ranks": (4,), **settings})
    return HeadJob(
        features=features,
        stage=stage,
        prior_heads=stage,
        config=config,
        has_soft_targets=False,
        num_prefitted=0,
        base_name="base",
        fold=fold,
    )


def prepare(job):
    make_prior(job)
    for bucket in job.stage.buckets:
        make_projected(job, read_prior(job.prior_folder), bucket)


def fit_without_tune(job):
    prepare(job)
    fit_projected_buckets(job)


def fit_projected_buckets(job):
    head_prior = read_prior(job.prior_folder)
    kinds = head_kinds(job.config)
    cohorts = cohort_losses([make_trial(job, head_prior, kind.name, job.stage.buckets) for kind in kinds])
    for bucket in job.stage.buckets:
        make_bucket(job, head_prior, bucket, cohorts)


def scored(stage, fold=0):
    return {
        user.user_id: user
        for location in stage.parts(scores_table(fold))
        for user in from_table(read_part(location, arrow_schema(ScoredUser)), ScoredUser)
    }


def stored_heads(job):
    return [
        head
        for location in job.stage.parts(heads_table(job.fold))
        for table in read_heads(location, read_lineage(job.prior_folder))
        for head in from_table(table, UserHead)
    ]


def in_row_groups(job, size, root):
    """The same job at another place, its projected users in row groups of another size, and without any features."""
    stage = replace(job.stage, root=str(root))
    copied = replace(job, stage=stage, features=replace(job.features, root=str(root)))
    for bucket in stage.buckets:
        table = read_part(job.projected_part(bucket), SCHEMA)
        tables = [table.slice(start, size) for start in range(0, table.num_rows, size)]
        write_row_groups(copied.projected_part(bucket), table.schema, tables, {})
    return copied
