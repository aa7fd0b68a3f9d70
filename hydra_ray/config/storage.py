"""The section `storage`."""

import re

from pydantic import Field, field_validator

from hydra_ray.config.section import Section

_NO_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(/|$)(?!/[^/])")
"""Begins like a URI, but names no bucket after two slashes."""


class StorageConfig(Section):
    """Storage root: where everything that lasts is kept. Changes no result."""

    root: str
    """Folder that all nodes share, or s3://bucket/folder; no other kind of URI. A relative folder is for one machine
    only. Runs under one root share the results of stages by content."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/@?#]+$")
    """URL of the S3 store that holds every s3:// location, such as http://minio:9000. Null takes the environment's
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else AWS."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Region of the S3 store. Null takes the environment's AWS_REGION or AWS_DEFAULT_REGION, else the bucket's
    region."""

    compact_after: int = Field(default=30, ge=0)
    """Number of updates of a run that are not compacted yet, from which on `hydra-ray update` compacts all of them: who
    reads everybody's newest head and history then reads one table in their place. 0 leaves it to `hydra-ray
    compact`."""

    @field_validator("root")
    @classmethod
    def _check_root(cls, root: str) -> str:
        """Neither may a slip in a URI become a folder of that name, nor nothing the working directory."""
        if not root.strip() or _NO_LOCATION.match(root):
            raise ValueError(f"got {root!r}, expected an absolute folder or s3://bucket/folder")
        return root
