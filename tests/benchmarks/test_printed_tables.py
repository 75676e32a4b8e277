"""What benchmarks print: a table, and as the last line one JSON object of the same figures."""

import json

import pytest
from rich.console import Console

from benchmarks import metrics_at_size, resnet_ensemble


def test_scores_at_size_are_a_table_before_the_json(capsys):
    small = ["--images", "20", "--classes", "3", "--members", "2", "--block", "10"]
    assert metrics_at_size.main(small) == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    rows = {cells[0].strip(): cells[1].strip() for line in table if len(cells := line.strip("│┃").split("│")) == 3}
    assert float(rows["brier"]) == pytest.approx(found["measures"]["brier"]["value"], rel=1e-5)  # six digits
    assert float(rows["most memory above the start, MiB"]) == pytest.approx(found["peak_above_start_mib"], abs=0.5)
    assert len(rows) == 5 + len(found["measures"])


TIMED = {
    "members": 4, "depth": 20, "width": 16, "jax_first_call_s": 30.0, "jax_steps_per_s": 1.25, "jax_s": 12.8,
}  # fmt: skip
PEER = {
    "torch_form": "channels last, 2 threads", "torch_steps_per_s": 1.0, "torch_s": 16.0, "speedup_over_torch": 1.24,
    "logit_difference": 3e-6,
}  # fmt: skip


@pytest.mark.parametrize(("figures", "rows"), [(TIMED, 1), (TIMED | PEER, 2)])
def test_programs_that_train_ensembles_have_a_row_each(figures, rows, capsys):
    table = resnet_ensemble.table(figures)
    assert table.row_count == rows
    Console(width=160).print(table)
    said = capsys.readouterr().out
    assert ("PyTorch" in said) == ("logits of the same weights differ by 3.0e-06" in said) == (rows == 2)
