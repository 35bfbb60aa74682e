"""Classes by name: other orders, other names for the same, more, fewer; never by position."""

import dataclasses

import jax
import numpy as np
import pytest
import small_jobs

import ktjax
from ktjax import imagenet, models
from ktjax.experiment import accept, inputs
from ktjax.models.checkpoints import weights
from ktjax.settings.transfer import Transfer

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
PETS = ("ant", "bee", "cat", "dog")
WORDS, SYNSETS = imagenet.words(), imagenet.synsets()


def drawn(classes, seed=0):
    return models.create("tiny_mlp_narrow", classes=classes, seed=seed)


def logits(model):
    return np.asarray(model.apply(model.variables, IMAGES)[0].logits)


@pytest.fixture(scope="module")
def pets():
    return drawn(PETS)


def test_another_order_is_followed_by_name(pets, caplog):
    found = models.fitted(pets, ("dog", "ant", "cat", "bee"), "pets")
    assert found.classes == ("dog", "ant", "cat", "bee")
    np.testing.assert_array_equal(logits(found), logits(pets)[:, [3, 0, 2, 1]])
    assert "its classes are those of pets in another order" in caplog.text
    caplog.clear()
    assert models.fitted(pets, PETS, "pets") is pets
    assert not caplog.text


def test_what_is_exported_has_the_new_order(pets, tmp_path):
    found = models.fitted(pets, ("dog", "ant", "cat", "bee"), "pets", trained=True)
    weights.export(found, tmp_path)
    again = models.load(str(tmp_path))
    assert again.classes == ("dog", "ant", "cat", "bee")
    np.testing.assert_array_equal(logits(again), logits(found))


def test_of_more_classes_those_of_the_data_are_kept_and_renormalized(pets, caplog):
    found = models.fitted(pets, ("cat", "ant"), "pets")
    np.testing.assert_allclose(logits(found), logits(pets)[:, [2, 0]], rtol=1e-6)
    whole = jax.nn.softmax(logits(pets))[:, [2, 0]]
    expected = whole / whole.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(logits(found)), expected, rtol=1e-5)
    assert "of its 4 classes the 2 of pets are kept, and probabilities renorm" in caplog.text
    with pytest.raises(ValueError, match="has 4 classes, 2 of them those of pets: a student must"):
        models.fitted(pets, ("cat", "ant"), "pets", trained=True)


def test_shapes_go_the_same_way(pets):
    shapes = jax.eval_shape(lambda: dict(pets.variables))
    blank = dataclasses.replace(pets, variables=shapes)
    found = models.fitted(blank, ("cat", "ant"), "pets")
    expected = models.fitted(pets, ("cat", "ant"), "pets")
    assert jax.tree.map(lambda a: a.shape, found.variables) == jax.tree.map(
        lambda a: a.shape, dict(expected.variables)
    )


def test_fewer_classes_are_refused_with_what_lacks(pets):
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 classes of zoo: 'emu'.*=shared"):
        models.fitted(pets, ("ant", "bee", "emu"), "zoo")
    with pytest.raises(ValueError, match="different classes from cars: class 0 is 'ant' there"):
        models.fitted(pets, ("a", "b", "c", "d"), "cars")


def test_two_classes_of_one_name_are_nobodys():
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 classes of pets: 'bee'"):
        models.fitted(drawn(("ant", "bee", "bee", "cat")), ("ant", "bee", "cat"), "pets")


@pytest.mark.parametrize(
    ("theirs", "ours", "found"),
    [
        (["cat", "dog"], ["Cat", "cat"], [-1, 0]),  # never one for both
        (["cat", "dog"], ["CAT", "Cat"], [-1, -1]),
        (["A", "B", "a", "b"], ["b", "A", "a", "B"], [3, 0, 2, 1]),  # the very names
        (["A", "B"], ["b", "a"], [1, 0]),
        (["caf\u00e9", "tea"], ["tea", "cafe\u0301"], [1, 0]),  # accents taken apart
        (SYNSETS, ["notebook", "notebook computer"], [-1, -1]),
    ],
)
def test_a_class_is_taken_once(theirs, ours, found):
    assert models.places(theirs, ours).tolist() == found


def test_classes_without_names_are_taken_by_position_where_that_is_said():
    nameless = drawn(models.classes.numbered(4))
    with pytest.raises(ValueError, match=r"does not name its 4 classes.*config.classes to"):
        models.fitted(nameless, PETS, "pets")
    found = models.fitted(nameless, PETS, "pets", by_position=True)
    assert found.classes == PETS
    np.testing.assert_array_equal(logits(found), logits(nameless))
    with pytest.raises(ValueError, match="different classes from cars"):  # names that disagree
        models.fitted(found, ("a", "b", "c", "d"), "cars", by_position=True)


