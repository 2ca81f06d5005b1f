"""JSON records with one thing taken out or put in: what a reader must refuse in a sentence, or read."""

from hypothesis import strategies as st


def anything(words, keys, floats):
    """Any JSON value; ``words`` and ``keys`` are those that the reader knows."""
    plain = st.none() | st.booleans() | st.integers() | st.just(10**400) | floats | st.text(max_size=4)
    return st.recursive(
        plain | st.sampled_from(words),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=3),
        max_leaves=6,
    )


def tampered(draw, record, value):
    """``record`` changed in place at one drawn place: its key deleted, or its value replaced by one of ``value``."""
    *path, last = draw(st.sampled_from([place for place in _places(record) if place]))
    inner = record
    for step in path:
        inner = inner[step]
    if draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = draw(value)
    return record


def _places(record, path=()):
    yield path
    if isinstance(record, dict | list):
        for key in list(record) if isinstance(record, dict) else range(min(len(record), 2)):
            yield from _places(record[key], (*path, key))
