"""The plan of a library: what lies near what, in two dimensions.

Places are by t-SNE (van der Maaten and Hinton 2008) of the distances 1 - cosine. It keeps neighbours together
and says nothing of how far groups are apart; adapters of different tasks are nearly orthogonal, and a plane
that kept all distances (PCA, MDS) would show noise. It starts at the two main directions and draws nothing by
chance. Clusters are Ward's, on the unit vectors, as many as have the best silhouette; an adapter that is no
nearer to its cluster than to another is in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from weft.errors import ShapeError

NEAREST = 3
_MOST_CLUSTERS = 10  # as many colours as can be told apart
_PERPLEXITY = 6.0  # about so many neighbours pull on an adapter


@dataclass(frozen=True, eq=False)
class LibraryMap:
    """K adapters in the plane, each side of it from -1 to 1, with their clusters and cosines."""

    names: tuple[str, ...]
    cosine_KK: Float[np.ndarray, "K K"]
    place_K2: Float[np.ndarray, "K 2"]
    cluster_K: Int[np.ndarray, " K"]
    """Numbered from 0, the largest first; -1 is like no others."""

    @property
    def centres(self) -> tuple[int, ...]:
        """For each cluster the adapter that is nearest to all of its others."""
        return tuple(
            int(members[self.cosine_KK[np.ix_(members, members)].sum(1).argmax()])
            for members in (np.flatnonzero(self.cluster_K == c) for c in range(self.cluster_K.max() + 1))
        )

    @property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """For each adapter the three others (or fewer) with the largest cosine, nearest first."""
        others_KK = np.where(np.eye(len(self.names), dtype=bool), np.inf, -self.cosine_KK)
        count = min(NEAREST, len(self.names) - 1)
        return tuple(map(tuple, others_KK.argsort(1, kind="stable")[:, :count].tolist()))

    @property
    def kept(self) -> float:
        """Share of the adapters whose nearest one is also among the three nearest in the plane."""
        far_KK = np.square(self.place_K2[:, None] - self.place_K2).sum(-1)
        np.fill_diagonal(far_KK, np.inf)
        near = far_KK.argsort(1, kind="stable")[:, :NEAREST]
        return float(np.mean([n[0] in row for n, row in zip(self.neighbours, near, strict=True)]))


def lay_out(names: Sequence[str], cosine_KK: Float[np.ndarray, "K K"]) -> LibraryMap:
    """Place and cluster adapters by the cosines of every two.

    Raises ShapeError for fewer than two, names that do not fit, NaN, an adapter without direction (its cosine
    to itself is 0), and a library where all are equal.
    """
    count = len(names)
    if cosine_KK.shape != (count, count):
        raise ShapeError(f"{count} names for cosines of shape {list(cosine_KK.shape)}")
    if count < 2:
        raise ShapeError(f"a map needs at least two adapters, the library has {count}")
    if not np.isfinite(cosine_KK).all():
        raise ShapeError("a cosine is NaN or infinite, so nothing can be placed by it")
    nowhere = np.flatnonzero(cosine_KK.diagonal() < 0.5)
    if len(nowhere):
        raise ShapeError(f"{names[nowhere[0]]} changes nothing, so it has no place on a map; leave it out")
    if cosine_KK.min() > 1 - 1e-9:
        raise ShapeError(f"all {count} adapters are equal, there is nothing to tell apart on a map")
    cosine_KK = cosine_KK.astype(np.float64).clip(-1, 1)
    return LibraryMap(tuple(names), cosine_KK, _places(cosine_KK), _clusters(cosine_KK))


def _distances(cosine_KK: np.ndarray) -> np.ndarray:
    distance_KK = (1 - (cosine_KK + cosine_KK.T) / 2).clip(min=0)
    np.fill_diagonal(distance_KK, 0.0)
    return distance_KK


def _vectors(gram_KK: np.ndarray) -> np.ndarray:
    """Vectors with these inner products, their main directions last; each sign is set by its largest part."""
    square_K, direction_KK = np.linalg.eigh((gram_KK + gram_KK.T) / 2)
    largest_K = direction_KK[np.abs(direction_KK).argmax(0), np.arange(len(gram_KK))]
    return direction_KK * np.sign(largest_K) * np.sqrt(square_K.clip(min=0))


def _places(cosine_KK: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    count = len(cosine_KK)
    centred_KK = np.eye(count) - 1 / count
    start_K2 = _vectors(centred_KK @ cosine_KK @ centred_KK)[:, -2:]
    start_K2 = 1e-4 * start_K2 / start_K2.std()
    network = TSNE(
        metric="precomputed",
        init=start_K2.astype(np.float32),
        perplexity=min(_PERPLEXITY, (count - 1) / 2),
        method="exact" if count <= 1000 else "barnes_hut",
        random_state=0,
    )
    place_K2 = network.fit_transform(_distances(cosine_KK)).astype(np.float64)
    place_K2 -= place_K2.mean(0)
    # Along its main direction, and as wide as high: a picture is then full.
    place_K2 = place_K2 @ np.linalg.svd(place_K2, full_matrices=False)[2].T
    place_K2 -= (place_K2.max(0) + place_K2.min(0)) / 2
    return place_K2 / np.abs(place_K2).max(0).clip(min=1e-9)


def _clusters(cosine_KK: np.ndarray) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_samples

    count = len(cosine_KK)
    vectors_KD, distance_KK = _vectors(cosine_KK), _distances(cosine_KK)
    best, chosen_K = -np.inf, np.zeros(count, dtype=np.int64)
    for clusters in range(2, min(_MOST_CLUSTERS, count // 3) + 1):
        found_K = AgglomerativeClustering(clusters, linkage="ward").fit_predict(vectors_KD)
        score_K = np.asarray(silhouette_samples(distance_KK, found_K, metric="precomputed"))
        if score_K.mean() > best:
            best, chosen_K = score_K.mean(), np.where(score_K > 0, found_K, -1)
    sizes = np.bincount(chosen_K[chosen_K >= 0], minlength=1)
    kept = [cluster for cluster in np.argsort(-sizes, kind="stable") if sizes[cluster] > 1]
    number = {cluster: place for place, cluster in enumerate(kept)}
    return np.array([number.get(cluster, -1) for cluster in chosen_K])


def plan_to_dict(library: LibraryMap) -> dict[str, Any]:
    """JSON values: every adapter with place, cluster and nearest ones, every cluster with centre and size."""
    sizes = np.bincount(library.cluster_K[library.cluster_K >= 0]).tolist()
    return {
        "nearest_kept": library.kept,
        "clusters": [
            {"cluster": c, "centre": library.names[centre], "size": sizes[c]}
            for c, centre in enumerate(library.centres)
        ],
        "adapters": [
            {
                "name": name,
                "x": float(library.place_K2[k, 0]),
                "y": float(library.place_K2[k, 1]),
                "cluster": int(library.cluster_K[k]),
                "nearest": [
                    {"name": library.names[j], "cosine": float(library.cosine_KK[k, j])}
                    for j in library.neighbours[k]
                ],
            }
            for k, name in enumerate(library.names)
        ],
    }
