"""Arguments of config files; and what importing costs."""

import pytest

from ktjax import config

SPEC = dict(model="tiny", size=24, rate=0.5, fast=False, teachers=("a",), seeds=(1,))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("arg", "name", "value"),
    [
        ("model=glyphs/tiny_vit", "model", "glyphs/tiny_vit"),
        ("size=32", "size", 32),
        ("rate=1e-4", "rate", 1e-4),
        ("rate=2", "rate", 2.0),
        ("fast", "fast", True),
        ("fast=true", "fast", True),
        ("fast=False", "fast", False),
        ("teachers=a", "teachers", ("a",)),
        ("teachers=a+b+c", "teachers", ("a", "b", "c")),
        ("teachers=", "teachers", ()),
        ("seeds=2+3", "seeds", (2, 3)),
        ("model=a=b", "model", "a=b"),
        ("size=1,size=2", "size", 2),
    ],
)
def test_parse_arg(arg, name, value):
    parsed = config.parse_arg(arg, **SPEC)
    assert parsed[name] == value
    assert type(parsed[name]) is type(SPEC[name])
    assert {k: v for k, v in parsed.items() if k != name} == {
        k: v for k, v in SPEC.items() if k != name
    }


@pytest.mark.parametrize("arg", [None, "", ","])
def test_parse_arg_of_nothing_gives_the_defaults(arg):
    assert config.parse_arg(arg, **SPEC).to_dict() == SPEC


def test_parse_arg_of_several():
    parsed = config.parse_arg("fast,size=3,teachers=x+y", **SPEC)
    assert (parsed.fast, parsed.size, parsed.teachers) == (True, 3, ("x", "y"))


def test_an_unknown_argument_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'modle'\. Known: fast, model, rate, seeds, size, teachers\.$"
    ):
        config.parse_arg("modle=tiny", **SPEC)


def test_of_many_names_the_nearest_are_told():
    known = ["xe", "kl", "kl_pool", "mutual", "hinton", "adaptconf", "kl_dp"]
    with pytest.raises(ValueError, match=r"Known: xe, .*, kl_dp\. Nearest: kl_dp, kl, "):
        config.check_choice("objectives", "kl_db", known)


def test_a_value_with_a_comma_is_given_as_a_flag():
    hint = r"If it belongs to 'model': values .* plus signs are given as --config.model=VALUE\.$"
    with pytest.raises(ValueError, match=rf"argument 'b\+c'\. Known: .*teachers\. {hint}"):
        config.parse_arg("model=a,b+c", **SPEC)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("size=big", "'size' must be of type int, not 'big'"),
        ("size=1.5", "'size' must be of type int, not '1.5'"),
        ("size", "'size' needs a value"),
        ("rate=fast", "'rate' must be of type float, not 'fast'"),
        ("fast=1", "'fast' must be true or false, not '1'"),
        ("seeds=1+b", "'seeds' must be of type int, not 'b'"),
    ],
)
def test_a_value_of_another_type_is_refused(arg, message):
    with pytest.raises(ValueError, match=message):
        config.parse_arg(arg, **SPEC)


def test_check_choice():
    config.check_choice("schedule", "cosine", ("constant", "cosine"))
    with pytest.raises(
        ValueError, match=r"config\.schedule='cos' is not known\. Known: constant, cosine\."
    ):
        config.check_choice("schedule", "cos", ("constant", "cosine"))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("imported", "absent"),
    [("ktjax.config", ["jax", "flax"]), ("ktjax", ["jax", "tensorflow", "torch", "numpy"])],
)
def test_importing_is_light(python, imported, absent):
    loaded = python(f"import sys, {imported}; print(*(m for m in {absent} if m in sys.modules))")
    assert loaded == []


def test_the_names_of_the_package_load_on_first_use(python):
    code = "import sys, ktjax; print(callable(ktjax.load_model), 'jax' in sys.modules)"
    assert python(code) == ["True", "True"]
    assert python("import ktjax; print(hasattr(ktjax, 'no_such_name'))") == ["False"]
