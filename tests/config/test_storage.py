import pytest

from hydra_ray.config import StorageConfig


@pytest.mark.parametrize("root", ["", " ", "s3:", "s3:/", "s3://", "s3:/bucket/folder", "s3:///folder", "gs:/bucket/x"])
def test_a_root_that_is_no_location_says_what_is_expected(root: str):
    with pytest.raises(ValueError, match=r"expected an absolute folder or s3://bucket/folder"):
        StorageConfig(root=root)


@pytest.mark.parametrize("root", ["s3://bucket", "s3://bucket/folder", "/data", "~/data", "runs", "a:b/c"])
def test_a_root_that_is_a_location_is_taken(root: str):
    assert StorageConfig(root=root).root == root
