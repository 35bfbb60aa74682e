"""A training step of `kl_dp`, the sum of its parts, and the same step in PyTorch.

Everything takes turns, and the ratios are what counts: other work on the machine slows all sides. A
whole step is the frozen initial student and teachers, partition, the student's forward and backward
pass, clipping and SGD with momentum, on uint8 images that are on the device. Its parts are the same
student with precomputed answers, and each frozen model alone, each compiled separately.

Measured on 2 idle cores of an AMD EPYC (Zen 5, AVX-512; 7 or 9 rounds, jax 0.10.2, torch 2.14.1,
timm 1.0.31, float32); below 1 ktjax is faster, or takes less memory. ratios.json next to this file
has these numbers; `python -m ktjax.bench guard` compares new ones to them:

                                             step / parts  eager  compile  memory
  glyphs/tiny_resnet_narrow <- tiny_mixer, 64    1.05       0.89    1.18     1.38
  resnet18 <- resnet50, 8                        0.91       1.02    1.28     1.75
  vit_small_patch16_224 <- convnext_tiny, 8      0.97       0.64    0.67     1.31
  mixer_b16_224 <- vit_base_patch16_224, 4       0.93       0.54    0.56     1.15

  from glyphs/tiny_mlp_narrow, batch 64, step / eager: tiny_mlp_narrow 0.39, tiny_mlp 0.43, tiny_vit
  0.69, tiny_mixer 0.70, tiny_convnext 0.78, tiny_resnet_narrow 0.86, tiny_resnet 0.95 (0.90 in
  another run), tiny_resnet_gn 1.00, tiny_resnet_wide 1.06 (1.01); 0.76 in the mean

So a step costs about what its parts do. How it compares with PyTorch depends on the machine, as
PyTorch's matrix products do: on another one with AVX-512, half as fast, the three large pairs took
0.97, 1.00 and 1.01 of eager's time (compile 1.10, 1.05, 1.04), without the forms of stems of
networks/convolution.py. For these pairs ratios.json keeps the larger ratio to PyTorch of both, not
those above.

What the forms have done, in ratios of one machine: the ResNets 1.19 -> 0.97 by Winograd's
convolutions and a gradient of max pooling of our own, the ViT 1.15 -> 1.00 and the Mixer 1.12 ->
1.01 by one of layer norm, tiny_resnet_gn 1.11 to 1.22 -> 1.00 by one of group norm; tiny_resnet
1.04 -> 0.90 to 0.95 and tiny_convnext 0.97 -> 0.78 by stems as matrix products.

What else takes time on a CPU: memory. With huge pages that stay with the process,
GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=100000000000
resnet18 <- resnet50 takes 0.54 s, not 0.61 (two runs of each, in turns); without `arena_max` 0.53
and 0.71, with `hugetlb` alone 0.71 and 0.74, with mmap_max and trim_threshold alone 0.61 and 0.62.
Splitting a batch in halves, so that XLA may compute their convolutions at once, gains nothing.

With precomputed answers of the frozen models (ratio_stored), a step takes 0.56 to 0.92 of the time.

Memory is what XLA plans and what PyTorch's profiler counts, without libraries' scratch space. With
XLA's xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED, a step takes of the usual (medians
of 5 rounds, of the zoo 9; from resnet18, or of the zoo from tiny_mlp_narrow):

              resnet18 <- resnet50  resnet50  regnety_008  convnext_tiny  efficientnet_b0  BiT 50x1
      memory                  0.60      1.04         0.74           0.91             0.85      0.90
      time                    0.91      1.07         1.13           1.02             1.02      0.99
              tiny_resnet_wide  _resnet  _resnet_gn  _resnet_narrow  _vit  _convnext  _mixer
      memory              0.62     0.69        0.81            0.65  0.79       0.70    0.80
      time                1.33     1.08        1.12            1.13  1.07       0.91    0.89

Nothing that is known before compiling tells who gains, so it is not used; on a CPU, XLA_FLAGS can
set it for all. An order forced on the step (frozen models first) changes nothing in memory.
"""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache

