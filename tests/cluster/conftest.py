"""An AWS for `ray up`, and a cluster that was started there."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ray_up import Commands, Started, bootstrapped, config_on_head, made_token, read_ray_up, start_head

if TYPE_CHECKING:
    from fault_s3 import FaultyS3


@pytest.fixture(scope="module")
def aws(s3: "FaultyS3", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder with a token, and an AWS that has the roles which the file names."""
    import boto3
    from ray.autoscaler._private.aws import config, node_provider, utils

    home = tmp_path_factory.mktemp("laptop")
    made_token(home)
    with pytest.MonkeyPatch.context() as patch:
        endpoint = {"AWS_ENDPOINT_URL": s3.endpoint, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
        for name, value in {**s3.environment, **endpoint}.items():
            patch.setenv(name, value)
        patch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
        caches = (utils.resource_cache, utils.client_cache, config._get_subnets_or_die)
        for cache in caches:
            cache.cache_clear()
        iam = boto3.client("iam", "us-east-1")
        for node in read_ray_up()["available_node_types"].values():
            name = node["node_config"]["IamInstanceProfile"]["Name"]
            if name not in {each["InstanceProfileName"] for each in iam.list_instance_profiles()["InstanceProfiles"]}:
                iam.create_instance_profile(InstanceProfileName=name)
        yield home
        for cache in caches:
            cache.cache_clear()


@pytest.fixture(scope="module")
def started(aws: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    import boto3

    config, commands = bootstrapped(read_ray_up()), Commands()
    start_head(config, commands)
    on_head = tmp_path_factory.mktemp("head")
    made_token(on_head)
    (aws / "ray_bootstrap_key.pem").write_text("a key")
    clients = boto3.client("iam", "us-east-1"), boto3.client("ec2", "us-east-1")
    return Started(config, commands, config_on_head(commands, on_head), *clients)
