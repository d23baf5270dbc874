"""Every process of the tests has one thread, whatever the environment says (tests/conftest.py)."""

import os

import threadpoolctl
import torch


def test_one_thread_here_and_in_what_is_started():
    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert not {"MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"} & os.environ.keys()
