"""timm's families against goldens of timm's own, on weights that both draw by one rule.

Each golden architecture is compiled once, but for the first of a family without optimizations: only
the result matters here.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla
from flax import linen as nn
from flax import traverse_util
from goldens import rule

from ktjax import models
from ktjax.classifier import linen_forward
from ktjax.models.checkpoints import catalogue, layouts, weights
from ktjax.models.networks import convolution, layers, norms, pooling

GOLDENS = Path(__file__).parent / "goldens"
CLASSES = tuple(f"class {i}" for i in range(rule.CLASSES))
# Of `distance`.
TOLERANCE = 1e-5
# Architectures whose rounding errors add up to more, and why.
DEEP = {
    "resnet50_gn": 3e-5,  # the variances of 50 GroupNorms over all of the image
    "resnetblur50": 2e-5,  # 1.01e-5 where XLA optimizes all that it can
    "senet154": 5e-5,  # 154 layers
    "gmixer_12_224": 3e-5,  # values gate values: few outgrow all others, and their errors with them
    "efficientnet_x_b3": 3e-5,  # 36 blocks
    "mobilenetv1_100": 3e-5,  # no shortcuts: little of the images is left at the end
    # timm is as far from its own float64: their images come out alike, to 2 %.
    "regnetz_005": 1e-4,
    "regnetz_040": 1e-4,
    "regnety_040_sgn": 3e-5,  # 70 GroupNorms, down to 2x2 pixels
    # 50 norms of each image by itself, down to 2x2 pixels; timm is as far from its own float64.
    "resnetv2_50x1_bit": 4e-5,
    "resnetv2_50d_gn": 3e-5,
    "resnetv2_50d_evos": 3e-5,
    "resnetv2_50d_frn": 1e-4,
    "fbnetv3_b": 5e-5,  # 31 blocks: timm's own float32 is 2e-5 from its float64
    "mobilenetv4_hybrid_medium_075": 5e-5,  # likewise 1e-5
    "mobilenetv4_hybrid_large_075": 1e-4,  # likewise 4e-5
}
# Parameters that have no part in the result, by architecture. Attention's softmax does not see the
# bias of the keys.
IDLE = {
    # What is added to all logits of the attention.
    "test_vit_relpos": [(f"blocks.{i}", "attn.rel_pos", "mlp.fc2", "bias") for i in range(9)],
    "xcit_nano_12_p16_224": [(f"cls_attn_blocks.{i}", "attn", "k", "bias") for i in range(2)],
}


@functools.cache
def goldens(family):
    found = {}
    with np.load(GOLDENS / f"{family}.npz") as arrays:
        for key in arrays.files:
            architecture, _, name = key.partition("/")
            found.setdefault(architecture, {})[name] = arrays[key]
    return found


# Large or deep, seconds each: .ci/full runs them, and others of their families run by default.
LARGE = {
    *("senet154", "resnetrs50", "resnet50_gn", "resnetblur50", "resnet34d", "resnetaa50d"),
    *("resnetv2_50x1_bit", "resnetv2_50d_evos", "resnetv2_50t"),
    *("regnety_040_sgn", "regnetz_040", "regnetv_064", "regnetv_040"),
    *("convnext_small", "convnext_tiny_hnf", "convnextv2_tiny"),
    *("efficientnet_b1_pruned", "tf_efficientnet_b0", "efficientnet_b0_g8_gn", "efficientnet_x_b3"),
    *("mobilenetv4_hybrid_large_075", "mobilenetv4_conv_blur_medium", "mobilenetv4_conv_aa_medium"),
    *("fbnetv3_b", "swin_base_patch4_window12_384", "swin_s3_small_224"),
    *("swin_small_patch4_window7_224", "xcit_tiny_12_p16_384", "xcit_tiny_24_p8_224"),
    *("resmlp_36_224", "vit_dpwee_patch16_reg1_gap_256", "vit_dwee_patch16_reg1_gap_256"),
    *("resnetv2_50d_gn", "convnext_atto_rms", "convnext_nano_ols", "convnextv2_atto"),
    *("gc_efficientnetv2_rw_t", "tf_mixnet_s", "tf_efficientnetv2_b0"),
    *("mobilenetv3_rw", "tf_mobilenetv3_large_075", "mobilenetv4_hybrid_medium_075"),
    *("tf_mobilenetv3_small_minimal_100", "flexivit_small", "vit_relpos_medium_patch16_cls_224"),
    *("vit_relpos_small_patch16_rpn_224", "deit_small_distilled_patch16_224"),
    *("deit3_small_patch16_224", "deit3_medium_patch16_224", "swin_s3_tiny_224"),
    *("xcit_nano_12_p8_384", "xcit_small_12_p16_224"),
    *("pit_ti_distilled_224", "pit_xs_224", "pit_s_distilled_224", "pit_b_224"),
    *("gmixer_12_224", "gmlp_ti16_224", "mixer_s32_224"),
    *("resnetv2_50d_frn", "resnetv2_18d", "regnetx_004_tv", "convnext_atto_ols"),
    *("tf_efficientnet_cc_b0_4e", "tf_efficientnet_es", "efficientnet_lite0", "ecaresnet26t"),
}
CASES = [
    pytest.param(family, architecture, marks=[pytest.mark.full] * (architecture in LARGE))
    for family in models.FAMILIES
    for architecture in goldens(family)
]
each_case = pytest.mark.parametrize(("family", "architecture"), CASES)
each_family = pytest.mark.parametrize("family", models.FAMILIES)


def each_family_but(*slow):
    """Those that take long to compile, or have many parameters, are for .ci/full."""
    marks = {family: [pytest.mark.full] for family in slow}
    cases = [pytest.param(f, marks=marks.get(f, []), id=f) for f in models.FAMILIES]
    return pytest.mark.parametrize("family", cases)


def entries(golden):
    """timm's names with the weights of the rule."""
    lines = (line.split(" ") for line in golden["names"].tobytes().decode().splitlines())
    shapes = {name: tuple(map(int, filter(None, shape.split("x")))) for name, shape in lines}
    return {name: rule.weight(name, shape) for name, shape in shapes.items()}