from ktjax import files, losses, models, objectives, optim, parallel, train
from ktjax.augment import make_views
from ktjax.classifier import Classifier
from ktjax.data import pipeline
from ktjax.experiment import workdir
from ktjax.models import registry
from ktjax.models.networks import convolution
from ktjax.objective import Objective, Outputs
from ktjax.targets import live

VARIANTS = ("eager", "channels_last", "compile")
_MACHINE = ("platform", "cpu_cores", "python", "jax")
_CLASSES = 1000  # of networks with random weights
_MATRIX = 2048  # the side of the matrices whose product measures the peak
_RATE = 0.01


class Pair(NamedTuple):
    """A student, its teachers, and their input."""

    student: Classifier
    teachers: tuple[Classifier, ...]
    image_BxHxWx3: np.ndarray  # uint8
    label_B: np.ndarray
    dtype: jnp.dtype


# one() does the work once, and returns when it is done.
Work = Callable[[], Any]


def run(
    *,
    student: str,
    teachers: str,
    batch_size: int,
    rounds: int,
    seconds: float,
    dtype: str,
    torch: str,
    library: bool,
    json_file: str | None,
) -> dict[str, Any]:
    """Measures a pair.

    Args:
      student, teachers: an architecture, with random weights and 1,000 classes, or a model as
        `ktjax.load_model` takes it; several teachers are joined by plus signs.
      batch_size: images per step.
      rounds: timed turns of each, after an untimed one.
      seconds: minimum length of a turn, which has at least one step.
      dtype: what both compute in: float32, or bfloat16 (in PyTorch: autocast).
      torch: VARIANTS of PyTorch to measure, joined by plus signs; empty: none.
      library: whether to also measure the step with XLA's own convolutions only, which takes
        minutes if a network has depthwise ones.
      json_file: a file to add the numbers of this pair to; None: no file.

    Returns:
      Seconds (medians of the rounds) and ratios (medians of the ratios of each round). A variant of
      PyTorch that cannot be measured has the reason instead.

    Raises:
      ValueError: no such model, models of different classes, or a batch that the devices cannot
        share.
    """
    if batch_size % jax.device_count():
        raise ValueError(
            f"--batch_size={batch_size}: {jax.device_count()} devices cannot share it."
        )
    pair = _pair(student, tuple(teachers.split("+")), batch_size, jnp.dtype(dtype))
    found: dict[str, Any] = {"student": student, "teachers": teachers}
    found |= {"batch_size": batch_size, "image_size": pair.image_BxHxWx3.shape[1], "dtype": dtype}
    works, facts = _ours(pair, library=library)
    found |= facts
    for name in filter(None, torch.split("+")):
        try:
            one, peak_mb = _torch(pair, name)
            found[f"torch_{name}_memory_mb"] = peak_mb()
            works[f"torch_{name}"] = one
        except (ImportError, ValueError) as error:
            found[f"torch_{name}"] = f"not measured: {error}"
    times = turns(works, rounds, seconds)
    found |= {f"{name}_s": float(np.median(times[name])) for name in times}
    found["input_wait_s"] = _input_wait(pair, works["step"], rounds)
    parts_R = sum(times[name] for name in times if name.startswith("part_"))
    found["parts_s"] = float(np.median(parts_R))
    found["ratio_parts"] = float(np.median(times["step"] / parts_R))
    # A step with precomputed answers, relative to one that runs the frozen models.
    found["ratio_stored"] = float(np.median(times["part_student"] / times["step"]))
    for name in times:
        if name.startswith(("torch_", "library")):
            ratio = f"ratio_{name.removeprefix('torch_')}"
            found[ratio] = float(np.median(times["step"] / times[name]))
    if "memory_mb" in found and "torch_eager_memory_mb" in found:
        found["ratio_memory"] = found["memory_mb"] / found["torch_eager_memory_mb"]
    found["images_per_s"] = batch_size / found["step_s"]
    found |= _peak(found, pair.dtype)
    environment = workdir.environment()
    found["device"] = jax.devices()[0].device_kind
    found |= {name: environment[name] for name in _MACHINE}
    if json_file is not None:
        key = f"{student} <- {teachers}, batch {batch_size}, {dtype}, {found['device']}"
        keep(Path(json_file), key, found)
    return found


