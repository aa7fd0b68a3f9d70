from pathlib import Path

import pytest

from hydra_ray.commands.doctor.machine import GIGABYTE, disk_of, parse_gpus, this_machine

TWO = """\
0, GPU-aaaa, NVIDIA GeForce RTX 4090, 24564, 24090, 8.9, 580.95.05
1, GPU-bbbb, NVIDIA A100-SXM4-80GB, 81920, 81149, 8.0, 580.95.05
"""


def test_gpus_are_what_nvidia_smi_tells():
    gpus, driver = parse_gpus(TWO, visible=None)
    assert driver == "580.95.05"
    assert [gpu.name for gpu in gpus] == ["NVIDIA GeForce RTX 4090", "NVIDIA A100-SXM4-80GB"]
    assert [gpu.capability for gpu in gpus] == [(8, 9), (8, 0)]
    assert gpus[1].memory_bytes == 80 * GIGABYTE


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("1,0", 2), ("GPU-bb", 1), ("", 0), ("7", 0)])
def test_hidden_gpus_do_not_count(visible: str, count: int):
    assert len(parse_gpus(TWO, visible)[0]) == count


def test_what_nvidia_smi_says_of_a_failure_is_no_gpu():
    assert parse_gpus("No devices were found\n", visible=None) == ((), "")
    assert parse_gpus("0, GPU-cccc, GB10, [N/A], [N/A], 12.1, 580.95.05\n", visible=None) == ((), "580.95.05")


def test_this_machine_has_memory_and_cores():
    here = this_machine()
    assert here.num_cpus >= 1
    assert 0 < here.available_bytes <= here.memory_bytes
    assert here.torch.version


def test_the_disk_of_a_folder_that_is_not_there_is_that_of_the_folder_above(tmp_path: Path):
    assert disk_of(str(tmp_path / "not" / "there")).device == tmp_path.stat().st_dev
