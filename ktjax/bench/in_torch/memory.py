"""How much memory a step takes in PyTorch, from the allocations that its profiler sees."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_mb(step: Callable[[], None], held: Iterable[torch.Tensor], *, on_gpu: bool) -> float:
    """The most memory that is in use at once in a step, in MB (10^6 bytes).

    That is `held`, which exists before and after it, and what the step allocates beside them; on a
    CPU without the scratch space of libraries.
    """
    now = most = sum({x.data_ptr(): x.nbytes for x in held}.values())
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (now + torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    for event in sorted(changes, key=lambda event: event["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most / 1e6
