"""A calibrator for each group, or for each label."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs
from lastlayer._check import DataError
from lastlayer.calibrate import fit, from_json


def two_sites(seed=0, n=2000):
    """North is over-confident by 3, south under-confident by 2."""
    north, south = simulated.multiclass(seed, n, temperature=3.0), simulated.multiclass(seed + 1, n, temperature=0.5)
    z, y = np.concatenate([north.scores, south.scores]), np.concatenate([north.target, south.target])
    order = np.random.default_rng(seed).permutation(2 * n)
    return Outputs(z, "logits", target=y, groups={"site": np.repeat(["north", "south"], n)}).rows(order)


def test_each_group_has_its_own_temperature():
    outputs = two_sites()
    fitted = fit(outputs, "temperature", by="site")
    assert fitted.parts["north"].temperature == pytest.approx(3, rel=0.1)
    assert fitted.parts["south"].temperature == pytest.approx(0.5, rel=0.1)
    assert fitted.everyone.temperature == fit(outputs, "temperature").temperature
    for name, part in fitted.parts.items():
        mine = outputs.groups["site"] == name
        assert part.temperature == fit(outputs.rows(mine), "temperature").temperature
        np.testing.assert_array_equal(fitted.apply(outputs).scores[mine], part(outputs.scores[mine]))
    assert fitted.certificate.converged
    assert fitted.certificate.nll_after == pytest.approx(simulated.nll(fitted.apply(outputs)), rel=1e-12)
    assert fitted.certificate.nll_before == pytest.approx(simulated.nll(outputs), rel=1e-12)
    fresh = two_sites(seed=10)
    assert simulated.nll(fitted.apply(fresh)) < simulated.nll(fit(outputs, "temperature").apply(fresh)) - 0.02


def test_auto_chooses_in_each_group():
    calibrated = two_sites()
    north = calibrated.groups["site"] == "north"
    z = np.where(north[:, None], calibrated.scores, 2 * calibrated.scores)  # south is as it should be
    fitted = fit(replace(calibrated, scores=z), by="site")
    assert fitted.parts["south"].method == "identity"
    assert fitted.parts["north"].method != "identity"


def test_a_group_that_is_new_or_too_small_gets_the_calibrator_of_all():
    outputs = two_sites()
    groups = outputs.groups["site"].copy()
    groups[:9] = "west"
    fitted = fit(replace(outputs, groups={"site": groups}), "temperature", by="site")
    assert set(fitted.parts) == {"north", "south"}
    z = outputs.scores[:2]
    np.testing.assert_array_equal(fitted(z, ["west", "east"]), fitted.everyone(z))


def test_a_bound_is_named_with_its_group():
    outputs = two_sites()
    south = outputs.groups["site"] == "south"
    target = np.where(south, outputs.scores.argmax(1), outputs.target)  # in the south every row is right
    certificate = fit(replace(outputs, target=target), "temperature", by="site").certificate
    assert certificate.bound.startswith("site south: temperature >= ") and not certificate.converged


def test_json_both_ways_and_a_line_of_text():
    fitted = fit(two_sites(), "temperature", by="site")
    again = from_json(fitted.to_json())
    assert again == fitted and hash(again) == hash(fitted)
    assert str(fitted) == f"by_group: by site, temperature x 2, everyone {fitted.everyone}"


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_other_libraries(library):
    xp = pytest.importorskip(library)
    outputs = two_sites(n=200)
    fitted = fit(outputs, "temperature", by="site")
    z = outputs.scores.astype(np.float32)
    groups = outputs.groups["site"]
    np.testing.assert_allclose(np.asarray(fitted(xp.asarray(z), groups)), fitted(z, groups), rtol=1e-6)


def test_labels_each_have_their_own():
    one, other = simulated.binary(0, 3000, temperature=3.0), simulated.binary(1, 3000, temperature=0.5)
    z, y = np.stack([one.scores, other.scores], 1), np.stack([one.target, other.target], 1)
    outputs = Outputs(z, "logits", target=y, classes=["wet", "cold"])
    fitted = fit(outputs, "temperature", by="label")
    assert fitted.parts["wet"].temperature == fit(one, "temperature").temperature
    assert fitted.parts["cold"].temperature == fit(other, "temperature").temperature
    np.testing.assert_array_equal(fitted(z)[:, 0], fitted.parts["wet"](z[:, 0]))
    assert from_json(fitted.to_json()) == fitted
    assert fitted.certificate.nll_after < fit(outputs, "temperature").certificate.nll_after
    with pytest.raises(ValueError, match=r"fitted on 2 labels; these logits are \(3,\)"):
        fitted(np.ones(3))


def test_what_is_refused():
    outputs = two_sites(n=100)
    with pytest.raises(DataError, match="there is no grouping 'city' among site"):
        fit(outputs, "temperature", by="city")
    with pytest.raises(DataError, match="there is no grouping 'label'"):
        fit(outputs, "temperature", by="label")
    fitted = fit(outputs, "temperature", by="site")
    with pytest.raises(ValueError, match="call it with the 'site' of each row"):
        fitted(outputs.scores)
    with pytest.raises(ValueError, match="one group per row"):
        fitted(outputs.scores, ["north"])
    with pytest.raises(DataError, match="goes by 'site', and there is no such grouping here"):
        fitted.apply(replace(outputs, groups=None))
