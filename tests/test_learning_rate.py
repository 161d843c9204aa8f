"""The schedules of the learning rate are those of transformers, which pretraining names."""

import pytest
import torch
from transformers import get_scheduler

from recbole_blair.learning_rate import rate_factor


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
def test_rates_equal_those_of_transformers(schedule, warmup):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs, rates = get_scheduler(schedule, optimiser, warmup, 11), []
    for _ in range(12):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()
    assert [rate_factor(step, schedule, warmup, 11) for step in range(12)] == rates
