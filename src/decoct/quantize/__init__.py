"""Methods that let weights share few values: k-means, 16-bit floats, grids."""
