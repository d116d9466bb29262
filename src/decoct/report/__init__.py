"""The honest account of a run: one HTML page (`page`), and the table of all results (`results`)."""
