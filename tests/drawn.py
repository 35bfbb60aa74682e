"""Whether figures can be read: on a phone, and whatever the names are."""

from matplotlib.text import Text

from ktjax.analysis import rows
from ktjax.report import figures
from ktjax.report.pages import PAGES

SMALLEST = 6.5  # points, 8.7 pixels of a phone


def check(results):
    """Draws all figures of a job's page twice; returns the names of those that have data."""
    results = rows.read(results)
    drawings = [drawing for drawing in PAGES[results.job].drawings if drawing.rows(results)]
    for drawing in drawings:
        assert drawing.caption.endswith(".")
        for width in (figures.WIDE, figures.NARROW):
            check_figure(drawing.draw(results, width), width, drawing.name)
    return [drawing.name for drawing in drawings]


def check_figure(figure, width, name):
    """No text leaves the figure, none is too small, and it is as wide as it was asked to be."""
    assert figure.get_figwidth() <= width, name
    figure.draw_without_rendering()
    pixels = figure.get_figwidth() * figure.dpi
    unseen = {id(label) for axes in figure.axes for label in _beyond(axes)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in unseen:
            box = text.get_window_extent()
            told = f"{name}, {width} inches: {text.get_text()!r} {box}"
            assert text.get_fontsize() >= SMALLEST, told
            assert box.x0 >= -1 and box.x1 <= pixels + 1, told


def _beyond(axes):
    """The labels of ticks that are out of view, which Matplotlib has but does not draw."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)