@functools.cache
def classifier(family, architecture):
    golden = goldens(family)[architecture]
    size = (int(golden["size"]),) * 2
    options = json.loads(golden["options"].tobytes()) if "options" in golden else {}
    shapes, module = models.skeleton(architecture, CLASSES, size, options)
    return weights.fill(
        shapes,
        entries(golden),
        layout=layouts.timm,
        adapt=getattr(module, "adapt", None),
        made_for=size,
        where=Path(architecture),
    )


@functools.cache
def compiled(family, architecture):
    model = classifier(family, architecture)

    def forward(variables, x):
        return model.forward(variables, x, train=False, rngs=None, freeze_stats=False)[0]

    x = rule.images(model.input.size[0])
    # The first of a family runs hundreds of times.
    options = xla.OPTIMIZED if architecture == first_of(family) else None
    run = jax.jit(forward).lower(model.variables, x).compile(compiler_options=options)
    return lambda variables: jax.device_get(run(variables, x))


def distance(found, expected):
    """||found - expected|| / ||expected - its mean over the images||."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean(axis=0))


@each_case
def test_logits_and_features_are_timms(family, architecture):
    golden = goldens(family)[architecture]
    output = compiled(family, architecture)(classifier(family, architecture).variables)
    tolerance = DEEP.get(architecture, TOLERANCE)
    assert output.logits.shape == golden["logits"].shape
    assert distance(output.features, golden["features"]) < tolerance
    assert distance(output.logits, golden["logits"]) < tolerance
    assert (output.logits.argmax(axis=1) == golden["logits"].argmax(axis=1)).all()


@each_case
def test_weights_go_back_as_they_came(family, architecture):
    expected = entries(goldens(family)[architecture])
    found = weights.to_arrays(classifier(family, architecture), layout=layouts.timm)
    assert {k for k in found if not k.endswith("num_batches_tracked")} == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def first_of(family):
    return next(iter(goldens(family)))


@each_family_but("mobilenetv3", "regnet", "resnetv2", "swin_transformer", "deit", "pit")
def test_every_parameter_matters(family):
    """Left out, or with its numbers in another order, any of them fails the comparison above."""
    architecture = first_of(family)
    run, variables = compiled(family, architecture), classifier(family, architecture).variables
    expected = run(variables).logits
    flat = traverse_util.flatten_dict(variables)
    for path, leaf in flat.items():
        for changed in (jnp.zeros_like(leaf), jnp.roll(leaf.ravel(), 1).reshape(leaf.shape)):
            if path[1:] in IDLE.get(architecture, ()) or (leaf == changed).all():
                continue
            logits = run(traverse_util.unflatten_dict({**flat, path: changed})).logits
            assert distance(logits, expected) > 10 * TOLERANCE, path


def _without_dropout(call, arguments, keywords, context):
    if isinstance(context.module, nn.Dropout):
        return arguments[0]
    return call(*arguments, **keywords)


def lower_training(variables, module, x):
    """Loss, gradient and statistics of one batch in train mode, without dropout; not compiled."""
    forward = linen_forward(module)

    def loss_fn(params, x):
        everything = {**variables, "params": params}
        output, stats = forward(everything, x, train=True, rngs=None, freeze_stats=False)
        return jnp.mean(output.logits**2), stats

    step = jax.value_and_grad(loss_fn, has_aux=True)
    step = jax.vmap(step, in_axes=(None, 0), axis_name="batch")
    with nn.intercept_methods(_without_dropout):
        return jax.jit(step).lower(variables["params"], x)


@each_family_but("mobilenetv3", "swin_transformer")
def test_blocks_forget_their_activations_where_they_are_told_to(family, monkeypatch):
    # Ours for CPUs have barriers of their own.
    monkeypatch.setattr(convolution, "form_for", lambda *_, **__: None)
    monkeypatch.setattr(pooling, "_on_cpu", pooling._library)
    monkeypatch.setattr(norms, "_apart", lambda statistics: statistics)
    architecture, options = models.TESTING[family]
    x = jnp.zeros((1, 2, 64, 64, 3))
    for remat in (False, True):
        blank, module = models.skeleton(
            architecture, CLASSES, (64, 64), {**options, "remat": remat}
        )
        variables = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), blank.variables)
        lowered = lower_training(variables, module, x)
        assert ("optimization_barrier" in lowered.as_text()) == remat


@each_family_but(
    *("mobilenetv3", "regnet", "resnetv2", "swin_transformer"),
    *("deit", "pit", "vision_transformer_relpos"),
)
def test_a_step_of_training_is_timms(family):
    """Gradients of mean(logits^2) and BatchNorm's statistics, after one batch in train mode."""
    architecture = first_of(family)
    model, golden = classifier(family, architecture), goldens(family)[architecture]
    _, module = models.skeleton(architecture, CLASSES, model.input.size, model.options)
    x = rule.images(model.input.size[0])[None]
    run = lower_training(model.variables, module, x).compile()
    (loss, stats), gradient = jax.tree.map(lambda a: a[0], run(model.variables["params"], x))
    np.testing.assert_allclose(loss, golden["train/loss"], rtol=1e-4)
    trees = {"gradient": {"params": gradient}, "stats": {"batch_stats": stats} if stats else {}}
    idle = {".".join(path) for path in IDLE.get(architecture, ())}
    for kind, tree in trees.items():
        filled = dataclasses.replace(model, variables=tree)
        arrays = weights.to_arrays(filled, layout=layouts.timm) if tree else {}
        arrays = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
        start = f"train/{kind}/"
        wanted = {k.removeprefix(start): v for k, v in golden.items() if k.startswith(start)}
        assert set(arrays) == set(wanted)
        # Gradients of biases that the next BatchNorm takes away are 0, but for rounding errors.
        rounding = 1e-7 * max(norm for norm, _ in wanted.values()) if wanted else 0
        for name, array in arrays.items():
            # What is idle has a gradient of rounding errors.
            scale = golden["train/loss"] if name in idle else wanted[name][0]
            np.testing.assert_allclose(
                rule.projection(name, array),
                wanted[name],
                atol=1e-4 * scale + rounding,
                err_msg=name,
            )


