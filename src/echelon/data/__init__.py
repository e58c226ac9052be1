"""Episodes on disk, and the windows that training sees."""
