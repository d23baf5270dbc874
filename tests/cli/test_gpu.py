"""A whole run on a GPU agrees with the one on the CPU as far as rounding lets it."""

import pytest
import torch

from tests.cli.conftest import results

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu(orca, environment, small, precision):
    assert orca("run", *small, "device=cpu")[0] == 0
    code, _, err = orca("run", *small, "device=cuda", f"precision={precision}", "--force")
    assert code == 0, err
    cpu, gpu = results(environment)
    assert gpu["metric_value"]["before"] == pytest.approx(cpu["metric_value"]["before"], rel=1e-2)
    assert abs(gpu["error"]["value"] - cpu["error"]["value"]) < 0.2
