"""Data sets: published ones and folders of images, as arrays."""
