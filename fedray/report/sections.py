"""All sections of a report, in order."""

from fedray.report.class_figures import class_section
from fedray.report.curve_figures import curve_sections
from fedray.report.figure import Section
from fedray.report.grid_figures import partition_section, setting_section
from fedray.report.spread_figures import spread_section
from fedray.report.study import Study
from fedray.report.time_figure import time_section


def all_sections(study: Study) -> list[Section]:
    """The sections that these results have data for."""
    makers = (curve_sections, setting_section, class_section, partition_section, spread_section, time_section)
    return [section for make in makers for section in make(study)]
