"""What a run is computed on."""

import torch

from lmlab.runs.provenance import computed_on


def test_a_run_that_goes_on_with_other_threads_says_both():
    cpu = torch.device("cpu")
    first = computed_on({}, cpu)
    assert first["threads"] == torch.get_num_threads()
    assert computed_on(first, cpu) == first  # nothing has changed
    n = torch.get_num_threads()
    torch.set_num_threads(n + 1)
    try:
        second = computed_on(first, cpu)
    finally:
        torch.set_num_threads(n)
    assert second == {**first, "threads": n + 1, "computed_before": [first]}
    assert computed_on(second, cpu)["computed_before"] == [first, {**first, "threads": n + 1}]
