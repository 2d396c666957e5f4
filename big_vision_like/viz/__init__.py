"""Functions from arrays to pictures, that only need NumPy and OpenCV."""