@pytest.mark.parametrize(
    ("theirs", "place"),
    [
        (WORDS, np.arange(1000)),
        (tuple(word.split(",")[0].upper() for word in WORDS), np.arange(1000)),
        (tuple(map(str, range(1000))), np.arange(1000)),
        (("background", *WORDS), np.arange(1, 1001)),
        (tuple(reversed(SYNSETS)), np.arange(1000)[::-1]),
        (tuple(sorted(map(str, range(1000)))), np.argsort(sorted(range(1000), key=str))),
    ],
)
def test_imagenets_classes_have_several_names(theirs, place):
    found = models.places(theirs, SYNSETS)
    if theirs[0] == WORDS[0].split(",")[0].upper():  # some first words are of two classes
        assert (found >= 0).mean() > 0.99
        found = np.where(found < 0, place, found)
    np.testing.assert_array_equal(found, place)
    assert (models.places(SYNSETS, [WORDS[0], "goldfish"]) == [0, 1]).all()
    assert (models.places(SYNSETS, ["goldfish", "Tinca_tinca"]) == [1, 0]).all()


@pytest.mark.parametrize(("count", "there"), [(21843, 999), (11821, 993), (11221, 991)])
def test_larger_imagenets_have_its_classes_among_theirs(count, there):
    config = {"num_classes": count, "pretrained_cfg": {}}
    names = models.classes.class_names(config)
    assert len(names) == count
    place_C = models.places(names, SYNSETS)
    assert (place_C >= 0).sum() == there
    assert all(names[place] == SYNSETS[i] for i, place in enumerate(place_C) if place >= 0)
    with_background = models.classes.class_names(config | {"num_classes": 1001})
    assert with_background[:2] == ("background", SYNSETS[0])


def test_where_the_head_is_unknown_a_teachers_logits_are_chosen():
    kernel = np.random.default_rng(0).normal(size=(12 * 12 * 3, 4)).astype(np.float32)
    own = ktjax.from_function(
        lambda p, x: x.reshape(len(x), -1) @ p["kernel"],
        {"kernel": kernel},
        size=(12, 12),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        classes=PETS,
    )
    found = models.fitted(own, ("dog", "ant"), "pets")
    np.testing.assert_allclose(logits(found), logits(own)[:, [3, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match="is your own module: give it the classes of the data"):
        models.fitted(own, ("dog", "ant", "cat", "bee"), "pets", trained=True)


def test_an_imported_graph_loses_classes(tmp_path):
    import imported_test as cases

    folder = cases.write("attentive", tmp_path)
    model = models.load(str(folder))
    place_C = np.asarray([4, 0, 7])
    found = models.select(model, place_C, ("a", "b", "c"), trained=True)
    image = np.random.default_rng(0).integers(0, 256, (2, *model.input.size, 3), np.uint8)
    whole, part = (jax.jit(m.apply)(dict(m.variables), image)[0].logits for m in (model, found))
    np.testing.assert_allclose(part, whole[:, place_C], atol=1e-5)
    weights.export(found, tmp_path / "out")
    assert models.load(str(tmp_path / "out")).classes == ("a", "b", "c")


def test_shared_classes_of_data_and_models(tmp_path):
    """What a job does with config.classes=shared, but for the job."""
    images = small_jobs.make_images(tmp_path / "images")
    config = small_jobs.transferring(images, "a", ["b"], classes="shared")
    settings = Transfer.read(config)
    loaded = inputs.load(settings)
    first, *others = loaded.dataset.classes
    models_of = {"a": drawn(("x", *others)), "b": drawn((*reversed(others), first))}
    found, fitted = inputs.with_shared_classes(loaded, models_of, trained=("a",))
    assert found.dataset.classes == tuple(others)
    assert {model.classes for model in fitted.values()} == {tuple(others)}
    np.testing.assert_array_equal(logits(fitted["a"]), logits(models_of["a"])[:, 1:])
    for name in ("train", "tune", "validation"):
        before, after = getattr(loaded.dataset, name), getattr(found.dataset, name)
        kept = np.flatnonzero(before.label_N != 0)
        np.testing.assert_array_equal(after.label_N, before.label_N[kept] - 1)
        assert [after.where(i) for i in range(len(kept))] == [before.where(i) for i in kept]
    with pytest.raises(ValueError, match="share no classes"):
        inputs.with_shared_classes(loaded, {"c": drawn(("x", "y"))}, trained=())


@pytest.mark.parametrize(("shared", "lost"), [((0, 2), "accept"), ((1, 3), "tune")])
def test_shared_classes_leave_images_in_every_split(shared, lost, tmp_path):
    """With an image of each class in tune, a half of it has two of the four classes."""
    images = small_jobs.make_images(tmp_path / "images", per_class=7)
    settings = Transfer.read(small_jobs.transferring(images, "a", ["b"], classes="shared"))
    loaded = accept.with_accept(settings, inputs.load(settings))
    classes = tuple(loaded.dataset.classes[i] for i in shared)
    models_of = {"a": drawn((*classes, "x")), "b": drawn(classes)}
    said = f"has no {lost} images of the 2 classes that all models have: use a larger config.min"
    with pytest.raises(ValueError, match=said):
        inputs.with_shared_classes(loaded, models_of, trained=("a",))
