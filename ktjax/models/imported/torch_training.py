"""A torch module in training mode: whether it drops anything, and is otherwise the same.

BatchNorm stays in evaluation mode, and evaluate.py trains its nodes. So the two graphs may differ
only in what is drawn at random, and must give the same without it.
"""

import copy
import importlib
from collections.abc import Sequence
from typing import Any

from ktjax.models.imported.graph import Call, Node

_TOLERANCE = 1e-3  # of the logits' spread


def drops(module: Any, size: tuple[int, int]) -> bool:
    """Whether a module draws random numbers in training mode, as dropout and stochastic depth do.

    Rates have many names, or none, so torch is asked: a copy is run, on the CPU in float32. One
    that cannot be run counts, too: tracing it will say why.
    """
    torch = importlib.import_module("torch")
    trained = in_training(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        try:
            trained(torch.zeros(2, 3, *size))
        except Exception:  # modules raise any kind
            return True
        return not torch.equal(before, torch.get_rng_state())


def averages_all(module: Any) -> bool:
    """Whether BatchNorm averages over all batches, as with momentum=None, traced as 0."""
    torch = importlib.import_module("torch")
    kind = torch.nn.modules.batchnorm._BatchNorm
    parts = [part for part in module.modules() if isinstance(part, kind)]
    return any(part.momentum is None and part.running_mean is not None for part in parts)


def in_training(module: Any) -> Any:
    """A copy in training mode, except for BatchNorm."""
    torch = importlib.import_module("torch")
    module = copy.deepcopy(module).train()
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    return module


def check_same(evaluated: Any, trained: Any, size: tuple[int, int]) -> None:
    """Raises ValueError unless two programs give the same logits without random draws."""
    torch = importlib.import_module("torch")
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = evaluated.module()(image)
        found = _in_the_mean(trained, image)
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"in training mode it returns {len(found)} tensors.")
    if found.shape != expected.shape:
        raise ValueError(f"in training mode it returns {[*found.shape]}, not {[*expected.shape]}.")
    apart, spread = (found - expected).abs().max(), expected.std()
    if not apart <= _TOLERANCE * spread:  # both are 0 if the last layer is
        raise ValueError(
            f"in training mode its logits differ, by {float(apart / spread):.0e} of their spread."
        )


def _in_the_mean(program: Any, image: Any) -> Any:
    """What a program returns if each random draw is replaced by its mean."""
    torch = importlib.import_module("torch")
    aten = torch.ops.aten

    class Undrawn(torch.fx.Interpreter):
        """Runs the nodes of a program."""

        def run_node(self, n: Any) -> Any:
            keep = _share_kept(n, aten)
            if keep is not None:
                return torch.full_like(self.env[n.args[0]], keep)
            if n.op == "call_function" and n.target is aten.bernoulli.p:
                return torch.full_like(self.env[n.args[0]], n.args[1])
            if n.op == "call_function" and n.target is aten.bernoulli.default:
                return self.env[n.args[0]]
            if n.op == "call_function" and n.target is aten.native_dropout.default:
                return self.env[n.args[0]], None
            return super().run_node(n)

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if target is aten.scaled_dot_product_attention.default:
                args = (*args[:4], 0.0, *args[5:])
                kwargs = {name: value for name, value in kwargs.items() if name != "dropout_p"}
            return super().call_function(target, args, kwargs)

    return Undrawn(program.module(), garbage_collect_values=False).run(image)


def _share_kept(node: Any, aten: Any) -> float | None:
    """`c` of floor(rand + c), with which transformers draws masks; None: another node."""
    if node.op != "call_function" or node.target is not aten.floor.default:
        return None
    total = node.args[0]
    if total.op != "call_function" or total.target is not aten.add.Tensor:
        return None
    drawn, keep = total.args
    if getattr(drawn, "target", None) is aten.rand.default and isinstance(keep, float):
        return keep
    return None


def with_drawn_masks(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The nodes, with floor(rand + c), which has no mean of its own, as a Bernoulli draw."""
    by_name = {call.name: call for call in calls}

    def drawn(call: Call) -> Call:
        if call.op != "floor" or not isinstance(call.args[0], Node):
            return call
        total = by_name.get(call.args[0].name)
        if total is None or total.op != "add.Tensor" or not isinstance(total.args[0], Node):
            return call
        source = by_name.get(total.args[0].name)
        if source is None or source.op != "rand" or not isinstance(total.args[1], float):
            return call
        return call._replace(op="bernoulli.p", args=(Node(source.name), total.args[1]))

    return tuple(map(drawn, calls))
