"""Tables in Markdown, for the reports of the developer's tools."""

from sam_bench.report.markup import row as row
from sam_bench.report.markup import table as table