def _pair(student: str, teachers: Sequence[str], batch_size: int, dtype: jnp.dtype) -> Pair:
    classifiers = [
        drawn(name) if name in registry.MODELS else models.load(name)
        for name in (student, *teachers)
    ]
    classes = {len(classifier.classes) for classifier in classifiers}
    if len(classes) > 1:
        raise ValueError(f"{student} and {', '.join(teachers)} have different classes: {classes}.")
    size = max(max(classifier.input.size) for classifier in classifiers)
    rng = np.random.default_rng(0)
    return Pair(
        classifiers[0],
        tuple(classifiers[1:]),
        rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
        rng.integers(0, classes.pop(), batch_size, np.int32),
        dtype,
    )


def drawn(architecture: str) -> Classifier:
    """A network with random weights, and as many classes as ImageNet."""
    created = registry.create(architecture, classes=[str(i) for i in range(_CLASSES)], seed=0)
    return dataclasses.replace(created, name=architecture)


def kl_dp() -> tuple[Objective, optax.GradientTransformation]:
    """The objective of a step, and its optimizer."""
    softening = losses.Softening(temperature=1.0, top_k=None, standardized=False)
    optimizer = optim.make_optimizer(
        "sgd",
        schedule=optax.constant_schedule,
        peak=_RATE,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    return objectives.make_kl_dp(softening=softening, top_k_of="target"), optimizer


def _ours(pair: Pair, *, library: bool) -> tuple[dict[str, Work], dict[str, float]]:
    """The step and its parts, compiled, and statistics from compiling the step."""
    objective, optimizer = kl_dp()
    answers = live.make_ask(pair.student, pair.teachers)
    asked = [
        live.frozen_variables(model, dtype=pair.dtype) for model in (pair.student, *pair.teachers)
    ]
    batch = {"image": pair.image_BxHxWx3, "label": pair.label_B}
    batch |= {"index": np.arange(len(pair.label_B)), "mask": np.ones(len(pair.label_B), bool)}
    on_devices = next(parallel.to_devices(iter([batch])))
    rows = len(pair.label_B) // jax.device_count()
    logits = jnp.zeros((rows, len(pair.student.classes)))

    def given(frozen, image, index_B, view) -> Outputs:
        del image, index_B, view
        said = [_Logits(logits_BxC) for logits_BxC in frozen]
        return Outputs(None, said[0], tuple(said[1:]))

    def compiled(teach: train.Teach, frozen: Any) -> tuple[Work, Any, int]:
        step = train.make_train_step(
            student=pair.student,
            teach=teach,
            objective=objective,
            optimizer=optimizer,
            slow=None,
            augment=make_views("none"),
            steps_per_epoch=1,
            dtype=pair.dtype,
            freeze_stats=True,
        )
        state = train.init_state(
            parallel.replicate(dict(pair.student.variables)),
            objective=objective,
            optimizer=optimizer,
            outputs=train.output_shapes(pair.student, pair.teachers, size=32),
            label_N=pair.label_B,
            slow=False,
            key=jax.random.key(0),
        )
        key = parallel.random_key(0)
        run_step = parallel.LAYOUTS["pmap"].compile(step)
        program = functools.partial(run_step.lower, state, frozen, on_devices, key)
        held = [parallel.replicate(state)]

        def one(batch=on_devices):
            held[0], metrics = run_step(held[0], frozen, batch, key)
            jax.block_until_ready(metrics)

        return one, program, sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    frozen = live.Frozen(asked[0], tuple(asked[1:]))
    step, program, state_bytes = compiled(answers, frozen)
    known = [parallel.replicate(logits)] * len(asked)
    works = {"step": step, "part_student": compiled(given, known)[0]}
    for i, (model, variables) in enumerate(zip((pair.student, *pair.teachers), asked, strict=True)):
        forward = parallel.compile_forward(lambda v, x, model=model: model.apply(v, x)[0].logits)
        ask = functools.partial(forward, variables, on_devices["image"])
        works["part_initial" if i == 0 else f"part_teacher_{i}"] = functools.partial(_done, ask)
    facts = _compiling(program, state_bytes)
    if library:
        with mock.patch.object(convolution, "form_for", lambda *_, **__: None):
            works["library"] = compiled(answers, frozen)[0]
            works["library"]()  # traces it while the other forms are disabled
    return works, facts


def _input_wait(pair: Pair, step: Callable[[Any], None], rounds: int) -> float:
    """Seconds that a step waits for its batch, as training makes and copies it: the median.

    The images are decoded, in memory: for files and augmentation see data.py.
    """
    copies = 4
    images = pipeline.Images(
        np.concatenate([pair.image_BxHxWx3] * copies), np.tile(pair.label_B, copies)
    )
    made = pipeline.train_batches(images, batch_size=len(pair.label_B), seed=0, first_step=0)
    waited = []
    with contextlib.closing(made):
        on_devices = parallel.to_devices(made)
        for _ in range(1 + rounds):
            begin = time.perf_counter()
            batch = next(on_devices)
            waited.append(time.perf_counter() - begin)
            step(batch)
    return float(np.median(waited[1:]))  # the first one starts threads


class _Logits(NamedTuple):
    """The output of a model, for an objective, with precomputed logits."""

    logits: jax.Array


def _done(ask: Callable[[], jax.Array]) -> None:
    jax.block_until_ready(ask())


def _compiling(program: Callable[[], Any], state_bytes: int) -> dict[str, float]:
    """Seconds to compile without and with JAX's cache, and the program's FLOPs and memory.

    Also how much of the state it writes over, rather than beside it: all, or memory is wasted.
    """
    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        try:
            compilation_cache.reset_cache()
            for name in ("compile_first_s", "compile_again_s"):
                jax.clear_caches()
                start = time.perf_counter()
                executable = program().compile()
                found[name] = time.perf_counter() - start
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()  # else it would keep writing to the folder
    costs, memory = executable.cost_analysis(), executable.memory_analysis()
    if costs is not None:
        found["gflop"] = costs["flops"] / 1e9
    if memory is not None:
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
        found["memory_mb"] = peak / 1e6
        found["donated_percent"] = 100 * memory.alias_size_in_bytes / state_bytes
    return found


def _peak(found: Mapping[str, Any], dtype: jnp.dtype) -> dict[str, float]:
    """The device's peak in a product of large matrices, and how much of it a step reaches."""
    a = jnp.ones((_MATRIX, _MATRIX), dtype)
    product = jax.jit(jnp.matmul)
    times = turns({"product": functools.partial(_done, lambda: product(a, a))}, 3, 0.1)
    peak = 2 * _MATRIX**3 / times["product"].min() / 1e9
    if "gflop" not in found:
        return {"peak_gflop_per_s": peak}
    share = found["gflop"] / found["step_s"] / peak
    return {"peak_gflop_per_s": peak, "share_of_peak_percent": 100 * share}


def turns(works: Mapping[str, Work], rounds: int, seconds: float) -> dict[str, np.ndarray]:
    """Seconds per call of each work, in each timed round: float [rounds]."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, one in works.items():
            done, start = 0, time.perf_counter()
            while not done or time.perf_counter() - start < seconds:
                one()
                done += 1
                if number == 0:
                    break  # the first compiles
            if number:
                times[name].append((time.perf_counter() - start) / done)
    return {name: np.array(of_rounds) for name, of_rounds in times.items()}


def _torch(pair: Pair, variant: str) -> tuple[Work, Callable[[], float]]:
    """The step in PyTorch, and what says how much memory it takes, in MB."""
    if variant not in VARIANTS:
        raise ValueError(f"'{variant}' is not one of {', '.join(VARIANTS)}")
    from ktjax.bench.in_torch import step  # needs torch and timm

    return step.make(
        [
            (model.architecture, len(model.classes), model.input)
            for model in (pair.student, *pair.teachers)
        ],
        image_BxHxWx3=pair.image_BxHxWx3,
        label_B=pair.label_B,
        variant=variant,
        bfloat16=pair.dtype == jnp.bfloat16,
        learning_rate=_RATE,
        on_gpu=jax.default_backend() == "gpu",
    )


def keep(file: Path, key: str, found: Mapping[str, Any]) -> None:
    """Writes the numbers of a run to a file of several, replacing those with the same key."""
    runs = files.read_json(file) if file.exists() else {}
    files.write_json(file, {**runs, key: dict(found)})
