"""Checks that ratios have not become worse than those kept in ratios.json.

Ratios, not seconds, as both sides were measured in turns, on one machine; and of memory. Smaller is
better, except that ratio_stored and ratio_parts grow where frozen models get faster: keep the new
ones if step_s is smaller for the same seconds of PyTorch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ktjax import files

KEPT = Path(__file__).parent / "ratios.json"
ALLOWED = 1.15  # times the kept ratio


def run(*, measured: str, kept: str) -> dict[str, Any]:
    """Compares the file that `step --json` wrote with a kept one.

    Returns:
      Each ratio with the kept one, for the pairs in both files, and `worse`, how many got worse. If
      pairs or ratios are kept and not measured, these, too, and `not_checked` at the end.

    Raises:
      SystemExit: some ratios got worse, or there is nothing to compare; so that scripts fail.
    """
    found, before = (files.read_json(Path(file)) for file in (measured, kept))
    compared = compare(found, before)
    if not compared:
        raise SystemExit(f"ktjax.bench: {measured} and {kept} have no pair in common.")
    said = {name: f"{now:.3f}, kept {then:.3f}" for name, (now, then) in compared.items()}
    worse = [name for name, (now, then) in compared.items() if now > ALLOWED * then]
    if worse:
        lines = "\n".join(f"  {name}: {said[name]}" for name in worse)
        raise SystemExit(f"ktjax.bench: worse by more than {ALLOWED - 1:.0%}:\n{lines}")
    missing = left_out(found, before)
    said |= dict.fromkeys(missing, "not measured")
    incomplete = {"not_checked": f"{len(missing)} of the kept, named above"} if missing else {}
    return said | {"worse": 0} | incomplete


def compare(
    found: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """(now, then) of each ratio, by pair and name, that both files have."""
    return {
        f"{pair}: {name}": (value, before[pair][name])
        for pair, numbers in found.items()
        for name, value in numbers.items()
        if name.startswith("ratio_") and name in before.get(pair, {})
    }


def left_out(
    found: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What is kept and was not measured: pairs, and ratios of the others, named as in `compare`."""
    missing = []
    for pair, numbers in before.items():
        if pair not in found:
            missing.append(pair)
            continue
        ratios = [name for name in numbers if name.startswith("ratio_")]
        missing += [f"{pair}: {name}" for name in ratios if name not in found[pair]]
    return missing
