"""`lastlayer/__init__.py` names each public thing twice, for readers and type checkers and for loading on first use."""

import pathlib
import re

import lastlayer as ll


def test_the_list_to_read_is_the_list_that_loads():
    listed = re.findall(
        r"^    from lastlayer(?:\.(\w+))? import (\w+) as \2$", pathlib.Path(ll.__file__).read_text(), re.M
    )
    assert {name: home for home, name in listed if home} == ll._HOME
    assert {name for home, name in listed if not home} <= set(ll._STAGES)


def test_every_name_loads_and_an_unknown_one_is_an_attribute_error():
    for name in dir(ll):
        assert getattr(ll, name) is getattr(ll, name)
    assert not hasattr(ll, "sofmax")