@each_family
def test_dropout_and_stochastic_depth_are_timms(family):
    """Their rates, in the order in which they are applied."""
    architecture = first_of(family)
    model, golden = classifier(family, architecture), goldens(family)[architecture]
    options = {**model.options, "drop_rate": 0.2, "drop_path_rate": 0.3}
    _, module = models.skeleton(architecture, CLASSES, model.input.size, options)
    kinds = {nn.Dropout: "dropout", layers.DropPath: "drop_path"}
    found = {name: [] for name in kinds.values()}

    def watch(call, arguments, keywords, context):
        rate = getattr(context.module, "rate", 0)
        if type(context.module) in kinds and rate and context.method_name == "__call__":
            found[kinds[type(context.module)]].append(rate)
        return call(*arguments, **keywords)

    def run(variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return module.apply(variables, x, train=True, rngs=rngs)

    with nn.intercept_methods(watch):
        jax.eval_shape(run, model.variables, rule.images(model.input.size[0]))
    for name, rates in found.items():
        np.testing.assert_allclose(rates, golden[f"train/{name}"], rtol=1e-6, err_msg=name)


@each_family
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2))])
def test_computes_in_the_dtype_of_the_parameters(family, number):
    """One float32 in a branch would make all float32 that comes after it."""
    architecture = list(goldens(family))[number]
    size = (int(goldens(family)[architecture]["size"]),) * 2
    blank, module = models.skeleton(architecture, CLASSES, size, {})
    variables = {**blank.variables, "params": half(blank.variables["params"])}
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.bfloat16)
    output = jax.eval_shape(module.apply, variables, x)
    assert {output.logits.dtype, output.features.dtype} == {jnp.dtype(jnp.bfloat16)}


