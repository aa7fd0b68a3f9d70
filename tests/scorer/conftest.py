import pytest


@pytest.fixture(scope="session")
def one_torch_thread():
    """Many small steps wait for each other's threads longer than they compute."""
    import torch

    torch.set_num_threads(1)
