"""The report site: what it shows, as plain values and SVG, and its pages."""
