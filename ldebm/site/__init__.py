"""What the report site shows, as plain values and SVG; ``stages/report.py`` renders the pages."""