def half(shapes):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), shapes)


def once_per_block():
    """An interceptor: blocks of a network with equal attributes and inputs are traced once.

    In place of the parameters of the others stands one with as many numbers.
    """
    known = {}

    def call_or_recall(call, arguments, keywords, context):
        module = context.module
        if len(module.path) != 1 or context.method_name != "__call__":
            return call(*arguments, **keywords)
        attributes = tuple(
            (field.name, getattr(module, field.name))
            for field in dataclasses.fields(module)
            # How many blocks come before changes the gain of an attention, but no shape.
            if field.name not in ("name", "parent", "depth")
        )
        inputs = jax.tree.map(lambda a: getattr(a, "aval", a), (*arguments, *keywords.items()))
        key = (type(module), attributes, inputs)
        if key not in known:
            output = call(*arguments, **keywords)
            params = module.scope.variables().get("params", {})
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            known[key] = count, jax.tree.map(jnp.shape, output)
            return output
        count, shape = known[key]
        module.scope.param("all", nn.initializers.zeros, (count,))
        return jnp.zeros(shape)

    return call_or_recall


def check_numbers_of_parameters(architectures, monkeypatch):
    param = nn.Module.param

    def zeros(self, name, init_fn, *shape, **options):
        # How parameters begin takes most of the time, and has no part in how many they are.
        return param(self, name, nn.initializers.zeros if shape else init_fn, *shape, **options)

    monkeypatch.setattr(nn.Module, "param", zeros)
    timms = catalogue.TIMM["architectures"]
    for architecture in architectures:
        names = models.classes.numbered(timms[architecture]["classes"])
        with nn.intercept_methods(once_per_block()):
            blank, _ = models.skeleton(architecture, names, None, {})
        assert blank.num_parameters() == timms[architecture]["parameters"], architecture


def some_of(family):
    """Every sixteenth: variants of a kind follow one another in the tables."""
    return list(models.FAMILIES[family].VARIANTS)[::16]


@each_family
def test_numbers_of_parameters_are_timms(family, monkeypatch):
    check_numbers_of_parameters(some_of(family), monkeypatch)


@pytest.mark.full
@each_family
def test_numbers_of_parameters_of_the_other_variants_are_timms(family, monkeypatch):
    others = [name for name in models.FAMILIES[family].VARIANTS if name not in some_of(family)]
    check_numbers_of_parameters(others, monkeypatch)


# The tiny network of each family.


def test_every_family_has_a_tiny_network():
    assert set(models.TESTING) == set(models.FAMILIES)
    for family, (architecture, _) in models.TESTING.items():
        assert models.family(architecture) == family


@each_family
def test_a_tiny_network_goes_through_a_folder(family, tmp_path):
    architecture, options = models.TESTING[family]
    size = (64, 64)
    blank, _ = models.skeleton(architecture, CLASSES[:3], size, options)
    assert blank.num_parameters() < 700_000
    variables = jax.tree.map(lambda a: np.full(a.shape, 0.01, a.dtype), blank.variables)
    before = dataclasses.replace(blank, variables=variables)
    weights.export(before, tmp_path)
    after = models.load(str(tmp_path))
    assert (after.architecture, after.input.size, after.options) == (architecture, size, options)
    shapes = jax.eval_shape(after.apply, after.variables, jnp.zeros((2, 20, 20, 3), jnp.uint8))[0]
    assert shapes.logits.shape == (2, 3)
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)
