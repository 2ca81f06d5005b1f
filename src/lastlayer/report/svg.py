"""The elements of a drawing as SVG, with every text escaped; `chart` draws the report's with them."""

from html import escape


class Svg(str):
    """Markup that a template inserts as it is: every text in it went through `tag`, which escapes."""

    def __html__(self):
        return str(self)


def group(at, *content):
    return tag("g", *content, transform=f"translate({px(at[0])} {px(at[1])})")


def line(x1, y1, x2, y2, class_):
    return tag("line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2), class_=class_)


def text(x, y, words, anchor="middle", class_=None):
    extra = {} if class_ is None else {"class_": class_}
    return tag("text", words, x=px(x), y=px(y), text_anchor=anchor, **extra)


def tag(name, *content, **attributes):
    """An element; text in it and the values of its attributes are escaped, elements are not escaped again."""
    inside = "".join(part if isinstance(part, Svg) else escape(str(part)) for part in content)
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    listed = "".join(f' {key}="{escape(str(value))}"' for key, value in named.items())
    return Svg(f"<{name}{listed}>{inside}</{name}>")


def px(value):
    """A coordinate to a hundredth of a unit."""
    return f"{round(float(value), 2) + 0.0:.2f}".rstrip("0").rstrip(".")
