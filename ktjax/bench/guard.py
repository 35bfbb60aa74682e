"""Whether ratios have become worse than those that are kept in ratios.json.

Ratios, not seconds: what they compare was measured in turns, on one machine. Smaller is better.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ktjax import files

KEPT = Path(__file__).parent / "ratios.json"
ALLOWED = 1.15  # times what is kept


def run(*, measured: str, kept: str) -> dict[str, Any]:
    """Compares the file that `step --json` has written with one that is kept.

    Returns:
      For each pair that both have, each ratio with the kept one, and `worse`, how many are above.

    Raises:
      SystemExit: some are, or there was nothing to compare; which a script wants to know.
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
    return said | {"worse": 0}


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
