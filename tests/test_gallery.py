"""``docs/losses.md``: every loss has a figure, figures show the functions as they are, and the page is current."""

import importlib
import inspect
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from lastlayer import loss

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).parent.parent
PLACES = [15, 47, 85, 118, 149]  # away from the kinks and jumps


@pytest.fixture(scope="module")
def gallery():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield importlib.import_module("gallery")


@pytest.fixture(scope="module")
def drawn(gallery):
    """Every curve, by the name of the loss and its own: what draws it, and what is drawn."""
    return {
        (each.name, name): (curve, gallery.evaluated(each, curve))
        for each in gallery.LOSSES
        for name, curve in each.named.items()
    }


def test_every_public_loss_has_an_entry(gallery):
    public = {name for name, kind in vars(loss).items() if name[0] != "_" and inspect.isfunction(kind)}
    names = [each.name for each in gallery.LOSSES]
    without = importlib.import_module("gallery_losses").NO_CURVE
    assert len(names) == len(set(names)) and not without & set(names)
    assert public - without <= set(names), public - without - set(names)


def test_the_gallery_is_current(gallery):
    gallery.run(check=True)


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("losses.md", lambda text: text.replace("logsumexp(logits)", "log(sum(exp(logits)))"), "docs/losses.md"),
        ("losses/focal.svg", lambda text: re.sub(r"(?<= )100,\d", "100,9", text), "docs/losses/focal.svg"),
        ("losses/dpo.svg", None, "docs/losses/dpo.svg"),
        ("losses/gone.svg", lambda text: "<svg/>", "docs/losses/gone.svg"),
    ],
    ids=["page", "figure", "missing", "left over"],
)
def test_what_is_out_of_date_is_named(gallery, monkeypatch, tmp_path, name, change, said):
    wanted = {
        key: text for key, text in gallery.pages().items() if key in ("losses.md", "losses/focal.svg", "losses/dpo.svg")
    }
    monkeypatch.setattr(gallery, "pages", lambda: wanted)
    monkeypatch.setattr(gallery, "DOCS", tmp_path)
    gallery.run(check=False)
    gallery.run(check=True)
    path = tmp_path / name
    if change is None:
        path.unlink()
    else:
        path.write_text(change(wanted.get(name, "")), "utf-8")
    with pytest.raises(SystemExit, match=rf"^out of date: {re.escape(said)}\. "):
        gallery.run(check=True)
    gallery.run(check=False)
    gallery.run(check=True)


def test_a_tenth_of_a_unit_is_another_machine_and_more_is_not(gallery, tmp_path):
    path = tmp_path / "x.svg"
    path.write_text('<polyline points="0,1.2 2,3"/>')
    assert gallery.current(path, '<polyline points="0,1.3 2,3"/>')
    assert not gallery.current(path, '<polyline points="0,1.4 2,3"/>')
    assert not gallery.current(path, '<polyline points="0,1.2 2,3 4,3"/>')
    assert not gallery.current(path, '<polygon points="0,1.2 2,3"/>')


def test_every_curve_is_finite(drawn):
    for names, (_, curve) in drawn.items():
        assert curve.at.shape == curve.value.shape == curve.slope.shape == (161,), names
        assert np.isfinite(curve.value).all() and np.isfinite(curve.slope).all(), names
        assert np.ptp(curve.value) > 0.1 and np.ptp(curve.at) > 0, names


def test_every_gradient_is_that_of_the_curve(drawn):
    step = 1e-5
    for names, (function, curve) in drawn.items():
        at = torch.tensor(curve.at[PLACES])
        slope = (function(at + step) - function(at - step)) / (2 * step)
        np.testing.assert_allclose(curve.slope[PLACES], slope.numpy(), rtol=1e-5, atol=1e-7, err_msg=str(names))


def test_a_figure_shows_the_numbers(gallery):
    """Read back from the picture: the loss at both ends of the first line, by the ticks of its axis."""
    (each,) = (each for each in gallery.LOSSES if each.name == "bpr")
    root = ElementTree.fromstring(gallery.figure(each))
    svg = "{http://www.w3.org/2000/svg}"
    ticks = {
        float(text.text.replace("−", "-")): float(text.get("y")) - 4
        for text in root.iter(f"{svg}text")
        if text.get("text-anchor") == "end"
    }
    assert set(ticks) == {8.0, 0.0, -1.0}
    (line,) = (line for line in root.iter(f"{svg}polyline") if line.get("class") == "hue0")
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    unit = (ticks[0.0] - ticks[8.0]) / 8
    assert points[0] == (0, pytest.approx(ticks[0.0] - unit * np.log1p(np.exp(8)), abs=0.11))
    assert points[80] == (160, pytest.approx(ticks[0.0] - unit * np.log(2), abs=0.11))
    assert points[160] == (320, pytest.approx(ticks[0.0] - unit * np.log1p(np.exp(-8)), abs=0.11))


def test_an_axis_fits_its_figure(gallery):
    assert max(len(each.axis) for each in gallery.LOSSES) <= 58
