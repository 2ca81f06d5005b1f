"""Findings and pages from states."""

from lastlayer.report.finding import Finding as Finding
from lastlayer.report.report import Report as Report
from lastlayer.report.report import check as check
