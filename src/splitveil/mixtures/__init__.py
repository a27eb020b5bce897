"""Gaussian mixtures of features."""

from splitveil.mixtures.class_mixture import ClassMixture
from splitveil.mixtures.kmeans import fit_centroids, nearest_centroid

__all__ = ["ClassMixture", "fit_centroids", "nearest_centroid"]
