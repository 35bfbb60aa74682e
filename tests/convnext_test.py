"""What ConvNeXt's goldens do not reach."""

import math

import families_test
import jax
import jax.numpy as jnp
import numpy as np
from goldens import rule

from ktjax import models
from ktjax.models.networks import convnext


def test_hidden_layer_of_the_head_reads_the_features_and_has_an_exact_gelu():
    """As convnext_large_mlp has one, which is too large for a golden."""
    golden = families_test.goldens("convnext")["test_convnext"]
    trunk = families_test.classifier("convnext", "test_convnext")
    model, module = models.skeleton(
        "test_convnext", families_test.CLASSES, trunk.input.size, {"head_hidden_size": 32}
    )
    shapes = {
        name: {leaf: a.shape[::-1] for leaf, a in model.variables["params"][name].items()}
        for name in ("head.pre_logits.fc", "head.fc")
    }
    assert shapes["head.pre_logits.fc"] == {"kernel": (32, 64), "bias": (32,)}
    hidden, last = (
        {leaf: rule.weight(f"{name}.{leaf}", shape).T for leaf, shape in leaves.items()}
        for name, leaves in shapes.items()
    )
    params = {**trunk.variables["params"], "head.pre_logits.fc": hidden, "head.fc": last}
    output = jax.jit(module.apply)({"params": params}, rule.images(trunk.input.size[0]))
    z = golden["features"] @ hidden["kernel"] + hidden["bias"]
    expected = z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2
    assert families_test.distance(output.features, expected) < families_test.TOLERANCE
    expected = expected @ last["kernel"] + last["bias"]
    assert families_test.distance(output.logits, expected) < families_test.TOLERANCE


def test_a_channel_that_is_zero_all_over_the_image_has_finite_gradients():
    x = jnp.ones((2, 3, 3, 4)).at[:, :, :, 1].set(0)
    norm = convnext.GlobalResponseNorm()
    variables = {"params": {"scale": jnp.full(4, 2.0), "bias": jnp.ones(4)}}
    gradient = jax.grad(lambda x: norm.apply(variables, x).sum())(x)
    assert np.isfinite(gradient).all()
    # Nothing but the shortcut reaches it.
    np.testing.assert_array_equal(gradient[:, :, :, 1], 1)
