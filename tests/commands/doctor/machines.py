"""Machines that are not there."""

from hydra_ray.commands.doctor.machine import GIGABYTE, Gpu, Machine, Torch

RTX_4090 = Gpu(name="NVIDIA GeForce RTX 4090", memory_bytes=24564 << 20, free_bytes=24100 << 20, capability=(8, 9))
A100 = Gpu(name="NVIDIA A100-SXM4-80GB", memory_bytes=81920 << 20, free_bytes=81200 << 20, capability=(8, 0))
T4 = Gpu(name="Tesla T4", memory_bytes=15360 << 20, free_bytes=15000 << 20, capability=(7, 5))
V100 = Gpu(name="Tesla V100", memory_bytes=32768 << 20, free_bytes=32000 << 20, capability=(7, 0))


def machine(
    *gpus: Gpu, driver: str = "580.95.05", cuda: str | None = "13.0", num_cpus: int = 16, memory_gigabytes: int = 64
) -> Machine:
    """A machine with these GPUs."""
    return Machine(
        num_cpus=num_cpus,
        memory_bytes=memory_gigabytes * GIGABYTE,
        available_bytes=memory_gigabytes * GIGABYTE,
        gpus=gpus,
        driver=driver if gpus else "",
        torch=Torch(version="2.13.0", cuda=cuda),
    )
