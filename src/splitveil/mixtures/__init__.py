"""Gaussian mixtures of features."""

from splitveil.mixtures.class_mixture import ClassMixture
from splitveil.mixtures.covariance import Covariance
from splitveil.mixtures.kmeans import fit_centroids, nearest_centroid
from splitveil.mixtures.projection import Projection
from splitveil.mixtures.streaming import fit_stream
from splitveil.mixtures.tiles import segment_mean

__all__ = [
    "ClassMixture",
    "Covariance",
    "Projection",
    "fit_centroids",
    "fit_stream",
    "nearest_centroid",
    "segment_mean",
]
