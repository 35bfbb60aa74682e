import jax
import pytest

from ktjax import progress


@pytest.mark.parametrize(
    ("joined", "process", "silent"), [(False, 0, False), (True, 0, False), (True, 1, True)]
)
def test_one_process_shows_bars(joined, process, silent, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: joined)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    with progress.bar(range(3), desc="work", leave=False) as bar:
        assert bar.disable == silent
        assert list(bar) == [0, 1, 2]
